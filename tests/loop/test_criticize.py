"""Tallies of what critics did, and which critiques may direct."""

from __future__ import annotations

import dataclasses

from critique_rl.loop.criticize import CriticTally, attach, questions, usable
from critique_rl.types import CriticOutcome, Critique, Directive, Usage
from tests.loop.fakes import critique, group, task


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


def test_one_question_about_all_failures_shortest_first_within_its_room() -> None:
    of = group(task(), "four", "1", "42", "22", "1")
    (asked,) = questions(of, max_attempts=8, show_reference=False, others_chars=6)
    assert (asked.request.attempt, asked.request.other_attempts) == ("1", ("22", "four"))
    assert [r.id for r in asked.twins] == ["t/1", "t/4", "t/3", "t/0"]
    (asked,) = questions(of, max_attempts=8, show_reference=False, others_chars=5)
    assert asked.request.other_attempts == ("22",) and [r.id for r in asked.twins] == ["t/1", "t/4", "t/3"]
    (asked,) = questions(of, max_attempts=1, show_reference=False, others_chars=99)
    assert asked.request.other_attempts == ()
    assert questions(group(task(), "42"), max_attempts=8, show_reference=False, others_chars=9) == []


def test_what_is_said_of_one_text_is_not_placed_in_another() -> None:
    of = group(task(), "1", "22")
    (asked,) = questions(of, max_attempts=8, show_reference=False, others_chars=9)
    said = dataclasses.replace(
        critique("t/0"), directives=(Directive(text="Add.", quote="1", span=(0, 1), turn=0),), verdict="incorrect"
    )
    found = attach(of, [(asked, said)]).critiques
    assert found["t/0"] == said
    assert found["t/1"].directives == (Directive(text="Add."),)
    assert (found["t/1"].evaluative, found["t/1"].verdict, found["t/1"].rollout_id) == ((), None, "t/1")
