"""AdamW in four forms of state: as wide as the weights, in 8 bits, paged out to the host, or both.

Owns: which class that is, and its state in a checkpoint. Must not know: gradients, schedules.
Trap: a paged state is memory that the driver moves about. Saved as it is, it comes back as ordinary memory that still
calls itself paged; so it is saved as plain tensors and copied back into pages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, cast

import torch
from torch.optim.optimizer import Optimizer

from critique_rl.config.policy import OptimizerConfig
from critique_rl.errors import ConfigError, MissingExtraError

CLASSES = {"adamw_8bit": "AdamW8bit", "paged_adamw": "PagedAdamW", "paged_adamw_8bit": "PagedAdamW8bit"}
"""What bitsandbytes calls them."""

_MOMENTS = ("state1", "state2")


class _Pages(Protocol):
    def get_state_buffer(self, p: torch.Tensor, dtype: torch.dtype) -> torch.Tensor: ...


def build_optimizer(
    parameters: Iterable[torch.nn.Parameter], config: OptimizerConfig, device: torch.device
) -> Optimizer:
    """The optimiser of a run over the parameters that want a gradient.

    Decoupled weight decay, arXiv 1711.05101; state in 8 bits, arXiv 2110.02861. Errors: MissingExtraError, ConfigError
    without CUDA, or for weights that are split over processes, with what only bitsandbytes has.
    """
    trained = [p for p in parameters if p.requires_grad]
    betas = (config.beta1, config.beta2)
    if config.kind == "adamw":
        return torch.optim.AdamW(
            trained,
            lr=config.learning_rate,
            betas=betas,
            weight_decay=config.weight_decay,
            fused=True if device.type == "cuda" else None,
        )
    if device.type != "cuda":
        raise ConfigError(
            f"optimizer.kind = {config.kind!r} works on CUDA only, and the policy is on {device.type!r}; set it to "
            "'adamw', or policy.device to 'cuda'"
        )
    if any(hasattr(p, "full_tensor") for p in trained):
        raise ConfigError(
            f"optimizer.kind = {config.kind!r} cannot hold the state of weights that are split over processes; set it "
            "to 'adamw', which splits its state with them"
        )
    try:
        import bitsandbytes  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtraError("bitsandbytes", "bitsandbytes", f"optimizer.kind = {config.kind!r}") from None
    made = getattr(bitsandbytes.optim, CLASSES[config.kind])
    return cast(Optimizer, made(trained, lr=config.learning_rate, betas=betas, weight_decay=config.weight_decay))


def optimizer_state(optimizer: Optimizer) -> dict[str, object]:
    """The optimiser's state as plain tensors on the host, for `torch.save`."""
    return cast("dict[str, object]", _plain(optimizer.state_dict()))


@torch.no_grad()
def load_optimizer_state(optimizer: Optimizer, state: Mapping[str, object]) -> None:
    """Take up what `optimizer_state` gave, bit for bit; paged state goes back into pages.

    Errors: ValueError for the state of other parameters, or of torch's AdamW where it should be bitsandbytes', or the
    other way round.
    """
    held = cast("Mapping[int, Mapping[str, object]]", state["state"])
    if any(("exp_avg" in moments) != isinstance(optimizer, torch.optim.AdamW) for moments in held.values()):
        raise ValueError("its moments were kept by another optimizer.kind; set that one again")
    optimizer.load_state_dict(dict(state))
    if not getattr(optimizer, "is_paged", False):
        return
    for parameter, moments in optimizer.state.items():
        for name in _MOMENTS:
            saved = cast(torch.Tensor, moments[name])
            moments[name] = cast(_Pages, optimizer).get_state_buffer(parameter, dtype=saved.dtype)
            moments[name].copy_(saved)


def _plain(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return torch.empty_like(value, device="cpu").copy_(value)  # a clone of a paged tensor would keep its marks
    if isinstance(value, Mapping):
        return {key: _plain(held) for key, held in cast("Mapping[object, object]", value).items()}
    if isinstance(value, list):
        return [_plain(held) for held in cast("list[object]", value)]
    return value
