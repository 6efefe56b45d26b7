"""How unlike each other the samples of one prompt are, on their surface.

Owns: distinct-n, self-BLEU, unique queries, Jaccard overlap of sets, and the Vendi score. Must not know: rollouts, what
a document is, how a text is cut into words. Undefined (no n-gram, fewer than two samples) is None, never 0.0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from collections.abc import Set as AbstractSet

import numpy as np
from numpy.typing import NDArray

from critique_rl.errors import MissingExtraError

Matrix = NDArray[np.float64]


def distinct_n(samples: Sequence[Sequence[Hashable]], n: int) -> float | None:
    """Different n-grams / all n-grams over the whole set of samples (arXiv 1510.03055); None where there is no n-gram.

    Raises ValueError for n < 1.
    """
    if n < 1:
        raise ValueError(f"n is {n}; wanted 1 or more")
    total = 0
    different: set[tuple[Hashable, ...]] = set()
    for sample, count in Counter(map(tuple, samples)).items():
        different.update(zip(*(sample[i:] for i in range(n)), strict=False))
        total += count * max(0, len(sample) - n + 1)
    return len(different) / total if total else None


def self_bleu(samples: Sequence[str], order: int = 4) -> list[float]:
    """Each sample's BLEU in [0, 1] with all the others as its references (arXiv 1802.01886); 1 is a copy.

    Clipped counts, geometric mean of the orders 1 to `order`, the closest reference's length in the brevity penalty, no
    smoothing: an order without a match gives 0. Words are what spaces separate; n samples cost n^2. Fewer than two
    samples give no values. Errors: MissingExtraError without sacrebleu; ValueError for an order below 1.
    """
    if order < 1:
        raise ValueError(f"order is {order}; wanted 1 or more")
    if len(samples) < 2:
        return []
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError:
        raise MissingExtraError("sacrebleu", "diversity", "self-BLEU") from None
    # As a corpus of one, since sacrebleu warns of sentences that are scored without "effective" orders.
    bleu = BLEU(max_ngram_order=order, smooth_method="none", effective_order=False, tokenize="none")
    known: dict[str, float] = {}
    values: list[float] = []
    for i, sample in enumerate(samples):
        if sample not in known:  # equal samples have equal sets of references
            others = [[other] for j, other in enumerate(samples) if j != i]
            known[sample] = min(1.0, float(bleu.corpus_score([sample], others).score) / 100)
        values.append(known[sample])
    return values


def unique_ratio(queries: Sequence[str]) -> float | None:
    """Different queries / queries; letter case and runs of white space make no difference. None without a query."""
    return len({normal_query(query) for query in queries}) / len(queries) if queries else None


def normal_query(query: str) -> str:
    """A query as `unique_ratio` compares it."""
    return " ".join(query.casefold().split())


def jaccard_kernel(sets: Sequence[AbstractSet[Hashable]]) -> Matrix:
    """K_ij = |A_i and A_j| / |A_i or A_j|, two empty sets 1: positive semi-definite with ones on its diagonal."""
    index = {member: i for i, member in enumerate(dict.fromkeys(member for one in sets for member in one))}
    holds = np.zeros((len(sets), len(index)))
    for row, one in enumerate(sets):
        holds[row, [index[member] for member in one]] = 1.0
    both = holds @ holds.T
    sizes = holds.sum(axis=1)
    either = sizes[:, None] + sizes[None, :] - both
    return np.where(either > 0, both / np.maximum(either, 1.0), 1.0)


def mean_overlap(sets: Sequence[AbstractSet[Hashable]]) -> float | None:
    """Mean Jaccard similarity over all pairs of different places in the list; None for fewer than two sets.

    Of document ids: how much of the evidence is the same. 1 minus it, of words: how different queries are.
    """
    return mean_off_diagonal(jaccard_kernel(sets)) if len(sets) > 1 else None


def mean_off_diagonal(kernel: Matrix) -> float:
    """Mean of K_ij over i != j, for two rows or more."""
    n = len(kernel)
    return float((kernel.sum() - np.trace(kernel)) / (n * (n - 1)))


def vendi(kernel: Matrix) -> float:
    """Vendi score, exp(-sum_i l_i ln l_i) of the eigenvalues l of K / n: how many unlike samples there are in effect,
    from 1 (all alike) to n (arXiv 2210.02410).

    K must be symmetric, positive semi-definite and 1 on its diagonal; raises ValueError where it is not.
    """
    n = len(kernel)
    if kernel.shape != (n, n) or n == 0 or not np.allclose(kernel, kernel.T) or not np.allclose(np.diag(kernel), 1.0):
        raise ValueError(
            f"kernel has the shape {kernel.shape}; wanted a square symmetric matrix with ones on its diagonal"
        )
    values = np.linalg.eigvalsh(kernel / n)
    if values.min() < -1e-8:
        raise ValueError(
            f"kernel has the eigenvalue {values.min() * n:g}; wanted none below 0: not every similarity is a kernel"
        )
    shares = values[values > 0]
    return math.exp(-float((shares * np.log(shares)).sum()))
