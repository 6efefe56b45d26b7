"""How episodes searched: every share by hand."""

from __future__ import annotations

import pytest

from critique_rl.config.search import QUERY_RATES
from critique_rl.loop.queries import query_shares
from critique_rl.types import Turn


def search(query: str, *documents: str) -> Turn:
    return Turn(start=0, end=1, text="", action="search", argument=query, documents=documents)


ANSWER = Turn(start=0, end=1, text="", action="answer", argument="x")
VOID = Turn(start=0, end=1, text="")


def test_by_hand() -> None:
    episodes = [
        [search("capital of france", "d1", "d2"), search("Paris  population", "d3"), ANSWER],
        [search("capital city of france", "d2"), search("capital city of france", "d2")],
        [search("paris population", "d3"), ANSWER],
    ]
    found = query_shares([episodes])
    # 5 queries, 3 different (case and spaces make no difference)
    assert found["query_unique_ratio"] == [pytest.approx(3 / 5)]
    assert found["first_query_unique_ratio"] == [1.0]
    # spec 9.6: Jaccard .75, 0, 0 of the three first queries; diversity .75
    assert found["first_query_jaccard_div"] == [pytest.approx(0.75)]
    # {d1 d2 d3} {d2} {d3}: 1/3, 1/3, 0
    assert found["evidence_overlap"] == [pytest.approx(2 / 9)]
    # episodes ask again 0, 1/2 and 0 of their queries
    assert found["repeated_queries"] == [pytest.approx(1 / 6)]
    assert found["answered"] == [pytest.approx(2 / 3)]
    assert tuple(found) == QUERY_RATES


def test_what_is_not_there_is_left_out() -> None:
    assert query_shares([]) == {}
    assert query_shares([[(), ()]]) == {}
    assert query_shares([[[VOID], [ANSWER]]]) == {"answered": [0.5]}
    alone = query_shares([[[search("a"), ANSWER]]])
    assert alone == {"repeated_queries": [0.0], "answered": [1.0]}


def test_one_greedy_episode_is_no_sign_of_different_queries() -> None:
    again = [search("a"), search("a"), ANSWER]
    assert query_shares([[again]]) == {"repeated_queries": [0.5], "answered": [1.0]}
    beside = query_shares([[again, [ANSWER]]])
    assert (beside["query_unique_ratio"], beside["first_query_unique_ratio"]) == ([0.5], [1.0])


def test_a_value_for_every_task_that_has_one() -> None:
    found = query_shares([[[search("a", "d"), ANSWER]] * 2, [[ANSWER], [ANSWER]]])
    assert found["query_unique_ratio"] == [0.5]
    assert found["evidence_overlap"] == [1.0]
    assert found["answered"] == [1.0, 1.0]
