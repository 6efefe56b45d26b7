"""Figures of a feedback file, by hand numbers."""

from __future__ import annotations

import pytest

from critique_rl.feedback.rows import FeedbackRow, RolloutRow
from critique_rl.feedback.spending import spent_by_critic, spent_on, together, total
from critique_rl.feedback.summary import summarise
from critique_rl.types import (
    CriticOutcome,
    Critique,
    Directive,
    Evaluative,
    Message,
    Score,
    ScoreStatus,
    Task,
    Usage,
)


def row(number: int, critique: Critique, score: Score | None = None) -> FeedbackRow:
    task = Task(id="t", messages=(Message(role="user", content="q"),), answer="", verifier="exact")
    return FeedbackRow(rollout=RolloutRow(id=str(number), task=task, attempt="a", score=score), critique=critique)


def critique(value: float, *, outcome: CriticOutcome = CriticOutcome.OK, cost_usd: float | None = 0.25) -> Critique:
    return Critique(
        rollout_id="r",
        critic="c",
        outcome=outcome,
        evaluative=(Evaluative(criterion="correctness", value=value),),
        directives=(Directive(text="x"), Directive(text="y", kind="fact")),
        verdict="correct",
        dropped=(("z", "is empty"),),
        usage=Usage(prompt_tokens=3, completion_tokens=1, cost_usd=cost_usd),
        latency_s=2.0,
        parse_form="json",
    )


def test_figures_by_hand() -> None:
    right, wrong, unknown = Score(reward=1.0), Score(reward=0.0), Score(reward=0.0, status=ScoreStatus.ERROR)
    figures = summarise(
        [
            row(1, critique(1.0), right),
            row(2, critique(0.5), wrong),
            row(3, critique(0.5, cost_usd=None), right),
            row(4, critique(0.0), unknown),
            row(5, critique(0.0), None),
            row(6, critique(0.9, outcome=CriticOutcome.FAILED)),
        ]
    )
    assert figures["rows"] == 6
    assert figures["outcomes"] == {"ok": 5, "failed": 1}
    assert figures["directives_per_ok_row"] == 2.0
    assert figures["directive_kinds"] == {"procedure": 5, "fact": 5}
    assert figures["dropped"] == {"is empty": 6}
    assert figures["verified_rows"] == 3
    assert figures["verdicts"] == {"agree": 2, "disagree": 1}
    assert figures["tokens"] == 6 * 4
    assert figures["cost_usd"] == 5 * 0.25
    assert figures["unpriced_rows"] == 1
    # Of the pairs (right, wrong): 1.0 beats 0.5, and 0.5 ties: (1 + 1/2) / 2. Unverified rows do not count.
    assert figures["scores"] == {
        "correctness": {"count": 5, "mean": pytest.approx(0.4), "min": 0.0, "max": 1.0, "auroc": 0.75, "judged": 3}
    }


def test_nothing_gives_none_not_zero() -> None:
    figures = summarise([])
    assert figures["directives_per_ok_row"] is None
    assert figures["mean_latency_s"] is None
    alone = summarise([row(1, critique(0.5), Score(reward=1.0))])
    assert isinstance(alone["scores"], dict)
    assert alone["scores"]["correctness"]["auroc"] is None


def test_a_price_that_nobody_knows_is_none() -> None:
    assert summarise([row(1, critique(0.5, cost_usd=None))])["cost_usd"] is None


def test_members_of_a_panel_are_paid_one_by_one_and_cached_replies_not_at_all() -> None:
    def member(name: str, *, cached: bool = False) -> Critique:
        usage = Usage(cost_usd=0.0) if cached else Usage(prompt_tokens=5, cost_usd=0.5)
        return Critique(rollout_id="r", critic=name, outcome=CriticOutcome.OK, usage=usage, cached=cached, asks=2)

    panel = Critique(
        rollout_id="r",
        critic="panel",
        outcome=CriticOutcome.OK,
        usage=Usage(prompt_tokens=10, cost_usd=1.0),
        members=(member("a"), member("b"), member("a", cached=True)),
    )
    spent = spent_by_critic([panel, panel])
    assert set(spent) == {"a", "b"}
    assert (spent["a"].calls, spent["a"].tokens, spent["a"].cost_usd) == (4, 10, 1.0)
    assert total(together(spent, spent)).cost_usd == 4.0
    assert spent_on(member("a", cached=True)).calls == 0
