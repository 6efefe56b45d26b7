"""Divergences between a student's and a teacher's next-token distribution on a truncated support.

Owns: the three kinds on top-K + tail bins, their safe gradients, and the closed-form gradient that tests them.
Must not know: which model is which, where the ids came from, masks over tokens.
Shape legend: N tokens, V vocabulary, K support ids, B bins (K, or K + 1 with the tail). S student, T teacher.
Padding: a column that is -inf on BOTH sides does not exist. A row with NaN, or with an infinite divergence, keeps
that value (it cannot pass unnoticed) with a gradient of exactly 0 (a zero weight is enough to leave it out).
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from critique_rl.ops.bins import log_bins, log_mass
from critique_rl.ops.precision import at_least_float32, require_same_shape

DivergenceKind = Literal["reverse", "forward", "jsd"]


class _Bins(NamedTuple):
    student_NB: Tensor
    teacher_NB: Tensor
    has_tail: bool


class _Unusable(NamedTuple):
    nan_N: Tensor
    infinite_N: Tensor


def topk_tail_divergence(
    student_logprobs_NK: Tensor,
    teacher_logprobs_NK: Tensor,
    *,
    kind: DivergenceKind,
    jsd_alpha: float = 0.5,
    tail: bool = True,
    whole_vocabulary: bool = False,
    tail_ratio_cap: float = 10.0,
    rescale_jsd: bool = False,
    entry_clip: float | None = None,
) -> Tensor:
    """D(S, T) over K ids and one tail bin with the rest of the mass, per token, in nats.

    reverse KL(S||T) = sum_b S_b log(S_b / T_b); forward KL(T||S); jsd (1-a) KL(S||M) + a KL(T||M), M = (1-a) S + a T.
    With the tail this is a lower bound of the full divergence, tight at K = V (self-distillation with feedback,
    arXiv 2601.20802; jsd: GKD, arXiv 2306.13649).

    Arguments: log-probs [N, K] at the same ids, each normalised over its FULL vocabulary; no gradient reaches the
    teacher. `whole_vocabulary`: the K columns are all of V, so no tail bin may be added (it would be a phantom of mass
    1e-7); on a shorter support it yields a raw sum that is no divergence. `tail=False` renormalises both sides over the
    K ids, which is blind to mass outside them. `tail_ratio_cap` bounds T_tail / S_tail in the GRADIENT of the forward
    kind, the value is not capped. `entry_clip` (forward only) bounds each bin's term from above; the sum may then be
    negative. `rescale_jsd` divides by a (1 - a), so that the scale does not change with `jsd_alpha`. -> [N].
    Raises ValueError for differing shapes or numbers out of range.
    """
    require_same_shape(student_logprobs_NK=student_logprobs_NK, teacher_logprobs_NK=teacher_logprobs_NK)
    _check_options(kind, jsd_alpha, tail_ratio_cap, entry_clip)
    student = at_least_float32(student_logprobs_NK)
    teacher = teacher_logprobs_NK.detach().to(student.dtype)
    nan_N, infinite_N = _unusable(student.detach(), teacher, kind)
    unusable_N1 = (nan_N | infinite_N).unsqueeze(-1)
    # A stand-in row keeps inf * 0 and NaN * 0 out of the backward pass; its value is replaced below.
    stand_in = student.new_full((), -math.log(student.shape[-1] + 1))
    student, teacher = torch.where(unusable_N1, stand_in, student), torch.where(unusable_N1, stand_in, teacher)

    bins = _bins(student, teacher, tail=tail, whole_vocabulary=whole_vocabulary)
    if bins.has_tail and kind == "forward":
        bins = _cap_tail_gradient(bins, tail_ratio_cap)
    entries_NB = _entries(bins, kind, jsd_alpha)
    if kind == "jsd" and rescale_jsd:
        entries_NB = entries_NB / (jsd_alpha * (1 - jsd_alpha))
    if entry_clip is not None:
        entries_NB = entries_NB.clamp(max=entry_clip)
    value_N = entries_NB.sum(dim=-1)
    value_N = torch.where(infinite_N, value_N.new_full((), math.inf), value_N)
    return torch.where(nan_N, value_N.new_full((), math.nan), value_N)


def full_divergence(
    student_logits_NV: Tensor, teacher_logits_NV: Tensor, *, kind: DivergenceKind, jsd_alpha: float = 0.5
) -> Tensor:
    """D(S, T) over the whole vocabulary, the dense reference of `topk_tail_divergence`; conventions as there.

    Logits [N, V] each -> [N]. Holds several [N, V] tensors: for tests, small vocabularies and diagnostics.
    """
    require_same_shape(student_logits_NV=student_logits_NV, teacher_logits_NV=teacher_logits_NV)
    return topk_tail_divergence(
        at_least_float32(student_logits_NV).log_softmax(dim=-1),
        at_least_float32(teacher_logits_NV.detach()).log_softmax(dim=-1),
        kind=kind,
        jsd_alpha=jsd_alpha,
        whole_vocabulary=True,
    )


def divergence_logit_gradient(
    student_logits_NV: Tensor,
    teacher_logprobs_NK: Tensor,
    ids_NK: Tensor,
    *,
    kind: DivergenceKind,
    jsd_alpha: float = 0.5,
    tail: bool = True,
    whole_vocabulary: bool = False,
    tail_ratio_cap: float = 10.0,
    rescale_jsd: bool = False,
) -> Tensor:
    """dD/dz of `topk_tail_divergence` in closed form: dz_v = S_v (c_bin(v) - sum_b S_b c_b), c_b = dD/dS_b.

    reverse c = log(S/T); forward c = -T/S (tail: at most `tail_ratio_cap` in size); jsd c = (1-a) log(S/M). All ids
    outside the support share the tail's c; with `tail=False` they get 0 and S is renormalised over the support.
    `teacher_logprobs_NK` and `ids_NK` [N, K]; a teacher entry of -inf is padding, whatever its id. -> [N, V], no graph.
    The reference for tests and for a fused backward. Raises ValueError as `topk_tail_divergence`, and if
    `whole_vocabulary` comes with K != V.
    """
    require_same_shape(teacher_logprobs_NK=teacher_logprobs_NK, ids_NK=ids_NK)
    _check_options(kind, jsd_alpha, tail_ratio_cap, None)
    n, v = student_logits_NV.shape
    if whole_vocabulary and ids_NK.shape[-1] != v:
        raise ValueError(f"whole_vocabulary is set, but ids_NK holds {ids_NK.shape[-1]} of {v} ids; wanted all of them")
    logprobs_NV = at_least_float32(student_logits_NV.detach()).log_softmax(dim=-1)
    teacher = teacher_logprobs_NK.detach().to(logprobs_NV.dtype)
    pad_NK = torch.isneginf(teacher)
    student = logprobs_NV.gather(-1, ids_NK.clamp(min=0)).masked_fill(pad_NK, -math.inf)
    bins = _bins(student, teacher, tail=tail, whole_vocabulary=whole_vocabulary)

    dead_NB = torch.isneginf(bins.teacher_NB)
    s, t = bins.student_NB.masked_fill(dead_NB, 0.0), bins.teacher_NB.masked_fill(dead_NB, 0.0)
    if kind == "reverse":
        c_NB = s - t
    elif kind == "forward":
        c_NB = -torch.exp(t - s)
        if bins.has_tail:
            c_NB[:, -1].clamp_(min=-tail_ratio_cap)
    else:
        c_NB = (1 - jsd_alpha) * (s - _log_mixture(s, t, jsd_alpha))
        if rescale_jsd:
            c_NB = c_NB / (jsd_alpha * (1 - jsd_alpha))
    c_NB = c_NB.masked_fill(dead_NB, 0.0)
    centred_NB = c_NB - (bins.student_NB.exp() * c_NB).sum(dim=-1, keepdim=True)

    k = ids_NK.shape[-1]
    outside_N1 = centred_NB[:, -1:] if bins.has_tail else torch.zeros_like(centred_NB[:, :1])
    # Column V collects the padding, which must not overwrite a real id.
    force = outside_N1.expand(n, v + 1).scatter(-1, ids_NK.masked_fill(pad_NK, v), centred_NB[:, :k])[:, :v]
    support_mass_N1 = log_mass(student) if not (tail or whole_vocabulary) else 0.0
    # Ids outside a renormalised support have force 0, and min() keeps their exponential from overflowing.
    return (logprobs_NV - support_mass_N1).clamp(max=0.0).exp() * force


def _bins(student_NK: Tensor, teacher_NK: Tensor, *, tail: bool, whole_vocabulary: bool) -> _Bins:
    return _Bins(
        log_bins(student_NK, tail=tail, whole_vocabulary=whole_vocabulary),
        log_bins(teacher_NK, tail=tail, whole_vocabulary=whole_vocabulary),
        has_tail=tail and not whole_vocabulary,
    )


def _cap_tail_gradient(bins: _Bins, cap: float) -> _Bins:
    """Same values; the gradient through the student's tail shrinks by min(1, cap S_tail / T_tail)."""
    tail_N1 = bins.student_NB[:, -1:]
    fixed_N1 = tail_N1.detach()
    factor_N1 = (math.log(cap) + fixed_N1 - bins.teacher_NB[:, -1:]).clamp(max=0.0).exp()
    capped_N1 = fixed_N1 + factor_N1 * (tail_N1 - fixed_N1)
    return bins._replace(student_NB=torch.cat([bins.student_NB[:, :-1], capped_N1], dim=-1))


def _entries(bins: _Bins, kind: DivergenceKind, jsd_alpha: float) -> Tensor:
    student, teacher = bins.student_NB, bins.teacher_NB
    if kind == "reverse":
        return _kl_entries(student, teacher)
    if kind == "forward":
        return _kl_entries(teacher, student)
    dead = torch.isneginf(student) & torch.isneginf(teacher)
    mixture = _log_mixture(student.masked_fill(dead, 0.0), teacher.masked_fill(dead, 0.0), jsd_alpha)
    return (1 - jsd_alpha) * _kl_entries(student, mixture) + jsd_alpha * _kl_entries(teacher, mixture)


def _kl_entries(p_NB: Tensor, q_NB: Tensor) -> Tensor:
    """p log(p / q) from log-probs, 0 where p = 0; both sides are replaced there before any arithmetic."""
    dead = torch.isneginf(p_NB)
    p, q = p_NB.masked_fill(dead, 0.0), q_NB.masked_fill(dead, 0.0)
    return (p.exp() * (p - q)).masked_fill(dead, 0.0)


def _log_mixture(student: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    return torch.logaddexp(math.log1p(-alpha) + student, math.log(alpha) + teacher)


def _unusable(student_NK: Tensor, teacher_NK: Tensor, kind: DivergenceKind) -> _Unusable:
    """Rows with NaN, and rows whose divergence is infinite because a possible id is impossible on the other side."""
    nan_N = (torch.isnan(student_NK) | torch.isnan(teacher_NK)).any(dim=-1)
    no_student, no_teacher = torch.isneginf(student_NK), torch.isneginf(teacher_NK)
    if kind == "reverse":
        return _Unusable(nan_N, (no_teacher & ~no_student).any(dim=-1))
    if kind == "forward":
        return _Unusable(nan_N, (no_student & ~no_teacher).any(dim=-1))
    return _Unusable(nan_N, torch.zeros_like(nan_N))


def _check_options(kind: DivergenceKind, jsd_alpha: float, tail_ratio_cap: float, entry_clip: float | None) -> None:
    if kind not in ("reverse", "forward", "jsd"):
        raise ValueError(f"kind is {kind!r}; wanted 'reverse', 'forward' or 'jsd'")
    if kind == "jsd" and not 0 < jsd_alpha < 1:
        raise ValueError(
            f"jsd_alpha is {jsd_alpha}; wanted 0 < jsd_alpha < 1; its ends are kind 'forward' and 'reverse'"
        )
    if not tail_ratio_cap > 0:
        raise ValueError(f"tail_ratio_cap is {tail_ratio_cap}; wanted a number above 0 (math.inf for no cap)")
    if entry_clip is not None and (kind != "forward" or not entry_clip > 0):
        raise ValueError(
            f"entry_clip is {entry_clip} with kind {kind!r}; wanted None, or a number above 0 with 'forward'"
        )
