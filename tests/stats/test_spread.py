"""The greedy choice of unlike texts: hand numbers, a plain-loop reference, ties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critique_rl.stats.spread import most_different


def distance(left: str, right: str) -> float:
    a, b = set(left.lower().split()), set(right.lower().split())
    return 1.0 - len(a & b) / len(a | b) if a | b else 0.0


def reference(texts: list[str], count: int) -> list[int]:
    chosen = [0]
    while len(chosen) < count:
        best, far = -1, -1.0
        for i in range(len(texts)):
            near = min(distance(texts[i], texts[j]) for j in chosen)
            if i not in chosen and near > far + 1e-12:
                best, far = i, near
        chosen.append(best)
    return chosen


def test_by_hand() -> None:
    # to "capital of france": "capital city of france" 1 - 3/4, "paris population" 1 - 0: the last is taken first.
    texts = ["capital of france", "capital city of france", "paris population"]
    assert most_different(texts, 2) == [0, 2]
    assert most_different(texts, 3) == [0, 2, 1]
    assert most_different(texts, 1) == [0]


def test_equal_texts_are_chosen_last_and_the_first_place_wins_a_tie() -> None:
    assert most_different(["a b", "A  b", "a b", "c"], 3) == [0, 3, 1]
    assert most_different(["x"] * 4, 3) == [0, 1, 2]


@given(st.lists(st.text("abc ", max_size=6), min_size=1, max_size=8), st.data())
def test_as_a_plain_loop_chooses(texts: list[str], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(texts)))
    chosen = most_different(texts, count)
    assert chosen == reference(texts, count)
    assert len(set(chosen)) == count


@pytest.mark.parametrize("count", [0, 3])
def test_a_count_that_cannot_be(count: int) -> None:
    with pytest.raises(ValueError, match="wanted 1 to 2"):
        most_different(["a", "b"], count)
