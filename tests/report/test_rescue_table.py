"""The rescue table: every figure by hand, unknown ones left out, and the text for a terminal."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest

from critique_rl.report.rescue_table import CONTROL, Arm, Json, Rescues, rescue_table, rescue_text
from critique_rl.stats.intervals import rate_difference_interval, wilson_interval
from critique_rl.types import CriticOutcome, Critique, Directive, Usage

ATTEMPTS = 20


def _critique(n: int, *, usd: float | None = 0.01) -> Critique:
    """Every fourth reply is malformed, every fifth holds no directive; all call the attempt incorrect."""
    usage = Usage(prompt_tokens=100, completion_tokens=20, cost_usd=usd)
    if n % 4 == 3:
        return Critique(rollout_id=str(n), critic="c", outcome=CriticOutcome.MALFORMED, usage=usage)
    said = () if n % 5 == 4 else (Directive(text="Carry the one."),)
    return Critique(
        rollout_id=str(n), critic="c", outcome=CriticOutcome.OK, directives=said, verdict="incorrect", usage=usage
    )


def _arm(name: str, *, right: int, usd: float | None = 0.01) -> Arm:
    critiques = tuple(_critique(n, usd=usd) for n in range(ATTEMPTS + 4))
    return Arm(
        name=name,
        rescues=tuple(Rescues(2, 2 if n == 0 else 1, 6) if n < right else Rescues(2, 0, 6) for n in range(ATTEMPTS)),
        critiques=critiques,
        scores=tuple(0.2 if n < ATTEMPTS else 0.8 for n in range(ATTEMPTS + 4)),
        correct=tuple(n >= ATTEMPTS for n in range(ATTEMPTS + 4)),
    )


def _control(right: int = 2) -> Arm:
    return Arm(name=CONTROL, rescues=tuple(Rescues(2, int(n < right), 5) for n in range(ATTEMPTS)))


def _entry(result: Json, name: str) -> Json:
    return next(entry for entry in cast("list[Json]", result["table"]) if entry["critic"] == name)


def test_figures_by_hand() -> None:
    result = rescue_table([_control(), _arm("c", right=11)], samples=2, tasks=5)
    entry = _entry(result, "c")
    assert (entry["second_attempts"], entry["right"], entry["rescued"]) == (40, 12, 11)
    assert entry["right_rate"] == 12 / 40
    assert (entry["right_low"], entry["right_high"]) == wilson_interval(12, 40)
    assert entry["rescue_rate"] == 11 / 20
    assert (entry["rescue_low"], entry["rescue_high"]) == wilson_interval(11, 20)
    assert entry["difference"] == pytest.approx(9 / 20)
    assert (entry["difference_low"], entry["difference_high"]) == rate_difference_interval(11, 20, 2, 20)
    assert entry["better_than_control"] is True
    # Of 20: 3, 7, 11, 15, 19 are malformed; 4, 9, 14 have no directive (19 is malformed already).
    assert entry["valid_rate"] == 15 / 20
    assert entry["usable_rate"] == 12 / 20
    assert entry["outcomes"] == {"ok": 15, "malformed": 5}
    # Of 24 replies 6 are malformed; "incorrect" is right of the 15 failed attempts and wrong of the 3 right ones.
    assert (entry["verdicts"], entry["verdict_accuracy"]) == (18, 15 / 18)
    assert (entry["scored"], entry["auroc"]) == (24, 1.0)
    assert entry["ece"] == pytest.approx(0.2)
    assert (entry["critic_prompt_tokens"], entry["critic_completion_tokens"]) == (2400, 480)
    assert entry["cost_usd"] == pytest.approx(0.24)
    assert entry["cost_per_rescue_usd"] == pytest.approx(0.24 / 11)
    assert entry["second_attempt_tokens"] == 120
    assert (result["attempts"], result["tasks"], result["samples"]) == (20, 5, 2)
    assert result["notes"] == []


def test_the_control_has_no_critic_figures() -> None:
    entry = _entry(rescue_table([_control()], samples=2, tasks=5), CONTROL)
    assert entry["rescue_rate"] == 0.1
    assert not {"critiques", "better_than_control", "auroc"} & entry.keys()


def test_what_is_unknown_is_none_and_no_row() -> None:
    silent = Arm(
        name="s",
        rescues=(Rescues(0, 0, 0),) * ATTEMPTS,
        critiques=tuple(_critique(3, usd=None) for _ in range(ATTEMPTS)),
        scores=(None,) * ATTEMPTS,
        correct=(False,) * ATTEMPTS,
    )
    result = rescue_table([_control(0), silent], samples=2, tasks=5)
    entry = _entry(result, "s")
    for key in ("right_rate", "verdict_accuracy", "auroc", "ece", "cost_usd", "cost_per_rescue_usd"):
        assert entry[key] is None
    assert entry["better_than_control"] is False
    named = {cast(str, row["name"]) for row in cast("list[Json]", result["rows"])}
    assert {"s/rescue_rate", "s/better_than_control", "control/rescue_rate"} <= named
    assert not {"s/auroc", "s/right_rate", "s/cost_per_rescue_usd"} & named
    assert "no right attempts" in cast("list[str]", result["notes"])[0]


def test_rows_have_the_form_that_docs_read() -> None:
    rows = cast("list[Json]", rescue_table([_control(), _arm("c", right=11)], samples=2, tasks=5)["rows"])
    assert all(row.keys() == {"name", "value", "unit", "target", "holds"} for row in rows)


def test_text_has_a_column_per_arm() -> None:
    lines = rescue_text(rescue_table([_control(), _arm("c", right=11)], samples=2, tasks=5)).splitlines()
    assert lines[0] == "20 failed attempts at 5 tasks, 2 second attempts each"
    found = {line.split("  ")[0]: line for line in lines[2:]}
    assert found["rescued"].split() == ["rescued", "10.0%", "[2.8%,", "30.1%]", "55.0%", "[34.2%,", "74.2%]"]
    assert found["better than control"].split()[-2:] == ["-", "yes"]
    assert found["critic tokens in + out"].split()[-4:] == ["-", "2400", "+", "480"]
    assert found["AUROC"].split() == ["AUROC", "-", "1.00"]
    assert len({len(line) for line in lines[2:]}) == 1


def test_replies_that_were_asked_for_again_are_told() -> None:
    arm = _arm("c", right=3)
    arm = replace(arm, critiques=(replace(arm.critiques[0], asks=2), *arm.critiques[1:]))
    notes = cast("list[str]", rescue_table([_control(), arm], samples=2, tasks=5)["notes"])
    assert [note.split(",")[0] for note in notes] == ["1 replies are second ones"]


def test_text_shows_notes_and_unpriced_calls() -> None:
    one_class = _arm("c", right=0, usd=None)
    n = ATTEMPTS
    only_wrong = Arm(
        name="c",
        rescues=one_class.rescues,
        critiques=one_class.critiques[:n],
        scores=one_class.scores[:n],
        correct=one_class.correct[:n],
    )
    text = rescue_text(rescue_table([_control(0), only_wrong], samples=2, tasks=5))
    assert "note: the file holds no right attempts" in text
    assert [line.split()[-1] for line in text.splitlines() if line.startswith("cost")] == ["-", "-"]
