"""Who is sent to the critic, and what comes of an answer or of a failure."""

from __future__ import annotations

import dataclasses

import pytest

from critique_rl.critics.scripted import FailingCritic, ScriptedCritic
from critique_rl.loop.criticize import CriticTally, criticize, usable
from critique_rl.types import CriticOutcome, CriticRequest, Critique, Usage
from tests.loop.fakes import critique, group, task

REPLY = '{"directives": [{"text": "Carry the one into the tens.", "kind": "procedure", "quote": null}], "scores": {}}'


def ask(critic: ScriptedCritic | FailingCritic, *groups: object, max_attempts: int = 8, show: bool = False):
    return criticize(list(groups), critic=critic, max_attempts=max_attempts, show_reference=show)  # pyright: ignore[reportArgumentType]


def test_equal_attempts_are_asked_about_once_and_share_the_critique() -> None:
    critic = ScriptedCritic([REPLY])
    (reviewed,), tally = ask(critic, group(task(), "41", "40", "41", "42", "41"))
    assert [r.rollout_id for r in critic.requests] == ["t/0", "t/1"]
    assert [r.attempt for r in critic.requests] == ["41", "40"]
    assert sorted(reviewed.critiques) == ["t/0", "t/1", "t/2", "t/4"]  # the twins too, the correct one not
    assert all(name == c.rollout_id for name, c in reviewed.critiques.items())
    twins = [dataclasses.replace(reviewed.critiques[name], rollout_id="") for name in ("t/0", "t/2", "t/4")]
    assert twins[0] == twins[1] == twins[2]
    assert tally.calls == 2 and tally.directives == 2


def test_a_rollout_whose_verifier_failed_is_never_sent() -> None:
    critic = ScriptedCritic([REPLY])
    (reviewed,), _ = ask(critic, group(task(), "!", "?", "41"))
    assert [r.attempt for r in critic.requests] == ["?", "41"]
    assert sorted(reviewed.critiques) == ["t/1", "t/2"]


def test_only_plateaued_groups_are_sent() -> None:
    critic = ScriptedCritic([REPLY])
    fresh, stalled = group(task("a"), "41", plateaued=False), group(task("b"), "41")
    reviewed, tally = ask(critic, fresh, stalled)
    assert [r.rollout_id for r in critic.requests] == ["b/0"]
    assert reviewed[0] == fresh and reviewed[1].task.id == "b"
    assert tally.calls == 1


def test_equal_attempts_of_two_tasks_are_two_questions() -> None:
    critic = ScriptedCritic([REPLY])
    ask(critic, group(task("a"), "41"), group(task("b"), "41"))
    assert [r.rollout_id for r in critic.requests] == ["a/0", "b/0"]


def test_max_attempts_bounds_the_calls_of_a_group() -> None:
    critic = ScriptedCritic([REPLY])
    (reviewed,), _ = ask(critic, group(task(), "1", "2", "1", "3"), max_attempts=2)
    assert [r.attempt for r in critic.requests] == ["1", "2"]
    assert sorted(reviewed.critiques) == ["t/0", "t/1", "t/2"]


@pytest.mark.parametrize(("show", "seen"), [(False, None), (True, "42")])
def test_the_answer_is_shown_only_if_the_run_allows_it(show: bool, seen: str | None) -> None:
    critic = ScriptedCritic([REPLY])
    ask(critic, group(task(), "41"), show=show)
    assert critic.requests[0].reference == seen
    assert critic.requests[0].score.detail == "checked"


def test_no_request_means_no_call() -> None:
    def never(request: CriticRequest) -> str:
        raise AssertionError(request)

    solved = group(task(), "42", "42")
    reviewed, tally = ask(ScriptedCritic(never), solved, group(task(), "41", plateaued=False))
    assert reviewed[0].critiques == {} and tally == CriticTally()


@pytest.mark.parametrize("outcome", [o for o in CriticOutcome if o is not CriticOutcome.OK])
def test_a_failure_is_kept_and_directs_nothing(outcome: CriticOutcome) -> None:
    (reviewed,), tally = ask(FailingCritic(outcome=outcome), group(task(), "41", "41", "40"))
    assert {c.outcome for c in reviewed.critiques.values()} == {outcome}
    assert not any(usable(c) for c in reviewed.critiques.values())
    assert tally.outcomes == {str(outcome): 2}
    assert reviewed.scores == group(task(), "41", "41", "40").scores


def test_usable_needs_a_directive() -> None:
    assert usable(critique("t/0"))
    assert not usable(critique("t/0", text=""))
    assert not usable(None)


def billed(cost: float | None, outcome: CriticOutcome = CriticOutcome.OK) -> Critique:
    used = Usage(prompt_tokens=10, completion_tokens=3, cost_usd=cost)
    return dataclasses.replace(critique("r", outcome=outcome), usage=used, latency_s=0.5, dropped=(("x", "too short"),))


def test_tallies_add_up() -> None:
    one = CriticTally.of([billed(0.25), billed(0.5, CriticOutcome.MALFORMED)])
    both = one + CriticTally.of([billed(1.0)])
    assert both.outcomes == {"ok": 2, "malformed": 1} and both.calls == 3
    assert (both.prompt_tokens, both.completion_tokens, both.latency_s) == (30, 9, 1.5)
    assert (both.directives, both.dropped) == (2, 3)
    assert both.cost_usd == 1.75


def test_one_unpriced_call_makes_the_sum_unknown_and_never_zero() -> None:
    assert CriticTally.of([billed(0.25), billed(None)]).cost_usd is None
    assert (CriticTally.of([billed(None)]) + CriticTally.of([billed(0.25)])).cost_usd is None
    assert (CriticTally() + CriticTally.of([billed(0.25)])).cost_usd == 0.25
