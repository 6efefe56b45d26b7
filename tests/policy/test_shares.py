"""Shares: every row once, about equal, kin together, the same on every call."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from critique_rl.policy.shares import cut


def test_the_dearest_first_to_the_least_laden() -> None:
    # 9 -> rank 0; 7 -> rank 1; 6 -> rank 1 (13); 5 -> rank 0 (14); 2 -> rank 1 (15)
    assert cut([5, 9, 2, 7, 6], 2) == [[0, 1], [2, 3, 4]]


def test_equal_rows_take_turns() -> None:
    assert cut([3, 3, 3, 3], 2) == [[0, 2], [1, 3]]


def test_more_ranks_than_rows_leave_some_empty() -> None:
    assert cut([4], 3) == [[0], [], []]
    assert cut([], 2) == [[], []]


def test_kin_stay_on_one_rank() -> None:
    # families a: 1 + 1 + 1, b: 2, c: 2
    assert cut([1, 2, 1, 2, 1], 2, kin=["a", "b", "a", "c", "a"]) == [[0, 2, 4], [1, 3]]


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 4)), max_size=30), st.integers(1, 5), st.booleans())
def test_every_row_is_somebodys_and_no_rank_is_overladen(
    rows: list[tuple[int, int]], size: int, families: bool
) -> None:
    costs, kin = [cost for cost, _ in rows], [family for _, family in rows]
    shares = cut(costs, size, kin=kin if families else None)
    assert sorted(i for share in shares for i in share) == list(range(len(rows)))
    assert all(share == sorted(share) for share in shares)
    loads = [sum(costs[i] for i in share) for share in shares]
    largest = max((sum(c for c, k in rows if k == family) for family in set(kin)), default=0)
    # Whoever has the most was the least laden before its latest unit.
    assert max(loads) <= sum(costs) / size + (largest if families else max(costs, default=0))
    if families:
        assert all(len({rank for rank, share in enumerate(shares) for i in share if kin[i] == k}) == 1 for k in kin)
