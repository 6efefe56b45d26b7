"""Answer or abstain: a known set under several regimes, pooled answers, unknown truth, and what is warned about."""

from __future__ import annotations

import numpy as np
import pytest

from critique_rl.decisions.deciding import Case, Decided, Regime, believed, decide, pooled
from critique_rl.decisions.records import ConfidenceRecord
from critique_rl.errors import DataError
from critique_rl.stats.calibration import fit_temperature
from critique_rl.stats.decisions import Utilities

Q = [0.95, 0.9, 0.9, 0.8, 0.7, 0.6, 0.55, 0.3, 0.2, 0.0]
C = [True, True, False, True, True, False, True, False, True, False]
REGIMES = [Regime(name=f"penalty {n}", utilities=Utilities.of_penalty(n)) for n in (1, 4, 9)]


def _records(*, labelled: bool = True) -> list[ConfidenceRecord]:
    return [
        ConfidenceRecord(where=f"line {n}", confidence=q, correct=c if labelled else None)
        for n, (q, c) in enumerate(zip(Q, C, strict=True))
    ]


def _decided(*utilities: Utilities, calibrated: bool = False) -> Decided:
    calibrator = fit_temperature(Q, C) if calibrated else None
    regimes = [Regime(name=str(n), utilities=u) for n, u in enumerate(utilities)]
    return decide(believed(_records(), calibrator), regimes, draws=50)


def _members(*rows: tuple[str, str, float, bool | None]) -> list[Case]:
    records = [
        ConfidenceRecord(where=f"line {n}", confidence=p, correct=right, answer=answer, group=group)
        for n, (group, answer, p, right) in enumerate(rows)
    ]
    return believed(records, None)


def test_a_known_set_under_three_penalties() -> None:
    decided = decide(believed(_records(), None), REGIMES, draws=50)
    assert [entry["threshold"] for entry in decided.table] == [0.5, 0.8, 0.9]
    assert [entry["coverage"] for entry in decided.table] == [0.7, 0.4, 0.3]
    # (5 - 2) / 10; (3 - 4) / 10; (2 - 9) / 10
    assert [entry["utility"] for entry in decided.table] == pytest.approx([0.3, -0.1, -0.7])
    assert [entry["answer_all_utility"] for entry in decided.table] == pytest.approx([0.2, -1.0, -3.0])
    assert [entry["selective_accuracy"] for entry in decided.table] == pytest.approx([5 / 7, 3 / 4, 2 / 3])
    assert [entry["best_threshold"] for entry in decided.table] == [0.2, 0.95, 0.95]
    assert [entry["regret"] for entry in decided.table] == pytest.approx([0.0, 0.2, 0.8])
    assert decided.actions[1] == ["answer"] * 4 + ["abstain"] * 6
    assert decided.figures is not None and decided.figures.brier == pytest.approx(0.2245)
    assert decided.warnings[0] == "10 records are few; wanted at least 100"


def test_calibrated_first_nothing_reaches_a_penalty_of_four() -> None:
    decided = _decided(Utilities.of_penalty(4), calibrated=True)
    entry = decided.table[0]
    assert (entry["coverage"], entry["utility"], entry["selective_accuracy"]) == (0.0, 0.0, None)
    assert entry["note"] == "no record reaches the threshold 0.8; the most probable one has 0.7939"
    assert entry["regret"] == pytest.approx(0.1)
    assert decided.actions[0] == ["abstain"] * 10


def test_expected_utility_believes_the_probabilities() -> None:
    # Answered: .95 .9 .9 .8 with 5 p - 4 each: .75 + .5 + .5 + 0 = 1.75
    assert _decided(Utilities.of_penalty(4)).table[0]["expected_utility"] == pytest.approx(0.175)


def test_regimes_in_which_confidence_decides_nothing_are_noted() -> None:
    always, never = _decided(Utilities(correct=1, wrong=0, abstain=0), Utilities(correct=1, wrong=0, abstain=2)).table
    assert (always["threshold"], always["coverage"]) == (0.0, 1.0)
    assert "every record is answered" in str(always["note"])
    assert (never["threshold"], never["coverage"], never["best_threshold"]) == (2.0, 0.0, None)
    assert never["utility"] == 2.0
    assert "nothing is answered" in str(never["note"])


def test_without_the_truth_there_are_decisions_and_no_judgement() -> None:
    decided = decide(believed(_records(labelled=False), None), REGIMES)
    assert decided.actions[2] == ["answer"] * 3 + ["abstain"] * 7
    assert (decided.curve, decided.figures, decided.warnings) == (None, None, ())
    assert "utility" not in decided.table[0]
    assert decided.table[1]["expected_utility"] == pytest.approx(0.175)


def test_a_class_weight_is_undone_first() -> None:
    records = [ConfidenceRecord(where="x", confidence=q) for q in (0.5, 0.99)]
    cases = believed(records, None, class_weight=99)
    assert [case.probability for case in cases] == pytest.approx([0.01, 0.5])
    assert [case.confidence for case in cases] == [0.5, 0.99]


def test_a_shift_is_warned_about() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(600)
    right = rng.random(600) < p

    def warned(stated: np.ndarray) -> str:
        records = [
            ConfidenceRecord(where="x", confidence=float(q), correct=bool(c))
            for q, c in zip(stated, right, strict=True)
        ]
        return " ".join(decide(believed(records, None), REGIMES[:1], draws=5).warnings)

    assert warned(p) == ""
    assert "not calibrated on these records: ECE 0." in warned(p**4)


# -- several answers to one question -----------------------------------------------------------------------------------


def test_one_decision_per_group() -> None:
    cases = _members(
        ("q1", "A", 0.9, True), ("q2", "X", 0.4, False), ("q1", "B", 0.3, False), ("q1", "B", 0.4, False),
        ("q1", "C", 0.5, False),
    )  # fmt: skip
    by_mean, by_vote = pooled(cases, "mean"), pooled(cases, "vote")
    assert [(c.answer, c.group, c.correct) for c in by_mean] == [("A", "q1", True), ("X", "q2", False)]
    assert [c.probability for c in by_mean] == [0.9, 0.4]
    assert [c.probability for c in by_vote] == pytest.approx([0.9 / 2.1, 1.0])
    decided = decide(by_mean, REGIMES[:2], draws=20)
    assert decided.actions == [["answer", "abstain"], ["answer", "abstain"]]
    assert decided.table[0]["utility"] == 0.5  # one right, one abstained


def test_verdicts_of_equal_answers_must_agree() -> None:
    cases = _members(("q", "A", 0.9, True), ("q", "A", 0.8, False))
    with pytest.raises(DataError, match=r"line 1: answer 'A' of group q .* line 0"):
        pooled(cases, "mean")


def test_groups_are_drawn_as_one() -> None:
    rows = [(f"q{n % 4}", "A", 0.9, n % 4 < 2) for n in range(80)]
    held = decide(_members(*rows), REGIMES[:1], draws=200).table[0]
    alone = [ConfidenceRecord(where="x", confidence=p, correct=c) for _, _, p, c in rows]
    loose = decide(believed(alone, None), REGIMES[:1], draws=200).table[0]

    def width(entry: dict[str, object]) -> float:
        low, high = entry["utility_low"], entry["utility_high"]
        assert isinstance(low, float) and isinstance(high, float)
        return high - low

    assert width(held) > 2 * width(loose)
