"""How evenly things are spread over bins: Shannon entropies of counts, masses and labels, and their small-sample bias.

Owns: the formulas and their units (nats unless named otherwise). Must not know: what the bins are. Two things share the
formula and not the name: the entropy of strategies used, and that of the answers given (arXiv 2302.09664).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Masses = Sequence[float] | Sequence[int] | NDArray[np.float64]


class Spread(NamedTuple):
    """One entropy in every unit: H, H / ln 2, H / ln(bins), exp H, and the number of bins that H was divided by."""

    nats: float
    bits: float
    normalised: float
    effective: float
    bins: int


def entropy(masses: Masses, *, miller_madow: bool = False) -> float:
    """Shannon entropy in nats, H = -sum_i p_i ln p_i with p_i = masses_i / sum of masses; an empty bin adds nothing.

    `miller_madow` takes the masses for counts and adds the bias (m - 1) / (2 N) that m non-empty bins among N draws
    lose on average. Nothing counted at all is 0. Raises ValueError for a negative or non-finite mass.
    """
    values = np.asarray(masses, dtype=np.float64)
    if values.ndim != 1 or not bool(np.isfinite(values).all()) or bool((values < 0).any()):
        raise ValueError(f"masses is {masses!r}; wanted a flat list of finite numbers of 0 or more")
    total = float(values.sum())
    if total == 0:
        return 0.0
    shares = values[values > 0] / total
    plain = max(0.0, -float((shares * np.log(shares)).sum()))
    return plain + (shares.size - 1) / (2 * total) if miller_madow else plain


def spread(masses: Masses, *, bins: int | None = None) -> Spread:
    """`entropy` in every unit; `bins` is how many there could be (None: as many as masses, empty ones included).

    One bin is normalised to 0. Raises ValueError as `entropy` does, and for fewer bins than non-empty masses.
    """
    nats = entropy(masses)
    count = len(masses) if bins is None else bins
    if count < sum(mass > 0 for mass in masses):
        raise ValueError(f"bins is {bins}, and {sum(mass > 0 for mass in masses)} bins hold something; wanted no fewer")
    return Spread(nats, nats / math.log(2), nats / math.log(count) if count > 1 else 0.0, math.exp(nats), count)


def label_entropy(labels: Iterable[Hashable], *, miller_madow: bool = False) -> float:
    """`entropy` of how often each label occurs: of strategies (strategy entropy), or of equal answers (the semantic
    entropy of answers, arXiv 2302.09664, with equality in the place of entailment)."""
    return entropy(list(Counter(labels).values()), miller_madow=miller_madow)


def conditional_entropy(pairs: Sequence[tuple[Hashable, Hashable]]) -> float:
    """H(second | first) = sum_s p(s) H(second among the pairs that begin with s), in nats; no pairs: 0."""
    seconds: dict[Hashable, Counter[Hashable]] = {}
    for first, second in pairs:
        seconds.setdefault(first, Counter())[second] += 1
    return sum(c.total() / len(pairs) * entropy(list(c.values())) for c in seconds.values())


def modal_share(labels: Iterable[Hashable]) -> float | None:
    """The share of the commonest label; None where there is none."""
    counts = Counter(labels)
    return max(counts.values()) / counts.total() if counts else None
