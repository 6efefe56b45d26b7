"""The limits before a step: what is compared, what is told, and what stops the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from critique_rl.config.engine import MismatchConfig
from critique_rl.errors import EngineError
from critique_rl.loop.mismatch import MismatchCheck, check_mismatch
from critique_rl.protocols import Policy
from critique_rl.types import Array, Group, Rollout, Score, Task, TokenIds


class Scorer:
    """Gives every token the log-prob -1."""

    def logprobs(self, prompts: Sequence[TokenIds], completions: Sequence[TokenIds]) -> list[Array]:
        return [np.full(len(ids), -1.0) for ids in completions]


def group(behaviour: tuple[float, ...]) -> Group:
    rollout = Rollout(
        id="r",
        task_id="t",
        prompt_ids=(1,),
        completion_ids=tuple(range(len(behaviour))),
        behaviour_logprobs=behaviour,
        text="",
        finished=True,
        policy_version=0,
    )
    task = Task(id="t", messages=(), answer="", verifier="exact")
    return Group(task=task, rollouts=(rollout,), scores=(Score(reward=0.0),))


def check(groups: Sequence[Group]) -> MismatchCheck:
    return check_mismatch(groups, policy=cast(Policy, Scorer()), config=MismatchConfig(alarm=0.05, abort=0.2))


def test_below_above_and_far_above() -> None:
    # |-1 + 1.02| and |-1 + 0.98|: mean .02, signed mean 0
    quiet = check([group((-1.02, -0.98))])
    assert quiet.alarm == "" and quiet.figures["mismatch/mean"] == pytest.approx(0.02)
    assert quiet.figures["mismatch/bias"] == pytest.approx(0.0, abs=1e-12)
    assert "above mismatch.alarm = 0.05" in check([group((-1.1,))]).alarm
    with pytest.raises(EngineError, match=r"mismatch\.abort = 0\.2"):
        check([group((-1.3,))])


def test_late_groups_were_sampled_by_an_older_policy() -> None:
    assert check([replace(group((-9.0,)), late=True)]).figures == {}
    assert check([]).figures == {}
