"""The monitors' benchmark measures what it says: time inside monitors is part of the steps' time."""

from __future__ import annotations

from tests.benchmarks.monitors import PROMPTS, ROLLOUTS, episodes, measure, time_of_episodes


def test_time_inside_monitors_is_a_part_of_the_steps() -> None:
    taken = measure(("zero_std", "formats"), warm_up=1, steps=1)
    assert 0 < taken.monitors_s < taken.steps_s


def test_made_up_episodes_are_equal_for_equal_seeds_and_have_all_that_is_measured() -> None:
    groups = episodes(0)
    assert groups == episodes(0) != episodes(1)
    assert [len(group.rollouts) for group in groups] == [ROLLOUTS] * PROMPTS
    assert all(any(turn.documents for turn in rollout.turns) for group in groups for rollout in group.rollouts)
    assert time_of_episodes(("evidence_overlap",), observations=1) > 0
