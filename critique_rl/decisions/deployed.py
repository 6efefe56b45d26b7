"""What a policy's answers would be worth where a mistake costs L: by its own abstaining, or by calibrated confidence.

Owns: which half of the tasks counts, and what an answer that cannot be read is worth. Must not know: where answers come
from, files.

    u(answer) = 1 if right, -L if wrong;   u(none) = 0;   by confidence: answer where p >= L / (1 + L)

An answer that cannot be read is none, both ways: nobody could act on it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from critique_rl.config.ablation import DecisionsConfig
from critique_rl.errors import DataError
from critique_rl.stats.calibration import Calibrator, fit_isotonic, fit_platt, fit_temperature
from critique_rl.stats.calibration_error import batch_figures
from critique_rl.stats.decisions import Utilities, answers

Bools = NDArray[np.bool_]
_FITS: Mapping[str | None, Callable[[NDArray[np.float64], NDArray[np.float64]], Calibrator]] = {
    None: fit_platt,
    "platt": fit_platt,
    "temperature": fit_temperature,
    "isotonic": fit_isotonic,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutAnswer:
    """One judged answer to a held-out task. `confidence` is the stated one in [0, 1], None where none could be read."""

    task: str
    kind: str
    text: str
    correct: bool
    readable: bool
    confidence: float | None = None


def stated_figures(given: Sequence[HeldOutAnswer]) -> dict[str, float]:
    """How far stated confidences can be believed, over all classes: "confidence/ece" and its like."""
    figures = batch_figures([answer.confidence for answer in given], [answer.correct for answer in given])
    return {f"confidence/{name}": value for name, value in figures.items()}


def deployed_figures(
    given: Sequence[HeldOutAnswer], config: DecisionsConfig, *, by_confidence: bool
) -> dict[str, float]:
    """utility@L, coverage@L and precision@L (right of answered; missing where nothing is) on half of the tasks.

    The tasks in order of their names are drawn with a fixed seed, so that every policy asked the same is judged by the
    same half; the confidences of the other half are what a calibrator is fitted on. Errors: DataError for fewer than
    two tasks, or where nothing can be fitted.
    """
    judged = _judging_half([answer.task for answer in given])
    correct = np.array([answer.correct for answer in given])
    silent = np.array([not answer.readable or _abstains(answer.text, config.abstains) for answer in given])
    probabilities = _calibrated(given, ~judged, config) if by_confidence else None
    figures: dict[str, float] = {}
    for penalty in config.penalties:
        chosen = ~silent if probabilities is None else ~silent & answers(probabilities, _threshold(penalty))
        answered, right = chosen[judged], correct[judged]
        worth = np.where(answered, np.where(right, 1.0, -penalty), 0.0)
        figures[f"utility@{penalty:g}"] = float(worth.mean())
        figures[f"coverage@{penalty:g}"] = float(answered.mean())
        if answered.any():
            figures[f"precision@{penalty:g}"] = float(right[answered].mean())
    return figures


def _abstains(text: str, pattern: str | None) -> bool:
    return pattern is not None and re.fullmatch(pattern, text.strip()) is not None


def _threshold(penalty: float) -> float:
    return Utilities.of_penalty(penalty).threshold


def _judging_half(tasks: Sequence[str]) -> Bools:
    names = sorted(set(tasks))
    if len(names) < 2:
        raise DataError(f"{len(names)} held-out tasks; wanted at least two: one half to calibrate on, one to judge by")
    drawn = np.random.default_rng(0).permutation(len(names))[: len(names) // 2]
    judging = {names[i] for i in drawn.tolist()}
    return np.array([task in judging for task in tasks])


def _calibrated(given: Sequence[HeldOutAnswer], fitted: Bools, config: DecisionsConfig) -> NDArray[np.float64]:
    """The probability of being right by answer; one without a confidence gets -1, and is never given."""
    stated = np.array([answer.confidence is not None for answer in given])
    q = np.array([answer.confidence if answer.confidence is not None else 0.0 for answer in given])
    correct = np.array([float(answer.correct) for answer in given])
    known = fitted & stated
    if not known.any() or correct[known].min() == correct[known].max():
        raise DataError(
            f"{int(known.sum())} answers with a confidence, all right or all wrong: nothing to fit a calibrator on; "
            "train longer, ask more held-out tasks, or take the arm out of decisions.by_confidence"
        )
    calibrator = _FITS[config.calibrator](q[known], correct[known])
    return np.where(stated, calibrator.apply(q), -1.0)
