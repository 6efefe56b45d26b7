"""`calibrate`: fit a map from stated to believable confidences on one part of a file, and judge it on the other.

Owns: the split, the choice among methods, the figures before and after, and the calibrator's file. Must not know: what
a mistake costs. The held-out part never chooses anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from critique_rl.decisions.records import ConfidenceRecord, split_records, unit_names
from critique_rl.errors import DataError
from critique_rl.stats.calibration import Calibrator, fit_isotonic, fit_platt, fit_temperature
from critique_rl.stats.forecasts import ForecastFigures, doubts, ece_by_chance, forecast_figures, log_loss, log_losses
from critique_rl.stats.intervals import mean_interval

Array = NDArray[np.float64]
Json = dict[str, object]
Choice = Literal["auto", "temperature", "platt", "isotonic"]
FOLDS = 5
ENOUGH_FOR_ISOTONIC = 1000
_FITS: Mapping[str, Callable[[Array, Array], Calibrator]] = {
    "temperature": fit_temperature,
    "platt": fit_platt,
    "isotonic": fit_isotonic,
}


class Pairs(NamedTuple):
    """Confidences and whether each was right, in one order."""

    q: Array
    correct: NDArray[np.bool_]


class Fitted(NamedTuple):
    """A calibrator, what it did to the held-out records, and why to doubt it.

    `chance` is the ECE that held-out records of such confidences exceed in one case of 100 though calibrated.
    `log_losses` holds the cross-validated log loss per method where the method was chosen.
    """

    calibrator: Calibrator
    before: ForecastFigures
    after: ForecastFigures
    chance: float
    log_losses: dict[str, float]
    warnings: tuple[str, ...]


def calibrate(
    records: Sequence[ConfidenceRecord], *, method: Choice = "auto", held_out: float = 0.5, seed: int = 0
) -> Fitted:
    """Fit on all but `held_out` of the records (whole groups), judge on the rest.

    `auto` takes the method of the smallest log loss in five folds of the fitted part; isotonic takes part from 1000
    records on. Raises DataError where nothing can be fitted: too few records, or only right or only wrong ones.
    """
    if not 0 < held_out < 1:
        raise ValueError(f"held_out is {held_out}; wanted a share between 0 and 1")
    split = split_records(records, held_out=held_out, seed=seed)
    fit, held = pairs_of(split.fit), pairs_of(split.held_out)
    if fit.correct.all() or not fit.correct.any():
        verdict = "right" if fit.correct.all() else "wrong"
        raise DataError(
            f"all {fit.q.size} records of the fitted part are {verdict}; wanted both right and wrong ones, else every "
            "confidence is mapped to one value: add records"
        )
    losses = _cross_validated(split.fit, seed=seed) if method == "auto" else {}
    chosen = min(losses, key=losses.__getitem__) if losses else "temperature" if method == "auto" else method
    calibrator = _FITS[chosen](fit.q, fit.correct.astype(np.float64))
    mapped = calibrator.apply(held.q)
    before, after = forecast_figures(held.q, held.correct), forecast_figures(mapped, held.correct)
    chance = ece_by_chance(mapped, seed=seed)
    return Fitted(calibrator, before, after, chance, losses, _warnings(chosen, fit, held, mapped, after, chance))


def save(fitted: Fitted, path: Path, *, about: Mapping[str, object]) -> None:
    """Write what `Calibrator.from_dict` reads, with `about` and the held-out figures beside it. Errors: OSError."""
    report: Json = {
        **about,
        "held_out_before": fitted.before._asdict(),
        "held_out_after": fitted.after._asdict(),
        "ece_by_chance": fitted.chance,
        "cross_validated_log_loss": fitted.log_losses,
        "warnings": list(fitted.warnings),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**fitted.calibrator.to_dict(), "report": report}, indent=2, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def load(path: Path) -> Calibrator:
    """Read a calibrator's file. Raises DataError naming it for anything else, OSError where it cannot be read."""
    try:
        value: object = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested too deeply
        raise DataError(f"{path} is not JSON ({error}); wanted what `critique-rl calibrate` writes") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} holds no JSON object; wanted what `critique-rl calibrate` writes")
    try:
        return Calibrator.from_dict(cast("dict[str, object]", value))
    except ValueError as error:
        raise DataError(f"{path}: {error}; wanted what `critique-rl calibrate` writes") from None


def pairs_of(records: Sequence[ConfidenceRecord]) -> Pairs:
    """The records as two arrays; each must say whether it was right."""
    return Pairs(np.array([r.confidence for r in records]), np.array([r.correct is True for r in records]))


def _cross_validated(records: Sequence[ConfidenceRecord], *, seed: int) -> dict[str, float]:
    """Mean log loss per record and method over five folds, whole groups to a fold; {} where one group is all."""
    methods = [name for name in _FITS if name != "isotonic" or len(records) >= ENOUGH_FOR_ISOTONIC]
    units = unit_names(records)
    names = list(dict.fromkeys(units))
    if len(names) < 2:
        return {}
    places = np.random.default_rng(seed).permutation(len(names)) % FOLDS
    fold_of = dict(zip(names, places.tolist(), strict=True))
    fold = np.array([fold_of[unit] for unit in units])
    q, correct = pairs_of(records)
    losses: dict[str, float] = {}
    for name in methods:
        mapped = np.empty(q.size)
        for n in np.unique(fold):
            rest = fold != n
            mapped[~rest] = _FITS[name](q[rest], correct[rest].astype(np.float64)).apply(q[~rest])
        losses[name] = log_loss(mapped, correct)
    return losses


def _warnings(
    method: str, fit: Pairs, held: Pairs, mapped: Array, after: ForecastFigures, chance: float
) -> tuple[str, ...]:
    found = [f"fitted part: {doubt}" for doubt in doubts(*fit)]
    found += [f"held-out part: {doubt}" for doubt in doubts(*held) if "collapsed" not in doubt]
    if method == "isotonic" and fit.q.size < ENOUGH_FOR_ISOTONIC:
        found.append(f"isotonic was fitted on {fit.q.size} records; it wants about {ENOUGH_FOR_ISOTONIC}")
    worse = mean_interval(log_losses(mapped, held.correct) - log_losses(held.q, held.correct), confidence=0.99)
    if worse.low > 0:
        found.append(f"the map makes the held-out log loss worse, by {worse.low:.4f} to {worse.high:.4f} nats a record")
    if after.ece > chance:
        found.append(
            f"the held-out ECE after the map is {after.ece:.3f}; calibrated records would stay below {chance:.3f} in "
            "99 of 100 cases"
        )
    return tuple(found)
