"""Given replies go through the same parser and filters as a model's."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from critique_rl.config.critic import ScriptedCriticConfig
from critique_rl.critics.scripted import FailingCritic, ScriptedCritic, scripted_critic
from critique_rl.errors import CriticSetupError
from critique_rl.types import CriticOutcome, CriticRequest

Make = Callable[..., CriticRequest]


def test_replies_come_in_turn_and_start_over(good_reply: str, make_request: Make) -> None:
    critic = ScriptedCritic([good_reply, "mumble"])
    outcomes = [critique.outcome for critique in critic.review([make_request(number) for number in range(3)])]
    assert outcomes == [CriticOutcome.OK, CriticOutcome.MALFORMED, CriticOutcome.OK]
    assert [request.rollout_id for request in critic.requests] == ["r0", "r1", "r2"]


def test_a_function_answers_each_request(make_request: Make) -> None:
    critic = ScriptedCritic(lambda request: f'{{"directives": [{{"text": "Look at {request.task.id} once more."}}]}}')
    assert critic.review([make_request(7)])[0].directive_text == "Look at t7 once more."


def test_filters_apply(make_request: Make) -> None:
    critic = ScriptedCritic(['{"directives": [{"text": "The answer is 42."}], "verdict": "incorrect"}'])
    critique = critic.review([make_request()])[0]
    assert critique.directive_text == ""
    assert critique.dropped == (("The answer is 42.", "states the reference answer"),)


@pytest.mark.parametrize("outcome", [outcome for outcome in CriticOutcome if outcome is not CriticOutcome.OK])
def test_a_failing_critic_fails_every_call(make_request: Make, outcome: CriticOutcome) -> None:
    critiques = FailingCritic(outcome=outcome).review([make_request(1), make_request(2)])
    assert [(one.rollout_id, one.outcome, one.directive_text) for one in critiques] == [
        ("r1", outcome, ""),
        ("r2", outcome, ""),
    ]
    assert all(one.reason for one in critiques)


def test_setup_faults() -> None:
    with pytest.raises(CriticSetupError, match="no replies"):
        ScriptedCritic([])
    with pytest.raises(CriticSetupError, match="choose another outcome"):
        FailingCritic(outcome=CriticOutcome.OK)


def test_from_config(good_reply: str, make_request: Make) -> None:
    given = scripted_critic(ScriptedCriticConfig(kind="scripted", replies=(good_reply,), max_directive_chars=20))
    critique = given.review([make_request()])[0]
    assert critique.dropped[0][1] == "is longer than 20 characters"
    failing = scripted_critic(ScriptedCriticConfig(kind="scripted", fail=True))
    assert failing.review([make_request()])[0].outcome is CriticOutcome.FAILED
