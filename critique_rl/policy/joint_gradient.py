"""One gradient out of several: a pass over the step for each part of its loss, their inner products, their mixture.

Owns: the gradients that are held beside `.grad`, on every rank. Must not know: samples, losses, what a part is about.
Memory: each held gradient is as large as the trainable weights (a rank's share of them under FSDP2). Inner products are
of gradients that were added up over all ranks; repeated weights have them whole, split ones share by share.
Legend: P parts; gram_PP[p, q] = g_p . g_q.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from critique_rl.policy.parts import Part, SumPart, Sums
from critique_rl.policy.sharding import RankedHead


class _Take(NamedTuple):
    """What becomes of the gradient in `.grad`: `first` drops what was held before, `keep` holds it on."""

    first: bool
    keep: bool


class Passes(NamedTuple):
    """What the passes came to. A part without rows has no sums, and zeros in `gram_PP`."""

    sums: list[Sums | None]
    gram_PP: Tensor


class HeldGradients:
    """Called on the leading rank; the others do the same with their share of the weights."""

    def __init__(self, parameters: Callable[[], Iterable[torch.nn.Parameter]], ranked: RankedHead) -> None:
        self._parameters = parameters
        self._ranked = ranked
        self._held: list[list[Tensor | None]] = []
        crew = ranked.crew
        self._take = crew.duty("take gradient", self._take_share)
        self._mix = crew.duty("mix gradients", self._mix_share)

    def passes(self, parts: Sequence[Part], sum_part: SumPart, *, keep: bool) -> Passes:
        """The gradient of each part and their inner products. `keep` holds them for `mix`; else none is left, and one
        fewer is held meanwhile."""
        gram_PP = torch.zeros(len(parts), len(parts), dtype=torch.float64)
        sums: list[Sums | None] = [None] * len(parts)
        done: list[int] = []
        present = [p for p, part in enumerate(parts) if part.rows]
        for p in present:
            sums[p] = sum_part(parts[p])
            take = _Take(first=not done, keep=keep or p != present[-1])
            done.append(p)
            for q, inner in zip(done, self._take([take] * self._ranked.crew.size)[0], strict=True):
                gram_PP[p, q] = gram_PP[q, p] = inner
        if not keep:
            self._mix([None] * self._ranked.crew.size)
        return Passes(sums, gram_PP)

    def mix(self, coefficients: Sequence[float]) -> None:
        """Put sum_p c_p g_p into `.grad`, with one coefficient for each part that had rows; nothing is held on."""
        self._mix([list(coefficients)] * self._ranked.crew.size)

    # -- what every rank does ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def _take_share(self, take: _Take) -> list[float]:
        """Inner products of the gradient in `.grad` with those held before it, in their order, and with itself."""
        crew = self._ranked.crew
        with crew.together():
            if take.first:
                self._held = []
            parameters = list(self._parameters())
            latest = [p.grad for p in parameters]
            for parameter in parameters:
                parameter.grad = None
            inner = [_inner(latest, other) for other in [*self._held, latest]]
            if self._ranked.sharded:
                inner = crew.total(inner)
            if take.keep:
                self._held.append(latest)
        return inner

    @torch.no_grad()
    def _mix_share(self, coefficients: list[float] | None) -> None:
        held, self._held = self._held, []
        if coefficients is None:
            return
        with self._ranked.crew.together():
            for at, parameter in enumerate(self._parameters()):
                mixed: Tensor | None = None
                for coefficient, gradients in zip(coefficients, held, strict=True):
                    gradient = gradients[at]
                    if gradient is not None:
                        mixed = gradient.mul_(coefficient) if mixed is None else mixed.add_(gradient, alpha=coefficient)
                parameter.grad = mixed


def _inner(one: Sequence[Tensor | None], other: Sequence[Tensor | None]) -> float:
    """Their inner product over what this rank has of them, added up in float64."""
    total: Tensor | None = None
    for left, right in zip(one, other, strict=True):
        if left is None or right is None:
            continue
        mine, theirs = (x.to_local() if isinstance(x, DTensor) else x for x in (left, right))
        wide = torch.promote_types(mine.dtype, torch.float32)
        found = (mine.to(wide) * theirs.to(wide)).sum(dtype=torch.float64)
        total = found if total is None else total + found
    return 0.0 if total is None else float(total)


class Between(NamedTuple):
    """Two mixtures of the gradients: their norms, and their cosine, which is None where one is zero or not finite.

    A norm that is not finite stays so.
    """

    norm: float
    other_norm: float
    cosine: float | None


def between(gram_PP: Tensor, one_P: Tensor, other_P: Tensor) -> Between:
    """How the mixtures sum_p one_p g_p and sum_p other_p g_p lie to each other."""
    # The 0 comes second: max of (0, NaN) would be 0.
    norm, other = (math.sqrt(max(float(x @ gram_PP @ x), 0.0)) for x in (one_P, other_P))
    scale = norm * other
    if not (math.isfinite(scale) and scale > 0):
        return Between(norm, other, None)
    return Between(norm, other, max(-1.0, min(1.0, float(one_P @ gram_PP @ other_P) / scale)))
