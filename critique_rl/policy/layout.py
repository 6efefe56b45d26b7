"""Whether a model computes the same in a packed layout as in the padded one, asked once before it is used.

Owns: the question, and what happens where the answer is no: one warning, and the next plainer layout. Models differ
(recurrent layers, windows, chunks, capped scores, forward passes that swallow arguments), so nothing is taken on trust.
The rows are made up, so that every process of a run gets the same answer. Must not know: losses, batches of a run.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor
from transformers import PretrainedConfig

from critique_rl.policy.attention import can_read_segments, without_segments
from critique_rl.policy.batching import Layout, micro_batches
from critique_rl.policy.head import ResponseHead
from critique_rl.types import TokenIds

logger = logging.getLogger(__name__)

LONGEST_WINDOW = 8192
"""Tokens of the longest attention window that is tried out; longer ones are not packed."""
KNOWN_LAYERS = frozenset({"full_attention", "sliding_attention"})


class Tolerance(NamedTuple):
    """How far log-probs may lie apart, in nats: any of them, and all on average."""

    most: float
    mean: float


TOLERANCES = {
    torch.float64: Tolerance(1e-9, 1e-9),
    torch.float32: Tolerance(1e-3, 1e-4),
    torch.bfloat16: Tolerance(0.5, 0.05),
    torch.float16: Tolerance(0.1, 0.01),
}
"""By compute type. Rounding alone stays well below; a token that sees another sequence lies far above."""


def usable_layout(head: ResponseHead, wanted: Literal["auto", "padded", "packed", "prefix"]) -> Layout:
    """The layout to batch with: `wanted` ("auto": packed on CUDA, padded elsewhere) if the model is right in it.

    Call it once, on every process alike and before the model is sharded, under the autocast that the model will run
    under. Leaves no graph and no gradient; the answer stays readable in `head.layout`.
    """
    if wanted == "padded" or (wanted == "auto" and head.model.device.type != "cuda"):
        return "padded"
    candidates: list[Layout] = ["prefix", "packed"] if wanted == "prefix" else ["packed"]
    reasons: list[str] = []
    for layout in candidates:
        reason = _why_not(head, layout)
        if reason is None:
            head.layout = layout
            break
        reasons.append(reason)
    else:
        head.layout = "padded"
        without_segments(head.model)
    if reasons:
        name, why = type(head.model).__name__, "; ".join(dict.fromkeys(reasons))
        logger.warning("%s runs in the %s layout, not the %s one: %s", name, head.layout, candidates[0], why)
    return head.layout


def _why_not(head: ResponseHead, layout: Layout) -> str | None:
    config = head.model.config.get_text_config()
    kinds = set(cast("list[str]", getattr(config, "layer_types", None) or []))
    window = _window(config, kinds)
    if not kinds <= KNOWN_LAYERS:
        return f"it has layers of the kind {', '.join(sorted(kinds - KNOWN_LAYERS))}"
    if window is not None and window > LONGEST_WINDOW:
        return f"its attention window of {window} tokens is too long to be tried out"
    layers = getattr(config, "num_hidden_layers", None)
    if not can_read_segments(head.model):
        return "its attention cannot be switched to one that keeps packed sequences apart"
    try:
        with torch.no_grad(), _without_dropout(head.model):
            wanted_N, found_N, readers = _both(head, layout, window)
    except (ValueError, TypeError, RuntimeError, IndexError, AttributeError, OSError) as error:
        lines = str(error).strip().splitlines()
        return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
    if readers != layers:
        return f"{readers} of its {layers} layers keep packed sequences apart"
    off_N = (found_N - wanted_N).abs().double()
    allowed = TOLERANCES[_compute_type(head.model)]
    if not bool(torch.isfinite(off_N).all()) or off_N.max() > allowed.most or off_N.mean() > allowed.mean:
        return f"log-probs differ from the padded layout's by up to {float(off_N.max()):.2g} nats"
    return None


def _both(head: ResponseHead, layout: Layout, window: int | None) -> tuple[Tensor, Tensor, int]:
    """Log-probs of the made-up rows in the padded layout and in `layout`, row after row, and how many layers read."""
    prompts, completions = made_up_rows(head.model.config.get_text_config(), window)
    device = head.model.device
    found: list[Tensor] = []
    readers = 0
    for tried in ("padded", layout):
        (batch,) = micro_batches(prompts, completions, max_tokens=1 << 30, pad_id=0, device=device, layout=tried)
        parts = head(batch, temperature=1.0).logprobs_N.split(batch.lengths)
        found.append(torch.cat([parts[batch.rows.index(i)] for i in range(len(prompts))]))
        readers = 0 if batch.segments is None else len(batch.segments.read_by)
    return found[0], found[1], readers


def made_up_rows(config: PretrainedConfig, window: int | None) -> tuple[list[TokenIds], list[TokenIds]]:
    """Three rows that share a prompt, one of them a single token, between two with prompts of their own.

    One of the three, and one of the two, is longer than a `window`.
    """
    vocabulary = int(cast(int, config.vocab_size))
    long = 11 if window is None else window + 3
    draw = torch.Generator().manual_seed(0)

    def ids(count: int) -> TokenIds:
        return tuple(torch.randint(0, vocabulary, (count,), generator=draw).tolist())

    shared = ids(6)
    prompts = [ids(3), shared, ids(9), shared, shared]
    return prompts, [ids(long), ids(1), ids(4), ids(long), ids(7)]


def _window(config: PretrainedConfig, kinds: set[str]) -> int | None:
    """Tokens of the model's sliding window, if one is in use and can be shorter than a sequence."""
    window = getattr(config, "sliding_window", None)
    longest = getattr(config, "max_position_embeddings", None)
    in_use = "sliding_attention" in kinds if kinds else getattr(config, "use_sliding_window", True)
    if not isinstance(window, int) or not in_use or (isinstance(longest, int) and window >= longest):
        return None
    return window


def _compute_type(model: torch.nn.Module) -> torch.dtype:
    weight = next(p for p in model.parameters() if p.is_floating_point())
    autocast = torch.is_autocast_enabled(weight.device.type) and weight.dtype == torch.float32
    return torch.get_autocast_dtype(weight.device.type) if autocast else weight.dtype


@contextlib.contextmanager
def _without_dropout(model: torch.nn.Module) -> Generator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
