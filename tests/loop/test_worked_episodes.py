"""Worked episodes as rollouts: the words with end tokens, the tool's masked, and metadata that cannot be used."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from critique_rl.algorithms.stamping import blank
from critique_rl.errors import DataError
from critique_rl.loop.demonstrations import demonstrate
from critique_rl.loop.worked_episodes import demonstration_rollout
from critique_rl.types import Task
from tests.loop.episode_fakes import HearingPolicy
from tests.loop.fakes import END, ExactReward, encode, task

ONE = [{"text": "cat", "observation": "CAT"}, {"text": "A", "observation": ""}]
TWO = [{"text": "dog", "observation": "DOG"}, {"text": "A"}]


def worked(*episodes: object) -> Task:
    return replace(task("t", answer="A"), metadata={"episodes": json.dumps(list(episodes))})


def test_the_ids_are_those_of_an_episode() -> None:
    rollout = demonstration_rollout(worked(ONE), HearingPolicy(), step=3)
    assert rollout.completion_ids == (*encode("cat"), END, *encode("[CAT]A"), END)
    assert rollout.policy_mask == (*[True] * 4, *[False] * 5, *[True] * 2)
    assert [(t.start, t.end, t.text, t.observation) for t in rollout.turns] == [(0, 4, "cat", "CAT"), (9, 11, "A", "")]
    assert (rollout.text, rollout.answer_text, rollout.own_tokens) == ("cat\nCAT\nA", "A", 6)
    sample = blank(rollout)
    assert sample.loss_mask.sum() == 6
    assert np.isnan(sample.behaviour_logprobs).all()


def test_every_episode_has_its_turn_and_a_step_always_the_same_one() -> None:
    given = worked(ONE, TWO)
    texts = [demonstration_rollout(given, HearingPolicy(), step=step).text for step in range(20)]
    assert {"cat\nCAT\nA", "dog\nDOG\nA"} == set(texts)
    assert texts[4] == demonstration_rollout(given, HearingPolicy(), step=4).text


def test_fine_tuning_takes_them_and_verifies_the_last_turn() -> None:
    (group,) = demonstrate([worked(ONE)], policy=HearingPolicy(), reward=ExactReward(), max_tokens=20, step=0)
    assert group.scores[0].correct
    assert group.rollouts[0].turns


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ("not json", "no JSON list"),
        ("[]", "got '\\[\\]'"),
        ("[[]]", "got"),
        ("{}", "got"),
        ('[[{"text": "a"}, {"text": "b"}]]', "needs an observation"),
        ('[[{"text": "a", "observation": "x"}]]', "the last one must have"),
        ('[[{"observation": "x"}]]', "got the turn"),
        ('[["a"]]', "got the turn 'a'"),
    ],
)
def test_metadata_that_holds_no_episodes(metadata: str, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        demonstration_rollout(replace(task("t"), metadata={"episodes": metadata}), HearingPolicy(), step=0)
    assert "task 't'" in str(caught.value)
