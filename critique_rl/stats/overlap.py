"""How alike student and teacher are at a token, as far as the ids of one support show it.

Owns: the masses, the overlap and the entropy gap over the support's bins, and which ids two supports share. Must not
know: whose support it is, masks.
Shape legend: T tokens, K support ids, B = K + 1 bins (the last one holds the rest of the vocabulary).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]


class Overlap(NamedTuple):
    """Per token: each side's probability of the support, sum_b min(S_b, T_b), and H(T) - H(S) in nats."""

    student_mass_T: Floats
    teacher_mass_T: Floats
    overlap_T: Floats
    entropy_gap_T: Floats


def support_mass(logprobs_TK: Floats) -> Floats:
    """sum_v p_v over the support's ids: [T, K] log-probs normalised over the whole vocabulary -> [T], at most 1."""
    mass_T: Floats = np.minimum(np.exp(logprobs_TK).sum(axis=-1), 1.0)
    return mass_T


def support_overlap(student_logprobs_TK: Floats, teacher_logprobs_TK: Floats) -> Overlap:
    """Masses, overlap and entropy gap of two sides over the bins of one support.

    The overlap is 1 minus the total variation distance: 1 for equal sides, 0 where they share nothing. Merging ids
    into one bin hides differences: it is at least the overlap over the whole vocabulary, and each entropy is at most
    the whole one; both are exact where the support leaves out one id or none. Log-probs [T, K] at the same ids,
    normalised over the whole vocabulary. NaN stays where it is. Raises ValueError if the shapes differ.
    """
    if student_logprobs_TK.shape != teacher_logprobs_TK.shape:
        raise ValueError(
            f"student_logprobs_TK has shape {student_logprobs_TK.shape}, teacher_logprobs_TK "
            f"{teacher_logprobs_TK.shape}; wanted one shape: the same ids on both sides"
        )
    student_TB, teacher_TB = _bins(student_logprobs_TK), _bins(teacher_logprobs_TK)
    return Overlap(
        student_mass_T=support_mass(student_logprobs_TK),
        teacher_mass_T=support_mass(teacher_logprobs_TK),
        overlap_T=np.minimum(student_TB, teacher_TB).sum(axis=-1),
        entropy_gap_T=_entropy(teacher_TB) - _entropy(student_TB),
    )


def shared_places(ids_TK: Ids, other_ids_TL: Ids) -> Ids:
    """In which column of the other side's ids each id stands at the same token, -1 where it does not.

    [T, K] and [T, L], no id twice at a token -> [T, K]; so `(places >= 0).sum(axis=1)` is the number of shared ids.
    Raises ValueError for another number of tokens.
    """
    if ids_TK.ndim != 2 or other_ids_TL.ndim != 2 or len(ids_TK) != len(other_ids_TL):
        raise ValueError(
            f"ids_TK has shape {ids_TK.shape}, other_ids_TL {other_ids_TL.shape}; wanted [T, K] and [T, L]: the ids of "
            "the same tokens on both sides"
        )
    if not other_ids_TL.size:
        return np.full(ids_TK.shape, -1, dtype=np.int64)
    same_TKL = ids_TK[:, :, None] == other_ids_TL[:, None, :]
    return np.where(same_TKL.any(axis=2), same_TKL.argmax(axis=2), -1)


def _bins(logprobs_TK: Floats) -> Floats:
    return np.concatenate([np.exp(logprobs_TK), 1.0 - support_mass(logprobs_TK)[:, None]], axis=-1)


def _entropy(probs_TB: Floats) -> Floats:
    # 0 log 0 = 0
    return -(probs_TB * np.log(np.where(probs_TB == 0, 1.0, probs_TB))).sum(axis=-1)
