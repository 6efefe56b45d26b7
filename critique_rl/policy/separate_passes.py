"""Objectives that are joined as gradients, and how far the two kinds of feedback pull against each other.

Owns: which parts of a step get a pass of their own, and what is reported of their gradients. Must not know: ranks,
micro-batches, where gradients are held, what an objective or a directive is about.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from critique_rl.ops.gradient_combiners import GradientCombiner, gradient_coefficients
from critique_rl.policy.joint_gradient import HeldGradients, between
from critique_rl.policy.parts import (
    Part,
    Penalties,
    SumPart,
    Sums,
    directive_part,
    evaluative_part,
    objective_parts,
    penalty_part,
)
from critique_rl.policy.pg_channel import PgTokens
from critique_rl.protocols import GRADIENT_CONFLICT
from critique_rl.types import TrainSample

EVALUATIVE_NORM, DIRECTIVE_NORM = "grad/norm_evaluative", "grad/norm_directive"
"""Reported beside the cosine, which is left out where a gradient is zero; nothing is where one is not finite."""


class Joined(NamedTuple):
    """What joined gradients came to: losses weighted as the gradients were, and the places of the rows in them."""

    sums: Sums
    places: set[int]
    figures: Mapping[str, float]


def measure_conflict(
    samples: Sequence[TrainSample], penalties: Penalties, *, held: HeldGradients, sum_part: SumPart
) -> dict[str, float]:
    """The cosine between the gradients of the policy-gradient channel and of the directive ones, and their norms.

    Empty where either has no rows. Two passes of their own over the rows of each, and no trace in `.grad`: the step
    that follows is the same bit for bit. Memory: one gradient is held.
    """
    directive = directive_part(samples)
    if not directive.rows:
        return {}
    evaluative = evaluative_part(samples, penalties)
    if not evaluative.rows:
        return {}
    passes = held.passes([evaluative, directive], sum_part, keep=False)
    return _conflict(passes.gram_PP, torch.tensor([1.0, 0.0]).double(), torch.tensor([0.0, 1.0]).double())


def joined_gradient(
    samples: Sequence[TrainSample],
    penalties: Penalties,
    *,
    method: GradientCombiner,
    seed: int,
    held: HeldGradients,
    sum_part: SumPart,
    measures: bool,
) -> Joined | None:
    """Put sum_k alpha_k g_k + g_penalties + g_directive into `.grad`; None if no part has a row.

    One pass and one held gradient for each objective, one for the penalties and one for the directive channels where
    they have rows. Errors: ConfigError for samples without objectives.
    """
    objectives = objective_parts(samples)
    others = [penalty_part(samples, penalties), directive_part(samples)]
    parts, count = [*objectives, *others], len(objectives)
    if not any(part.rows for part in parts):
        return None
    sums, gram_PP = held.passes(parts, sum_part, keep=True)
    weights_P = torch.ones(len(parts), dtype=torch.float64)
    # What is not finite is applied as it is, so that the step sees it and is skipped.
    if count and bool(gram_PP.isfinite().all()):
        weights_P[:count] = gradient_coefficients(gram_PP[:count, :count], method, seed=seed)
    coefficients = [float(weight) for weight in weights_P]
    held.mix([c for c, part in zip(coefficients, parts, strict=True) if part.rows])
    figures = _objective_figures(gram_PP[:count, :count], coefficients[:count])
    if measures and others[1].rows and any(part.rows for part in parts[:-1]):
        directive_P = torch.zeros_like(weights_P)
        directive_P[-1] = 1.0
        figures |= _conflict(gram_PP, weights_P - directive_P, directive_P)
    places = {place for part in parts for place in part.places}
    return Joined(_joined_sums(parts, sums, coefficients, count), places, figures)


def _joined_sums(parts: Sequence[Part], sums: Sequence[Sums | None], weights: Sequence[float], count: int) -> Sums:
    present = [(s, w) for s, w in zip(sums, weights, strict=True) if s is not None]
    # Of every row of the channel once if penalties had a pass, else of each objective's rows: the report takes means.
    penalties = sums[count]
    seen = [penalties] if penalties is not None else [s for s in sums[:count] if s is not None]
    counted = [sum(column) for column in zip(*(s.seen for s in seen), strict=True)]
    return Sums(
        loss=sum(w * s.loss for s, w in present),
        pg=sum(w * s.pg for s, w in present),
        distill=sum(w * s.distill for s, w in present),
        imitate=sum(w * s.imitate for s, w in present),
        seen=PgTokens(*counted) if counted else PgTokens(*[0.0] * len(PgTokens._fields)),
    )


def _objective_figures(gram_KK: Tensor, coefficients: Sequence[float]) -> dict[str, float]:
    norms_K = gram_KK.diagonal().clamp(min=0).sqrt()
    known = [k for k in range(len(coefficients)) if norms_K[k].isfinite()]
    on = [k for k in known if norms_K[k] > 0]
    cosines = [float(gram_KK[k, j] / (norms_K[k] * norms_K[j])) for k in on for j in on if j < k]
    return {
        **{f"objectives/alpha_{k}": alpha for k, alpha in enumerate(coefficients)},
        **{f"objectives/grad_norm_{k}": float(norms_K[k]) for k in known},
        **({"objectives/cosine_min": min(cosines)} if cosines else {}),
    }


def _conflict(gram_PP: Tensor, evaluative_P: Tensor, directive_P: Tensor) -> dict[str, float]:
    evaluative, directive, found = between(gram_PP, evaluative_P, directive_P)
    if not math.isfinite(evaluative + directive):
        return {}
    norms = {EVALUATIVE_NORM: evaluative, DIRECTIVE_NORM: directive}
    return norms if found is None else {**norms, GRADIENT_CONFLICT: found}
