from __future__ import annotations

import json

import pytest

from critique_rl.errors import ConfigError
from critique_rl.lab.school.chains import Chain, select_chains
from critique_rl.lab.school.critic import LIE, SchoolCritic, directive_for
from critique_rl.lab.school.problems import Sum
from critique_rl.lab.school.tasks import school_task
from critique_rl.types import CriticOutcome, CriticRequest, Score

CHAIN = Chain.parse("c 3-4-2=")


def request(attempt: str, chain: Chain = CHAIN) -> CriticRequest:
    return CriticRequest(rollout_id="r", task=school_task(chain), attempt=attempt, score=Score(reward=0.0))


@pytest.mark.parametrize(
    ("attempt", "said", "quote"),
    [
        ("at once: 2", "Use the plan step by step.", "at once"),
        ("from the right: 4-2=2; 3-2=1; so 1", "Use the plan step by step.", "from the right"),
        ("step by step: 3-4=0; 0-2=8; so 8", "Step one is wrong: work out 3-4 again.", "3-4=0"),
        ("from the left: 3-4=9; 9-2=8; so 8", "Step two is wrong: work out 9-2 again.", "9-2=8"),
        ("step by step: 3-4=9; so 9", "Step two is wrong: work out 9-2 again.", None),
        ("step by step: 3-4=9; 9-2=7; 7-2=5; so 5", "Step two is wrong: work out 9-2 again.", "9-2=7"),
        ("step by step: 3-4=9; 9-2=7; so 9", "The answer is what the last step comes to.", "so 9"),
        ("7", "Write the plan, then every step, then so and one digit.", None),
    ],
)
def test_directives_by_hand(attempt: str, said: str, quote: str | None) -> None:
    directive = directive_for(CHAIN, attempt, wording=0)
    assert directive is not None
    assert (directive.text, directive.quote) == (said, quote)
    assert directive.quote is None or directive.quote in attempt


def test_a_right_attempt_needs_no_directive() -> None:
    assert directive_for(CHAIN, CHAIN.solution, wording=0) is None
    assert directive_for(CHAIN, CHAIN.solution.replace("step by step", "from the left"), wording=0) is None


def test_scores_verdict_and_reply_agree() -> None:
    half, right, none = SchoolCritic().review(
        [request("step by step: 3-4=9; 9-2=8; so 8"), request(CHAIN.solution), request("hm")]
    )
    assert {e.criterion: e.value for e in half.evaluative} == {"plan": 1.0, "steps": 0.5, "format": 1.0}
    assert (half.verdict, right.verdict, none.verdict) == ("incorrect", "correct", "incorrect")
    assert {e.criterion: e.value for e in right.evaluative} == {"plan": 1.0, "steps": 1.0, "format": 1.0}
    assert {e.value for e in none.evaluative} == {0.0}
    assert right.directives == ()
    for critique in (half, right, none):
        said = json.loads(critique.reply)
        assert [d["text"] for d in said["directives"]] == [d.text for d in critique.directives]
        assert critique.outcome is CriticOutcome.OK


def test_other_kinds_are_not_judged() -> None:
    task = school_task(Sum(left=27, right=8))
    (found,) = SchoolCritic().review([CriticRequest(rollout_id="r", task=task, attempt="=30", score=Score(reward=0.0))])
    assert found.outcome is CriticOutcome.ABSTAINED
    assert "wanted a chain" in found.reason


def test_no_directive_states_a_result_that_is_still_to_be_found() -> None:
    for chain in select_chains("train", 5, 40):
        solution = chain.solution
        for step in chain.steps("step by step"):
            slipped = solution.replace(f" {step.asked}={step.result};", f" {step.asked}={(step.result + 1) % 10};", 1)
            for wording in range(2):
                directive = directive_for(chain, slipped, wording=wording)
                assert directive is not None
                assert "=" not in directive.text


def test_lies_are_told_as_often_as_asked_and_the_verdict_stays() -> None:
    requests = [request(f"at once: {c.steps('at once')[0].result}", c) for c in select_chains("train", 5, 200)]
    told = SchoolCritic(lies=0.3).review(requests)
    lies = [c for c in told if c.directives[0].text in LIE]
    assert 36 <= len(lies) <= 84  # 60 plus or minus 3.7 standard errors of 6.5
    assert {c.verdict for c in told} == {"incorrect"}
    assert [c.directives for c in SchoolCritic(lies=0.3).review(requests)] == [c.directives for c in told]
    with pytest.raises(ConfigError, match=r"lies: came 1\.5"):
        SchoolCritic(lies=1.5)
