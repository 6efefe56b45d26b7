"""Which optimiser a run gets, what keeps it from getting one, and its state through a checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from critique_rl.config.policy import OptimizerConfig
from critique_rl.errors import ConfigError, MissingExtraError
from critique_rl.policy.optimizers import CLASSES, build_optimizer, load_optimizer_state, optimizer_state

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
KINDS = list(CLASSES)


def config_of(kind: str = "adamw") -> OptimizerConfig:
    return OptimizerConfig.model_validate(
        {"kind": kind, "learning_rate": 0.1, "beta1": 0.8, "beta2": 0.9, "weight_decay": 0.5}
    )


class FakeAdam(torch.optim.Optimizer):
    """bitsandbytes' shape of things: quantised moments nested in the saved state, and marks on paged tensors."""

    def __init__(self, params: object, *, lr: float, betas: tuple[float, float], weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})  # pyright: ignore[reportArgumentType]
        self.is_paged = "Paged" in type(self).__name__
        self.pages: list[torch.Tensor] = []

    def get_state_buffer(self, p: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        buffer = torch.zeros_like(p, dtype=dtype)
        if self.is_paged:
            buffer.is_paged = True  # pyright: ignore[reportAttributeAccessIssue]
            self.pages.append(buffer)
        return buffer

    def step(self, closure: object = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for p in self.param_groups[0]["params"]:
            state = self.state[p]
            if not state:
                state |= {"step": 0, "absmax1": torch.ones(1)}
                state |= {name: self.get_state_buffer(p, torch.uint8) for name in ("state1", "state2")}
            state["step"] += 1
            state["state1"] += 3
            state["state2"] += 5

    def state_dict(self) -> dict[str, object]:
        whole = super().state_dict()
        whole["state"] = {i: {"step": s["step"], "nested": {**s}} for i, s in whole["state"].items()}
        return whole

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        states: dict[int, dict[str, object]] = state_dict["state"]  # pyright: ignore[reportAssignmentType]
        for i, p in enumerate(self.param_groups[0]["params"]):
            self.state[p] = dict(states[i]["nested"])  # pyright: ignore[reportArgumentType,reportCallIssue]


@pytest.fixture
def fake_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> dict[str, type]:
    made = {name: type(name, (FakeAdam,), {}) for name in ("AdamW8bit", "PagedAdamW", "PagedAdamW8bit")}
    module = ModuleType("bitsandbytes")
    module.optim = SimpleNamespace(**made)  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "bitsandbytes", module)
    return made


def test_adamw_takes_one_step_by_hand() -> None:
    # g = 2: both corrected moments are g and g^2, so w = 1 - lr * wd * 1 - lr * g / |g| = 1 - .05 - .1
    weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    frozen = torch.nn.Parameter(torch.ones(1), requires_grad=False)
    optimizer = build_optimizer(iter([frozen, weight]), config_of(), CPU)
    weight.grad = torch.full((1,), 2.0, dtype=torch.float64)
    optimizer.step()
    assert weight.item() == pytest.approx(0.85, abs=1e-8)
    assert [p for group in optimizer.param_groups for p in group["params"]] == [weight]
    assert frozen.item() == 1.0


def test_adamw_on_a_cpu_is_torchs_default_bit_for_bit() -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    (group,) = build_optimizer([weight], config_of(), CPU).param_groups
    assert group["fused"] is None and group["foreach"] is None


@pytest.mark.parametrize(("kind", "name"), CLASSES.items())
def test_the_kind_decides_the_class(kind: str, name: str, fake_bitsandbytes: dict[str, type]) -> None:
    optimizer = build_optimizer([torch.nn.Parameter(torch.ones(1))], config_of(kind), CUDA)
    assert type(optimizer) is fake_bitsandbytes[name]
    (group,) = optimizer.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.1, (0.8, 0.9), 0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_they_need_cuda_and_their_package(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = [torch.nn.Parameter(torch.ones(1))]
    with pytest.raises(ConfigError, match=rf"optimizer.kind = '{kind}' works on CUDA only.*set it to 'adamw', or"):
        build_optimizer(weight, config_of(kind), CPU)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtraError, match=rf"^optimizer.kind = '{kind}' needs bitsandbytes.*\[bitsandbytes\]'$"):
        build_optimizer(weight, config_of(kind), CUDA)


def test_weights_that_are_split_over_processes(fake_bitsandbytes: dict[str, type]) -> None:
    split = torch.nn.Parameter(torch.ones(1))
    split.full_tensor = lambda: split  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ConfigError, match="split over processes; set it to 'adamw'"):
        build_optimizer([split], config_of("adamw_8bit"), CUDA)
    assert build_optimizer([split], config_of(), CPU)


@pytest.mark.parametrize("kind", KINDS)
def test_their_state_comes_back_in_pages(kind: str, fake_bitsandbytes: dict[str, type], tmp_path: Path) -> None:
    first, second = (build_optimizer([torch.nn.Parameter(torch.ones(4))], config_of(kind), CUDA) for _ in range(2))
    first.step()
    first.step()
    torch.save(optimizer_state(first), tmp_path / "optimizer.pt")
    read = torch.load(tmp_path / "optimizer.pt", weights_only=True)
    assert not hasattr(read["state"][0]["nested"]["state1"], "is_paged")  # plain tensors in the file
    load_optimizer_state(second, read)
    (state,) = second.state.values()
    assert state["step"] == 2 and state["state1"].tolist() == [6] * 4 and state["state2"].tolist() == [10] * 4
    pages = second.pages  # pyright: ignore[reportAttributeAccessIssue]
    assert [state["state1"] is pages[0], state["state2"] is pages[1]] == [True] * 2 if "paged" in kind else not pages
    second.step()
    assert state["state1"].tolist() == [9] * 4


@pytest.mark.parametrize("kinds", [("adamw", "adamw_8bit"), ("paged_adamw", "adamw")])
def test_another_kinds_state_is_refused(kinds: tuple[str, str], fake_bitsandbytes: dict[str, type]) -> None:
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in kinds]
    first, second = (build_optimizer([w], config_of(kind), CUDA) for w, kind in zip(weights, kinds, strict=True))
    weights[0].grad = torch.ones(2)
    if kinds[0] == "adamw":
        first.param_groups[0]["fused"] = None  # there is no CUDA to fuse on
    first.step()
    with pytest.raises(ValueError, match=r"kept by another optimizer\.kind; set that one again"):
        load_optimizer_state(second, optimizer_state(first))


def test_adamws_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    def trained(steps: int) -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
        weight = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
        optimizer = build_optimizer([weight], config_of(), CPU)
        for _ in range(steps):
            step(weight, optimizer)
        return weight, optimizer

    def step(weight: torch.nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
        weight.grad = torch.tensor([0.1, -0.2, 0.7], dtype=torch.float64) * weight.detach()
        optimizer.step()

    weight, optimizer = trained(3)
    torch.save(optimizer_state(optimizer), tmp_path / "optimizer.pt")
    other, restored = trained(0)
    other.data.copy_(weight.data)
    load_optimizer_state(restored, torch.load(tmp_path / "optimizer.pt", weights_only=True))
    for _ in range(2):
        step(weight, optimizer)
        step(other, restored)
    assert torch.equal(weight, other)


def test_the_saved_state_is_a_copy() -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = build_optimizer([weight], config_of(), CPU)
    weight.grad = torch.ones(1)
    optimizer.step()
    saved = optimizer_state(optimizer)
    moment = optimizer.state[weight]["exp_avg"].clone()
    optimizer.step()
    assert torch.equal(saved["state"][0]["exp_avg"], moment)  # pyright: ignore[reportIndexIssue]
