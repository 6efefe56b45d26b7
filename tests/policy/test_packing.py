"""First-fit decreasing: bins by hand, nothing lost, nothing over the budget but what is too long by itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from critique_rl.policy.packing import fill, plan
from critique_rl.types import TokenIds


def test_bins_by_hand() -> None:
    # sizes in falling order: 7 (place 1), 5 (0), 4 (2), 3 (4), 1 (3); 7+3 = 10, 5+4+1 = 10
    assert fill([5, 7, 4, 1, 3], 10) == [[1, 4], [0, 2, 3]]
    assert fill([], 10) == []


@given(st.lists(st.integers(min_value=0, max_value=12), max_size=30), st.integers(min_value=-3, max_value=15))
def test_every_place_is_in_one_bin_and_no_two_bins_would_fit_in_one(sizes: list[int], capacity: int) -> None:
    bins = fill(sizes, capacity)
    assert sorted(i for part in bins for i in part) == list(range(len(sizes)))
    sums = [sum(sizes[i] for i in part) for part in bins]
    for part, total in zip(bins, sums, strict=True):
        assert total <= capacity or len(part) == 1
    for a in range(len(bins)):
        for b in range(a + 1, len(bins)):
            assert sums[a] + min(sizes[i] for i in bins[b]) > capacity


def test_a_group_too_large_for_the_budget_is_split_behind_copies_of_its_prompt() -> None:
    prompts: list[TokenIds] = [(1, 2, 3), (9,), (1, 2, 3), (1, 2, 3)]
    completions: list[TokenIds] = [(5,) * 4, (5,) * 2, (5,) * 3, (5,) * 5]
    # computed: 3 + (3, 2, 4) behind the shared prompt, 1 + 1 alone; at most 9: 3+4+2, then 3+3, then 2 fits behind it
    bins = plan(prompts, completions, max_tokens=9, share_prompts=True)
    assert bins == [[(3, 2)], [(0,), (1,)]]
    assert plan(prompts, completions, max_tokens=14, share_prompts=True) == [[(3, 0, 2), (1,)]]
    assert plan(prompts, completions, max_tokens=99, share_prompts=False) == [[(3,), (0,), (2,), (1,)]]
