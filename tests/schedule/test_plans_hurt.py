"""Both figures must fall, by two standard errors and by a share of what they were."""

from __future__ import annotations

import pytest

from critique_rl.schedule.plans_hurt import both_fell

Course = list[float]


def fell(strategies: tuple[Course, Course], success: tuple[Course, Course]) -> str | None:
    before, now = zip(strategies, success, strict=True)
    names = ("strategy_entropy", "success")
    return both_fell(dict(zip(names, now, strict=True)), dict(zip(names, before, strict=True)))


DOWN = ([1.0, 1.0], [0.5, 0.5])


def test_in_words() -> None:
    assert fell(DOWN, ([0.6, 0.6], [0.3, 0.3])) == "strategy entropy 1 -> 0.5, success 0.6 -> 0.3"


@pytest.mark.parametrize("other", [([0.6, 0.6], [0.6, 0.6]), ([0.6, 0.6], [0.7, 0.7])])
def test_one_alone_is_not_enough(other: tuple[Course, Course]) -> None:
    assert fell(DOWN, other) is None
    assert fell(other, DOWN) is None


@pytest.mark.parametrize(
    ("now", "falls"),
    [
        ([0.97, 0.97], True),  # 3 % of what it was, without spread
        ([0.99, 0.99], False),  # 1 % is no fall
        # mean .9, variance .02 on two values: standard error .1, and the fall of .1 is not twice that
        ([0.8, 1.0], False),
        # mean .7: a fall of .3 is
        ([0.6, 0.8], True),
    ],
)
def test_by_two_standard_errors_and_a_share(now: Course, falls: bool) -> None:
    assert (fell(DOWN, ([1.0, 1.0], now)) is not None) is falls
