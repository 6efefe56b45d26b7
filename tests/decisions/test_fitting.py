"""A calibrator from records: which part fits, which part judges, what is chosen, what is doubted, and its file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from critique_rl.decisions.fitting import calibrate, load, pairs_of, save
from critique_rl.decisions.records import ConfidenceRecord, split_records
from critique_rl.errors import DataError
from critique_rl.stats.calibration import Calibrator, fit_temperature
from critique_rl.stats.forecasts import forecast_figures


def _records(count: int, *, sharpness: float, seed: int = 0, groups: int = 0) -> list[ConfidenceRecord]:
    """Right with probability p, stated as sigmoid(sharpness * logit(p)): too sure where sharpness is above 1."""
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.02, 0.98, count)
    stated = 1 / (1 + ((1 - p) / p) ** sharpness)
    return [
        ConfidenceRecord(
            where=f"line {n}", confidence=float(q), correct=bool(right), group=f"g{n % groups}" if groups else None
        )
        for n, (q, right) in enumerate(zip(stated, rng.random(count) < p, strict=True))
    ]


def test_an_overconfident_file_is_cooled() -> None:
    fitted = calibrate(_records(800, sharpness=2.0), method="temperature")
    assert fitted.calibrator.temperature == pytest.approx(2.0, abs=0.4)
    assert fitted.after.ece < fitted.before.ece
    assert fitted.after.log_loss < fitted.before.log_loss
    assert fitted.after.auroc == pytest.approx(fitted.before.auroc)
    assert fitted.after.ece < fitted.chance
    assert fitted.warnings == ()


def test_fitted_on_one_part_and_judged_on_the_other() -> None:
    records = _records(300, sharpness=1.5)
    fit, held = split_records(records, held_out=0.4, seed=3)
    fitted = calibrate(records, method="temperature", held_out=0.4, seed=3)
    assert fitted.calibrator == fit_temperature(*pairs_of(fit))
    assert fitted.calibrator.count == 180
    q, c = pairs_of(held)
    assert fitted.before == forecast_figures(q, c)
    assert fitted.after == forecast_figures(fitted.calibrator.apply(q), c)


def test_auto_takes_the_smaller_cross_validated_loss() -> None:
    shifted = [
        ConfidenceRecord(
            where=r.where, confidence=1 / (1 + 9 * (1 - r.confidence) / max(r.confidence, 1e-9)), correct=r.correct
        )
        for r in _records(600, sharpness=1.0)
    ]  # logits too low by log 9: no temperature can mend that
    fitted = calibrate(shifted)
    assert set(fitted.log_losses) == {"temperature", "platt"}
    assert fitted.calibrator.method == "platt"
    assert fitted.log_losses["platt"] < fitted.log_losses["temperature"]


def test_isotonic_takes_part_from_a_thousand_records_on() -> None:
    assert set(calibrate(_records(2000, sharpness=1.0)).log_losses) == {"temperature", "platt", "isotonic"}
    fitted = calibrate(_records(600, sharpness=2.0), method="isotonic")
    assert fitted.calibrator.method == "isotonic"
    assert any("it wants about 1000" in warning for warning in fitted.warnings)


def test_auto_with_one_group_to_fit_on_takes_the_temperature() -> None:
    fitted = calibrate(_records(200, sharpness=2.0, groups=2))
    assert fitted.log_losses == {}
    assert fitted.calibrator.method == "temperature"


def test_doubts_are_told() -> None:
    few = calibrate(_records(40, sharpness=1.0), method="temperature")
    assert "fitted part: 20 records are few; wanted at least 100" in few.warnings
    assert "held-out part: 20 records are few; wanted at least 100" in few.warnings
    rng = np.random.default_rng(0)
    blind = [
        ConfidenceRecord(where="x", confidence=0.9 + 0.001 * (n % 3), correct=bool(rng.random() < 0.5))
        for n in range(400)
    ]
    told = " ".join(calibrate(blind, method="platt").warnings)
    assert "have collapsed (3 different values" in told
    turned = [
        ConfidenceRecord(where=r.where, confidence=1 - r.confidence, correct=r.correct)
        for r in _records(400, sharpness=1.0)
    ]
    assert "hardly rank right above wrong" in " ".join(calibrate(turned, method="platt").warnings)


def test_a_map_that_does_not_fit_the_held_out_part_is_told() -> None:
    # A temperature can do nothing about logits that are all too low.
    low = [
        ConfidenceRecord(where=r.where, confidence=r.confidence / 4, correct=r.correct)
        for r in _records(1000, sharpness=1.0)
    ]
    assert "calibrated records would stay below" in " ".join(calibrate(low, method="temperature").warnings)


def test_a_map_that_makes_the_held_out_part_worse_is_told() -> None:
    # The fitted part is too timid, the held-out part is not: the groups are two files of different kinds.
    timid = [replace(r, group="timid") for r in _records(800, sharpness=0.3)]
    sure = [replace(r, group="sure") for r in _records(800, sharpness=3.0, seed=1)]
    both = [*timid, *sure]
    seen: set[str | None] = set()
    for seed in range(6):
        held = split_records(both, held_out=0.5, seed=seed).held_out[0].group
        warnings = calibrate(both, method="temperature", seed=seed).warnings
        assert any("the map makes the held-out log loss worse, by 0." in warning for warning in warnings)
        seen.add(held)
    assert seen == {"timid", "sure"}


def test_noise_is_seldom_taken_for_a_worsening() -> None:
    told = [calibrate(_records(400, sharpness=1.0, seed=seed), method="temperature").warnings for seed in range(12)]
    assert sum(any("log loss" in warning for warning in warnings) for warnings in told) <= 1


def test_nothing_can_be_fitted_to_one_verdict() -> None:
    for right, word in ((True, "right"), (False, "wrong")):
        records = [ConfidenceRecord(where="x", confidence=n / 10, correct=right) for n in range(10)]
        with pytest.raises(DataError, match=f"all 5 records of the fitted part are {word}; wanted both"):
            calibrate(records)
    with pytest.raises(DataError, match="cannot be split"):
        calibrate(_records(1, sharpness=1.0))
    for share in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            calibrate(_records(10, sharpness=1.0), held_out=share)


# -- the file ----------------------------------------------------------------------------------------------------------


def test_the_file_is_what_the_calibrator_reads(tmp_path: Path) -> None:
    fitted = calibrate(_records(300, sharpness=2.0))
    path = tmp_path / "new" / "cal.json"
    save(fitted, path, about={"source": "x"})
    assert load(path) == fitted.calibrator
    value = json.loads(path.read_text(encoding="utf-8"))
    assert Calibrator.from_dict(value) == fitted.calibrator
    assert value["report"]["source"] == "x"
    assert value["report"]["held_out_after"]["records"] == 150
    assert value["report"]["cross_validated_log_loss"] == fitted.log_losses


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "is not JSON"),
        ("[1]", "holds no JSON object"),
        ("{}", "method is None"),
        ('{"method": "platt"}', "without a usable field"),
        ('{"confidence": 0.5, "correct": true}\n{"confidence": 0.5, "correct": true}', "is not JSON"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, text: str, wanted: str) -> None:
    path = tmp_path / "cal.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=f"cal.json.*{wanted}.*critique-rl calibrate"):
        load(path)
