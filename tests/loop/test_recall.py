"""Feedback rows as groups: what travels with a row, what is left out and counted, order, resumption."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from critique_rl.config.feedback import FeedbackConfig
from critique_rl.errors import CheckpointError, DataError
from critique_rl.feedback.rows import FeedbackRow, RolloutRow
from critique_rl.loop.recall import FeedbackGroups
from critique_rl.protocols import Reward
from critique_rl.rewards.confidence import ConfidenceReward
from critique_rl.types import CriticOutcome, Score
from tests.loop.fakes import END, CharPolicy, ExactReward, critique, encode, task

BARE = CharPolicy().encode(task().messages)


def row(name: str, attempt: str = "41", *, of: str = "t", said: str = "Add first.", **changes: object) -> FeedbackRow:
    """A row of the run's own model "m" at version 0, with ids and log-probs of -0.5."""
    ids = (*encode(attempt), END)
    own = RolloutRow(
        id=name,
        task=task(of),
        attempt=attempt,
        policy="m",
        prompt_ids=BARE,
        completion_ids=ids,
        behaviour_logprobs=(-0.5,) * len(ids),
    )
    return FeedbackRow(rollout=dataclasses.replace(own, **changes), critique=critique("somewhere else", said))  # pyright: ignore[reportArgumentType]


def source(
    *rows: FeedbackRow,
    version: int = 0,
    max_tokens: int = 8,
    seed: int = 0,
    reward: Reward | None = None,
    **config: int,
) -> FeedbackGroups:
    policy = CharPolicy()
    policy.version = version
    return FeedbackGroups(
        rows,
        policy=policy,
        reward=reward or ExactReward(),
        config=FeedbackConfig.model_validate({"path": "x.jsonl", **config}),
        model="m",
        max_tokens=max_tokens,
        seed=seed,
    )


def test_a_row_of_the_own_model_is_used_as_it_was_sampled() -> None:
    (recalled,) = source(row("r1", policy_version=3), row("r2", "42"), version=5).batch(4)
    first, second = recalled.rollouts
    assert (first.id, first.prompt_ids, first.completion_ids) == ("r1", BARE, (*encode("41"), END))
    assert first.behaviour_logprobs == (-0.5,) * 3 and first.policy_version == 3
    assert [s.correct for s in recalled.scores] == [False, True] and recalled.plateaued
    assert sorted(recalled.critiques) == ["r1"]  # the right attempt needs no help
    assert recalled.critiques["r1"].rollout_id == "r1" and second.text == "42"


@pytest.mark.parametrize(
    "changes",
    [{"policy": "other"}, {"completion_ids": ()}, {"prompt_ids": ()}, {"completion_ids": encode("77")}],
    ids=["another model", "no ids", "no prompt ids", "ids that read otherwise"],
)
def test_any_other_row_is_encoded_here_and_has_no_ratio(changes: dict[str, Any]) -> None:
    feedback = source(row("r1", policy_version=90, **changes), version=5, max_staleness=0)
    (recalled,) = feedback.batch(1)
    (rollout,) = recalled.rollouts
    assert rollout.completion_ids == (*encode("41"), END) and rollout.prompt_ids == BARE
    assert rollout.behaviour_logprobs == () and rollout.policy_version == 5
    assert feedback.counts()["feedback/reencoded"] == 1.0


def test_stale_and_overlong_rows_are_left_out_and_counted() -> None:
    feedback = source(
        row("old", of="a", policy_version=1),
        row("young", of="b", policy_version=4),
        row("newer than the policy", of="c", policy_version=9),
        row("long", "123456789", of="d", policy_version=5),
        version=5,
        max_staleness=3,
    )
    assert [g.rollouts[0].id for g in feedback.batch(9)] == ["young"]
    counts = feedback.counts()
    assert (counts["feedback/stale"], counts["feedback/too_long"], counts["feedback/rows"]) == (2.0, 1.0, 1.0)
    assert feedback.exhausted and feedback.batch(3) == []


def test_answers_are_verified_anew_and_a_difference_is_counted() -> None:
    feedback = source(row("r1", score=Score(reward=1.0)), row("r2", "42", score=Score(reward=1.0)))
    (recalled,) = feedback.batch(1)
    assert [s.correct for s in recalled.scores] == [False, True]
    assert feedback.counts()["feedback/reward_differs"] == 1.0


@pytest.mark.parametrize("policy", ["m", "another model"])
def test_a_stated_confidence_is_found_in_recalled_rows_too(policy: str) -> None:
    judge = ConfidenceReward(answer=ExactReward(), pattern=r"(?P<answer>\d+) c(?P<confidence>\d)", divide_by=10)
    (recalled,) = source(row("r1", "41 c7", policy=policy), row("r2", "none", policy=policy), reward=judge).batch(1)
    assert recalled.confidence_tokens == {"r1": 4}  # "4", "1", " ", "c", and the digit at character 4


def test_several_critics_words_about_one_attempt_are_joined() -> None:
    one, two = row("r1", said="Add first."), row("r1", said="Then carry.")
    mute = FeedbackRow(rollout=one.rollout, critique=critique("x", outcome=CriticOutcome.TIMED_OUT))
    (recalled,) = source(mute, one, two).batch(1)
    joined = recalled.critiques["r1"]
    assert [d.text for d in joined.directives] == ["Add first.", "Then carry."]
    assert joined.outcome is CriticOutcome.OK and len(recalled.rollouts) == 1


def test_every_task_comes_once_an_epoch_in_an_order_of_its_own() -> None:
    rows = [row(f"r{i}", of=f"t{i}") for i in range(20)]
    feedback = source(*rows, epochs=2)
    first = [g.task.id for g in feedback.batch(20)]
    assert not feedback.exhausted
    second = [g.task.id for g in feedback.batch(30)]
    assert feedback.exhausted
    assert sorted(first) == sorted(second) == sorted(f"t{i}" for i in range(20))
    assert first != second
    assert first == [g.task.id for g in source(*rows).batch(20)]  # a pure function of the seed
    assert first != [g.task.id for g in source(*rows, seed=1).batch(20)]


def test_a_resumed_run_goes_on_where_it_was() -> None:
    rows = [row(f"r{i}", of=f"t{i}") for i in range(5)]
    straight, broken = source(*rows), source(*rows)
    whole = [g.task.id for g in straight.batch(5)]
    broken.batch(2)
    resumed = source(*rows)
    resumed.load_state_dict(broken.state_dict())
    assert [g.task.id for g in resumed.batch(5)] == whole[2:]
    assert resumed.counts() == straight.counts()
    with pytest.raises(CheckpointError, match=r"x\.jsonl.*has 4 tasks, and had 5"):
        source(*rows[:4]).load_state_dict(broken.state_dict())


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(DataError, match=r"x\.jsonl.*no row"):
        source()
