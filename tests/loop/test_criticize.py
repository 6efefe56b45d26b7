"""Tallies of what critics did, and which critiques may direct."""

from __future__ import annotations

import dataclasses

from critique_rl.loop.criticize import CriticTally, usable
from critique_rl.types import CriticOutcome, Critique, Usage
from tests.loop.fakes import critique


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
