"""Rows -> one share a rank, of about equal cost.

Must not know: what a row is. The split never changes a result, only who computes it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def cut(costs: Sequence[int], size: int, *, kin: Sequence[Hashable] | None = None) -> list[list[int]]:
    """Rows' places by rank, each share ascending; rows of equal `kin` stay on one rank.

    Greedy: the dearest family goes to the rank with the least so far, which is at most 4/3 of the best split's maximum.
    """
    families: dict[Hashable, list[int]] = {}
    for i in range(len(costs)):
        families.setdefault(i if kin is None else kin[i], []).append(i)
    priced = [(sum(costs[i] for i in family), family) for family in families.values()]
    loads, shares = [0] * size, [list[int]() for _ in range(size)]
    for cost, family in sorted(priced, key=lambda one: (-one[0], one[1][0])):
        rank = loads.index(min(loads))
        loads[rank] += cost
        shares[rank] += family
    return [sorted(share) for share in shares]
