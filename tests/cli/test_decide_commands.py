"""`calibrate` and `decide` from the command line, on records that no trainer of ours wrote; and whatever is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from critique_rl.cli.main import main
from critique_rl.stats.calibration import Calibrator

Capture = pytest.CaptureFixture[str]
ROOT = Path(__file__).parents[2]
Q = [0.95, 0.9, 0.9, 0.8, 0.7, 0.6, 0.55, 0.3, 0.2, 0.0]
C = [True, True, False, True, True, False, True, False, True, False]
GOOD = '{"confidence": 0.5, "correct": true}'


def _write(name: str, *rows: object) -> str:
    Path(name).write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return name


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty directory with ten known records, and 600 of somebody who is too sure."""
    monkeypatch.chdir(tmp_path)
    _write("ten.jsonl", *({"confidence": q, "correct": c} for q, c in zip(Q, C, strict=True)))
    rng = np.random.default_rng(0)
    p = rng.uniform(0.02, 0.98, 600)
    stated = 1 / (1 + ((1 - p) / p) ** 2)
    rows = zip(stated.round(4).tolist(), (rng.random(600) < p).tolist(), strict=True)
    _write("sure.jsonl", *({"sure": q, "ok": c, "who": f"u{n // 2}"} for n, (q, c) in enumerate(rows)))


def refused(capfd: Capture, *arguments: str) -> str:
    """The one line that a command writes before it returns 2."""
    assert main(list(arguments)) == 2
    shown = capfd.readouterr()
    assert shown.err.startswith("critique-rl: error: ") and shown.err.count("\n") == 1, shown.err
    assert shown.out == ""
    return shown.err


def test_calibrate_then_decide_for_several_prices(capfd: Capture) -> None:
    fields = ["--confidence", "sure", "--correct", "ok"]
    fit = ["calibrate", "sure.jsonl", *fields, "--method", "temperature", "--group", "who", "--output", "cal.json"]
    assert main(fit) == 0
    shown = capfd.readouterr()
    assert shown.err == ""
    assert shown.out.startswith("temperature ") and shown.out.endswith("calibrator: cal.json\n")
    value = json.loads(Path("cal.json").read_text())
    assert Calibrator.from_dict(value).temperature == pytest.approx(2.0, abs=0.5)
    assert value["report"]["held_out_after"]["ece"] < value["report"]["held_out_before"]["ece"]
    assert value["report"]["group"] == "who"
    argument = ["decide", "sure.jsonl", *fields, "--calibrator", "cal.json", "--penalty", "1", "4", "9"]
    assert main([*argument, "--draws", "50", "--output", "out"]) == 0
    shown = capfd.readouterr()
    assert [line.split()[:3] for line in shown.out.splitlines()[1:4]] == [
        ["penalty", "1", "0.5"], ["penalty", "4", "0.8"], ["penalty", "9", "0.9"]
    ]  # fmt: skip
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "curve.csv", "curve.png", "decision.json", "decisions.jsonl"
    ]  # fmt: skip
    table = json.loads(Path("out/decision.json").read_text())["regimes"]
    coverages = [entry["coverage"] for entry in table]
    assert coverages == sorted(coverages, reverse=True)
    assert len(Path("out/decisions.jsonl").read_text().splitlines()) == 1800


def test_utilities_of_known_records(capfd: Capture) -> None:
    assert main(["decide", "ten.jsonl", "--raw", "--utilities", "1,-4,0", "1,0,0.25", "--draws", "20"]) == 0
    shown = capfd.readouterr()
    assert "critique-rl: warning: 10 records are few" in shown.err
    lines = [line.split() for line in shown.out.splitlines()]
    assert lines[1][:5] == ["1,-4,0", "0.8", "40.0%", "75.0%", "-0.1"]
    assert lines[2][:3] == ["1,0,0.25", "0.25", "80.0%"]
    assert main(["decide", "ten.jsonl", "--raw", "--utilities=-1,-6,-2", "--draws", "20"]) == 0
    assert capfd.readouterr().out.splitlines()[1].split()[:2] == ["-1,-6,-2", "0.8"]


def test_costs_of_class_probabilities(capfd: Capture) -> None:
    _write("costs.json", {"actions": ["a", "b", "c", "abstain"], "costs": [[0, 5, 9], [1, 0, 4], [2, 1, 0], [1.5] * 3]})
    _write("p.jsonl", {"probs": [0.6, 0.3, 0.1], "truth": 1}, {"probs": [0.95, 0.04, 0.01], "truth": 0})
    argument = ["decide", "p.jsonl", "--costs", "costs.json", "--probabilities", "probs", "--label", "truth"]
    assert main([*argument, "--raw", "--output", "out"]) == 0
    assert "expected cost per record 0.645" in capfd.readouterr().out
    actions = [json.loads(line)["action"] for line in Path("out/decisions.jsonl").read_text().splitlines()]
    assert actions == ["b", "a"]
    # Free of the weights (.6, .3, .1) is (1, 1, 1) / 3: costs 14 / 3, 5 / 3, 1, 1.5
    assert main([*argument, "--class-weights", "6", "3", "1", "--output", "out"]) == 0
    assert json.loads(Path("out/decisions.jsonl").read_text().splitlines()[0])["action"] == "c"


def test_costs_of_confidences(capfd: Capture) -> None:
    _write("costs.json", {"actions": ["hold", "send"], "classes": ["wrong", "right"], "costs": [[0, 1], [4, 0]]})
    assert main(["decide", "ten.jsonl", "--raw", "--costs", "costs.json", "--output", "out"]) == 0
    shown = capfd.readouterr().out
    assert "threshold 0.8" in shown
    # At .8 both cost the same, and the first row is taken. Sent: .95 .9 .9, one of them wrong: 4; four right ones held.
    assert "cost per record 0.8 " in shown
    assert "best single action hold: 0.6" in shown


def test_a_class_weight_of_confidences(capfd: Capture) -> None:
    _write("q.jsonl", {"confidence": 0.5}, {"confidence": 0.99})
    assert main(["decide", "q.jsonl", "--class-weights", "99", "--penalty", "1", "--output", "out"]) == 0
    lines = [json.loads(line) for line in Path("out/decisions.jsonl").read_text().splitlines()]
    assert [line["probability"] for line in lines] == pytest.approx([0.01, 0.5])
    assert [line["action"] for line in lines] == ["abstain", "answer"]
    assert "no record says whether it was right" in capfd.readouterr().out


def test_several_answers_per_question(capfd: Capture) -> None:
    rows = [("A", 0.9, True), ("B", 0.3, False), ("B", 0.4, False), ("C", 0.5, False)]
    _write("votes.jsonl", *({"group": 1, "answer": a, "confidence": q, "correct": c} for a, q, c in rows))
    argument = ["decide", "votes.jsonl", "--raw", "--penalty", "1", "--output", "out"]
    for how, probability, action in (("mean", 0.9, "answer"), ("vote", 0.9 / 2.1, "abstain")):
        assert main([*argument, "--pool", how]) == 0
        lines = [json.loads(line) for line in Path("out/decisions.jsonl").read_text().splitlines()]
        assert len(lines) == 1
        assert (lines[0]["answer"], lines[0]["action"]) == ("A", action)
        assert lines[0]["probability"] == pytest.approx(probability)
    capfd.readouterr()


def test_strict_refuses_where_there_would_be_a_warning(capfd: Capture) -> None:
    err = refused(capfd, "calibrate", "ten.jsonl", "--output", "cal.json", "--strict")
    assert "--strict: fitted part: 5 records are few" in err
    assert not Path("cal.json").exists()
    err = refused(capfd, "decide", "ten.jsonl", "--raw", "--penalty", "1", "--output", "out", "--strict")
    assert "10 records are few" in err
    assert not Path("out").exists()


# -- bad input ---------------------------------------------------------------------------------------------------------

RECORDS: list[tuple[tuple[object, ...], str]] = [
    ((), "'bad.jsonl' holds no records"),
    ((GOOD, "{not json"), "bad.jsonl, line 2: not JSON"),
    ((GOOD, '{"confidence": 0.5, "cor'), "bad.jsonl, line 2: not JSON"),
    ((GOOD, {"confidence": "95%", "correct": True}), 'line 2: confidence is "95%"; wanted a number from 0 to 1'),
    ((GOOD, '{"confidence": NaN, "correct": true}'), "line 2: holds NaN"),
    ((GOOD, {"confidence": "nan", "correct": True}), 'line 2: confidence is "nan"'),
    ((GOOD, {"confidence": 1.5, "correct": True}), "line 2: confidence is 1.5"),
    (({"correct": True},), "line 1: confidence is missing or null"),
    ((GOOD, "[1, 2]"), "line 2: got [1, 2]; wanted a JSON object"),
]


@pytest.mark.parametrize(("rows", "wanted"), RECORDS)
def test_bad_records(capfd: Capture, rows: tuple[object, ...], wanted: str) -> None:
    _write("bad.jsonl", *rows)
    assert wanted in refused(capfd, "calibrate", "bad.jsonl", "--output", "cal.json")
    assert wanted in refused(capfd, "decide", "bad.jsonl", "--raw", "--penalty", "1")


def test_too_little_to_fit(capfd: Capture) -> None:
    one, same = _write("one.jsonl", GOOD), _write("same.jsonl", *[GOOD] * 8)
    unknown = _write("unknown.jsonl", {"confidence": 0.5})
    assert "1 record cannot be split" in refused(capfd, "calibrate", one, "--output", "c.json")
    assert "all 4 records of the fitted part are right" in refused(capfd, "calibrate", same, "--output", "c.json")
    assert "correct is missing or null" in refused(capfd, "calibrate", unknown, "--output", "c.json")
    assert main(["decide", one, "--raw", "--penalty", "1"]) == 0


PRICES = [
    ([], "decide needs what a mistake costs"),
    (["--utilities", "0,0,1"], "--utilities 0,0,1: a right answer is worth 0 and a wrong one 0"),
    (["--utilities", "0,1,0"], "wanted more for the right one"),
    (["--utilities", "1,0"], "wanted three numbers C,W,A"),
    (["--utilities", "1,nan,0"], "--utilities holds 'nan'; wanted a finite number"),
    (["--utilities", "1,x,0"], "--utilities holds 'x'"),
    (["--utilities", "1,-1,0", "1,-1,0"], "'1,-1,0' came twice"),
    (["--penalty", "inf"], "--penalty holds 'inf'"),
    (["--penalty=-2"], "--penalty -2: the penalty is -2.0; wanted a finite number >= 0"),
    (["--penalty", "1", "1.0"], "'penalty 1' came twice"),
    (["--penalty", "1", "--answer", "a"], "--answer has an effect with --pool only"),
    (["--penalty", "1", "--label", "y"], "--label has an effect with --costs only"),
    (["--penalty", "1", "--pool", "mean"], "answer is missing or null"),
    (["--costs", "none.json"], "none.json"),
    (["--costs", "ten.jsonl"], "ten.jsonl is not JSON"),
]


@pytest.mark.parametrize(("price", "wanted"), PRICES, ids=[" ".join(price) for price, _ in PRICES])
def test_prices_that_decide_nothing(capfd: Capture, price: list[str], wanted: str) -> None:
    assert wanted in refused(capfd, "decide", "ten.jsonl", "--raw", *price)


COSTS = [
    ([[0, 1], [0, 1]], "all rows of the costs are equal"),
    ("[[0, NaN], [1, 0]]", "row 0 of the costs holds nan"),
    ([[0, 1, 2], [1, 0, 2]], "costs.json has 3 columns"),
    ([[0, 1], [1]], "each with one number per class"),
]


@pytest.mark.parametrize(("costs", "wanted"), COSTS)
def test_costs_that_decide_nothing(capfd: Capture, costs: object, wanted: str) -> None:
    _write("costs.json", costs)
    assert wanted in refused(capfd, "decide", "ten.jsonl", "--raw", "--costs", "costs.json")


def test_what_does_not_go_together(capfd: Capture) -> None:
    _write("costs.json", [[0, 1], [1, 0]])
    _write("p.jsonl", {"probabilities": [0.5, 0.5]})
    assert main(["calibrate", "sure.jsonl", "--confidence", "sure", "--correct", "ok", "--output", "cal.json"]) == 0
    capfd.readouterr()
    costs, decide = ["--costs", "costs.json"], "decide"
    assert "a calibrator maps one confidence" in refused(capfd, decide, "p.jsonl", *costs, "--calibrator", "cal.json")
    assert "wanted 2" in refused(capfd, decide, "p.jsonl", *costs, "--class-weights", "1", "2", "3")
    assert "one class weight" in refused(capfd, decide, "ten.jsonl", *costs, "--class-weights", "1", "2")
    assert "--pool has an effect" in refused(capfd, decide, "ten.jsonl", *costs, "--raw", "--pool", "mean")
    one = ["--penalty", "1"]
    assert "decide needs --calibrator" in refused(capfd, decide, "ten.jsonl", *one)
    assert "one weight" in refused(capfd, decide, "ten.jsonl", *one, "--class-weights", "1", "2")
    assert "wanted numbers above 0" in refused(capfd, decide, "ten.jsonl", *one, "--class-weights", "0")
    assert "method is None" in refused(capfd, decide, "ten.jsonl", *one, "--calibrator", _write("x.json", "{}"))
    assert "none.json" in refused(capfd, decide, "ten.jsonl", *one, "--calibrator", "none.json")
    assert "none.jsonl" in refused(capfd, decide, "none.jsonl", *one, "--raw")
    assert "of no known form" in refused(capfd, decide, _write("a.csv", "confidence"), *one, "--raw")


@pytest.mark.parametrize("share", ["0", "1", "nan", "half"])
def test_a_share_that_is_none(capfd: Capture, share: str) -> None:
    assert "--held-out" in refused(capfd, "calibrate", "ten.jsonl", "--output", "c.json", "--held-out", share)


def test_no_run_key_is_taken(capfd: Capture) -> None:
    assert "unknown argument '--seeds=1'" in refused(
        capfd, "decide", "ten.jsonl", "--raw", "--penalty", "1", "--seeds=1"
    )


def test_neither_command_loads_torch() -> None:
    code = (
        "import sys; from critique_rl.cli.main import main; "
        "main(['decide', 'ten.jsonl', '--raw', '--penalty', '4', '--draws', '5']); "
        "main(['calibrate', 'ten.jsonl', '--output', 'c.json']); "
        "assert not {'torch', 'transformers', 'litellm', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
