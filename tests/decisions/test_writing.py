"""What is printed and written: every file is read back, and says what was decided."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from critique_rl.decisions.costs import decide_by_costs, read_costs
from critique_rl.decisions.deciding import Regime, believed, decide
from critique_rl.decisions.fitting import calibrate
from critique_rl.decisions.records import ClassRecord, ConfidenceRecord
from critique_rl.decisions.writing import calibration_text, cost_text, decision_text, write_costs, write_decided
from critique_rl.stats.decisions import Utilities

Q = [0.95, 0.9, 0.9, 0.8, 0.7, 0.6, 0.55, 0.3, 0.2, 0.0]
C = [True, True, False, True, True, False, True, False, True, False]
REGIMES = [Regime(name=f"penalty {n}", utilities=Utilities.of_penalty(n)) for n in (1, 4)]


def _records(*, labelled: bool = True) -> list[ConfidenceRecord]:
    return [
        ConfidenceRecord(where=f"line {n}", confidence=q, correct=c if labelled else None, id=f"r{n}")
        for n, (q, c) in enumerate(zip(Q, C, strict=True))
    ]


def test_a_judged_decision_as_files(tmp_path: Path) -> None:
    decided = decide(believed(_records(), None), REGIMES, draws=20)
    paths = write_decided(decided, tmp_path / "new", about={"source": "x"})
    assert [path.name for path in paths] == ["decision.json", "decisions.jsonl", "curve.csv", "curve.png"]
    report = json.loads(paths[0].read_text(encoding="utf-8"))
    assert report["source"] == "x"
    assert report["regimes"][1]["utility"] == pytest.approx(-0.1)
    assert report["figures"]["auroc"] == pytest.approx(0.6875)
    assert report["risk_coverage"]["error_rate"] == pytest.approx(0.4)
    lines = [json.loads(line) for line in paths[1].read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 20
    assert lines[7] == {
        "where": "line 3", "id": "r3", "confidence": 0.8, "probability": 0.8, "regime": "penalty 4", "action": "answer"
    }  # fmt: skip
    assert lines[9]["action"] == "abstain"
    rows = list(csv.DictReader(paths[2].read_text(encoding="utf-8").splitlines()))
    assert [float(row["coverage"]) for row in rows] == pytest.approx([0.1, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    at = {float(row["threshold"]): row for row in rows}
    assert float(at[0.8]["utility, penalty 4"]) == pytest.approx(-0.1)
    assert float(at[0.55]["utility, penalty 1"]) == pytest.approx(0.3)
    assert float(at[0.8]["risk"]) == pytest.approx(0.25)
    assert float(at[0.8]["selective_accuracy"]) == pytest.approx(0.75)
    assert paths[3].read_bytes().startswith(b"\x89PNG")


def test_a_decision_without_the_truth_has_no_curve(tmp_path: Path) -> None:
    decided = decide(believed(_records(labelled=False), None), REGIMES)
    assert [path.name for path in write_decided(decided, tmp_path, about={})] == ["decision.json", "decisions.jsonl"]
    text = decision_text(decided)
    assert text.splitlines()[0].split() == ["regime", "threshold", "coverage", "expected", "utility"]
    assert text.endswith("no record says whether it was right, so nothing could be judged")


def test_the_table_of_a_judged_decision() -> None:
    lines = decision_text(decide(believed(_records(), None), REGIMES, draws=20)).splitlines()
    assert lines[1].split()[:6] == ["penalty", "1", "0.5", "70.0%", "71.4%", "0.3"]
    assert lines[2].split()[:6] == ["penalty", "4", "0.8", "40.0%", "75.0%", "-0.1"]
    # Coverage 1 to 10, .9s together: risks 0, 1/4, 1/3, .25, .2, 2/6, 2/7, 3/8, 3/9, .4
    area = (0 + 0.25 + 1 / 3 + 0.25 + 0.2 + 2 / 6 + 2 / 7 + 3 / 8 + 3 / 9 + 0.4) / 10
    assert lines[3].startswith(f"area under the risk-coverage curve {area:.4f} (perfect ranking 0.1126, by chance 0.4")


def test_the_best_threshold_may_be_none(tmp_path: Path) -> None:
    records = [ConfidenceRecord(where="x", confidence=0.9, correct=False)]
    decided = decide(believed(records, None), REGIMES, draws=5)
    assert "none answered" in decision_text(decided)
    report = json.loads(write_decided(decided, tmp_path, about={})[0].read_text(encoding="utf-8"))
    assert report["regimes"][0]["best_threshold"] is None


def test_costs_as_files_and_text(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text('{"actions": ["no", "yes", "ask"], "costs": [[0, 4], [1, 0], [9, 9]]}', encoding="utf-8")
    p = np.array([[0.5, 0.5], [0.9, 0.1]])
    records = [ClassRecord(where=f"line {n}", probabilities=(a, b)) for n, (a, b) in enumerate(p.tolist())]
    found = decide_by_costs(p, read_costs(path), labels=[1, 0], draws=20)
    text = cost_text(found)
    assert "yes" in text and "ask" in text and "is never chosen" in text
    assert "cost per record 0 [0, 0]" in text
    written = write_costs(found, records, tmp_path / "out", about={"costs": "c"})
    assert json.loads(written[0].read_text(encoding="utf-8"))["actions"] == {"no": 0.5, "yes": 0.5, "ask": 0.0}
    lines = [json.loads(line) for line in written[1].read_text(encoding="utf-8").splitlines()]
    assert lines == [
        {"where": "line 0", "expected_cost": 0.5, "action": "yes"},
        {"where": "line 1", "expected_cost": pytest.approx(0.4), "action": "no"},
    ]
    assert "cost per record" not in cost_text(decide_by_costs(p, read_costs(path))).replace("expected cost", "")


def test_the_table_of_a_calibration() -> None:
    fitted = calibrate(_records() * 30, method="auto")
    lines = calibration_text(fitted).splitlines()
    assert lines[0].startswith(("temperature ", "platt, slope ")) and "cross-validated log loss" in lines[0]
    assert [lines[2].split()[0], lines[3].split()[0], lines[4].split()[0]] == ["held", "before", "after"]
    assert lines[3].split()[1] == "150"
    assert "isotonic, " in calibration_text(calibrate(_records() * 30, method="isotonic"))
