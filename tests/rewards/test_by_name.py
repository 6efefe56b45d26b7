"""Routing by a task's verifier."""

from __future__ import annotations

import pytest

from critique_rl.errors import DataError
from critique_rl.protocols import Reward
from critique_rl.rewards.by_name import VerifierRouter
from critique_rl.rewards.exact import ExactReward
from critique_rl.rewards.format_reward import FormatReward
from critique_rl.types import Message, Task


def task(verifier: str) -> Task:
    return Task(id="t7", messages=(Message(role="user", content="?"),), answer="42", verifier=verifier)


def test_each_task_goes_to_its_reward() -> None:
    router: Reward = VerifierRouter({"exact": ExactReward(), "shape": FormatReward(pattern="!")})
    assert router.score(task("exact"), "42").reward == 1.0
    assert router.score(task("shape"), "42").reward == 0.0
    assert router.score(task("shape"), "42!").reward == 1.0


def test_an_unknown_name_lists_the_known_ones() -> None:
    router = VerifierRouter({"shape": FormatReward(pattern="!"), "exact": ExactReward()})
    router.check([task("exact"), task("shape")])
    with pytest.raises(DataError, match=r"'t7' names verifier 'exakt'; known are exact, shape: add \[rewards.exakt\]"):
        router.check([task("exact"), task("exakt")])
    with pytest.raises(DataError, match="known are exact, shape"):
        router.score(task("exakt"), "42")


def test_no_rewards_at_all() -> None:
    with pytest.raises(DataError, match="known are none"):
        VerifierRouter({}).score(task("exact"), "42")
