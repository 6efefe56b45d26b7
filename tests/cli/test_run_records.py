"""`calibrate` and `decide` on a finished run: its policy is asked once; answers without a confidence are left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from critique_rl.cli.main import main
from critique_rl.config.load import dump
from critique_rl.decisions.held_out import FILE
from tests.decisions.test_held_out import guess_config
from tests.lab_runs import run_lab


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    (directory / "config.json").write_text(dump(guess_config()), encoding="utf-8")
    run_lab(guess_config(), directory)
    return directory


def test_a_run_is_calibrated_and_decided(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calibrator = tmp_path / "calibrator.json"
    assert main(["calibrate", str(run), "--output", str(calibrator)]) == 0
    told = capsys.readouterr()
    assert f"60 held-out answers in {run / FILE}" in told.err
    report = json.loads(calibrator.read_text(encoding="utf-8"))["report"]
    assert (report["source"], report["group"]) == (str(run / FILE), "task")
    assert main(["decide", str(run), "--calibrator", str(calibrator), "--penalty", "1"]) == 0
    told = capsys.readouterr()
    assert "held-out answers" not in told.err  # the file is newer than the checkpoint
    assert "was fitted on a part of" in told.err
    assert main(["decide", str(run), "--calibrator", str(calibrator), "--penalty", "1", "--strict"]) == 2


def test_answers_without_a_confidence_are_left_out(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / FILE).unlink(missing_ok=True)
    assert main(["decide", str(run), "--raw", "--penalty", "1"]) == 0
    capsys.readouterr()
    rows = [json.loads(line) for line in (run / FILE).read_text(encoding="utf-8").splitlines()]
    rows[0]["confidence"] = None
    (run / FILE).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert main(["decide", str(run), "--raw", "--penalty", "1"]) == 0
    assert main(["decide", str(run / FILE), "--raw", "--penalty", "1"]) == 2
    assert "line 1: confidence is missing or null" in capsys.readouterr().err


def test_a_directory_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decide", str(tmp_path), "--raw", "--penalty", "1"]) == 2
    assert "is a directory without a run's config.json" in capsys.readouterr().err
