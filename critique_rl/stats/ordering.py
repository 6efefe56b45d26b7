"""Linear ordering: which of K things comes first when each pair is worth something in one order and not in the other.

Owns: exact orders by dynamic programming over subsets, local search for many items, and the greedy rules.
Must not know: tasks, accuracies, what a worth means.

`worth[k, j]` is collected when k comes after j; the diagonal is never read.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Order = tuple[int, ...]
EXACT_UP_TO = 15
"""Items for which every subset is looked at: 2^15 of them."""
_ROUNDING = 1e-12


def order_worth(worth: NDArray[np.float64], order: Sequence[int]) -> float:
    """sum over pairs (j before k) of worth[k, j]. Raises ValueError for an order that is no permutation."""
    weights = _square(worth)
    chosen = check_order(order, len(weights))
    return float(sum(weights[k, j] for at, j in enumerate(chosen) for k in chosen[at + 1 :]))


def check_order(order: Sequence[int], count: int) -> Order:
    """The order as a tuple. Raises ValueError unless it names each of 0..count-1 once."""
    if sorted(order) != list(range(count)):
        raise ValueError(f"order = {list(order)}; wanted each of 0 to {count - 1} exactly once")
    return tuple(int(i) for i in order)


def exact_order(worth: NDArray[np.float64], *, first: Sequence[bool] = (), tolerance: float = 0.0) -> Order:
    """An order of the highest worth, O(2^K K^2): appending j to the set S of earlier ones adds sum over i in S of
    worth[j, i].

    Among orders within `tolerance` of the highest worth those that put items of `first` earlier are preferred, then
    higher worth, then smaller indices. Raises ValueError for K above 15, a negative tolerance or a bad shape.
    """
    weights = _square(worth)
    count = len(weights)
    if count > EXACT_UP_TO:
        raise ValueError(f"{count} items are too many for an exact order (at most {EXACT_UP_TO}); use local_search")
    if tolerance < 0:
        raise ValueError(f"tolerance = {tolerance:g}; wanted 0 or more")
    favoured = _favoured(first, count)
    gains, rest = _tables(weights)
    order: list[int] = []
    done, collected, wanted = 0, 0.0, rest[0] - tolerance - _ROUNDING * (1 + float(np.abs(weights).sum()))
    while len(order) < count:
        reach = {j: collected + float(gains[done, j] + rest[done | 1 << j]) for j in range(count) if not done >> j & 1}
        possible = [j for j, total in reach.items() if total >= wanted]
        best = max(reach[j] for j in possible if favoured[j] == any(favoured[i] for i in possible))
        chosen = next(
            j
            for j in possible
            if favoured[j] == any(favoured[i] for i in possible) and reach[j] >= best - _ROUNDING * (1 + abs(best))
        )
        collected += float(gains[done, chosen])
        done |= 1 << chosen
        order.append(chosen)
    return tuple(order)


def local_search(worth: NDArray[np.float64], start: Sequence[int]) -> Order:
    """Moves one item at a time to where it is worth most, until no such move helps: never worse than `start`."""
    weights = _square(worth)
    order = list(check_order(start, len(weights)))
    improved = True
    while improved:
        improved = False
        for item in tuple(order):
            at = order.index(item)
            others = [*order[:at], *order[at + 1 :]]
            # Worth of standing before all others, then one place further back at a time.
            steps = [float(weights[item, other] - weights[other, item]) for other in others]
            places = np.concatenate([[0.0], np.cumsum(steps)])
            best = int(np.argmax(places))
            if places[best] > places[at] + _ROUNDING * (1 + abs(places[at])):
                order = [*others[:best], item, *others[best:]]
                improved = True
    return tuple(order)


def best_order(worth: NDArray[np.float64], *, first: Sequence[bool] = (), tolerance: float = 0.0) -> Order:
    """`exact_order`, or for more than 15 items `local_search` from the net-gain rule (no `first` there: ValueError)."""
    if len(worth) <= EXACT_UP_TO:
        return exact_order(worth, first=first, tolerance=tolerance)
    if any(first) or tolerance:
        raise ValueError(f"first and tolerance need an exact order, which {len(worth)} items are too many for")
    return local_search(worth, net_gain_order(worth))


def net_gain_order(worth: NDArray[np.float64]) -> Order:
    """Greedy: next comes argmax over remaining j of sum over remaining k of worth[k, j] - worth[j, k]."""
    weights = _square(worth)
    remaining, order = list(range(len(weights))), list[int]()
    while remaining:
        chosen = max(remaining, key=lambda j: (sum(weights[k, j] - weights[j, k] for k in remaining if k != j), -j))
        order.append(chosen)
        remaining.remove(chosen)
    return tuple(order)


def greedy_mean_order(scores: NDArray[np.float64]) -> Order:
    """Greedy: next comes the remaining i with the highest mean of scores[i, k] over the other remaining k; it can be
    clearly worse than the best order (the rule that reviewers of arXiv 2507.14783 describe)."""
    values = _square(scores)
    remaining, order = list(range(len(values))), list[int]()
    while len(remaining) > 1:
        chosen = max(remaining, key=lambda i: (float(np.mean([values[i, k] for k in remaining if k != i])), -i))
        order.append(chosen)
        remaining.remove(chosen)
    return (*order, *remaining)


def _tables(weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """gains[S, j]: what appending j to the set S adds; rest[S]: the most that can be collected from S on."""
    count = len(weights)
    gains = np.zeros((1, count))
    for i in range(count):
        gains = np.concatenate([gains, gains + weights[:, i]])
    size = 1 << count
    members = np.array([mask.bit_count() for mask in range(size)])
    rest = np.full(size, -np.inf)
    rest[size - 1] = 0.0
    for layer in range(count - 1, -1, -1):
        masks = np.flatnonzero(members == layer)
        for j in range(count):
            free = masks[(masks >> j & 1) == 0]
            rest[free] = np.maximum(rest[free], gains[free, j] + rest[free | 1 << j])
    return gains, rest


def _favoured(first: Sequence[bool], count: int) -> list[bool]:
    if first and len(first) != count:
        raise ValueError(f"first has {len(first)} entries for {count} items; wanted one each, or none at all")
    return list(first) or [False] * count


def _square(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    values = np.array(matrix, dtype=np.float64)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or not len(values):
        raise ValueError(f"came a matrix of shape {values.shape}; wanted K x K with K of 1 or more")
    np.fill_diagonal(values, 0.0)
    if not np.isfinite(values).all():
        raise ValueError("the matrix holds numbers that are not finite; wanted a finite one for every pair")
    return values
