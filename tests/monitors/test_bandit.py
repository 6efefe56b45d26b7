"""9.9: policies over three formats, trained by exact gradients of E[reward] - beta KL, end where the formulas say.

And the format monitor, shown their answers, tells a collapse and keeps silent where the penalty keeps formats alive.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from critique_rl.monitors.detectors import Rules, by_patterns
from critique_rl.monitors.formats import FormatMonitor
from critique_rl.monitors.prompts import prompts_of
from critique_rl.stats.formats import tilt_formats, tilt_inside
from tests.monitors.answers import PATTERNS, batch

ALPHA, ACCURACY = np.array([0.62, 0.28, 0.10]), np.array([0.20, 0.35, 0.10])
Array = NDArray[np.float64]


def ascend(start: Array, rewards: Array, *, beta: float, rate: float = 2.0, steps: int = 4000) -> list[Array]:
    """Softmax policies along the way; dJ/dz = p (f - p.f) with f = reward - beta ln(p / start)."""
    logits = np.log(start)
    course = [start]
    for _ in range(steps):
        p = np.exp(logits - logits.max())
        p /= p.sum()
        value = rewards - (beta * np.log(np.maximum(p, 1e-300) / start) if beta else 0.0)
        logits = logits + rate * p * (value - p @ value)
        course.append(p)
    return course


def joint(beta: float) -> tuple[Array, Array]:
    """Final shares and accuracies by format, of a policy over (format, right or wrong)."""
    start = np.concatenate([ALPHA * ACCURACY, ALPHA * (1 - ACCURACY)])
    final = ascend(start, np.array([1.0, 1, 1, 0, 0, 0]), beta=beta)[-1]
    return final[:3] + final[3:], final[:3] / (final[:3] + final[3:])


@pytest.mark.parametrize(
    ("beta", "shares", "accuracy"),
    [(0.2, [0.5369, 0.4184, 0.0447], 0.9782), (1.0, [0.5956, 0.3206, 0.0838], 0.4509)],
)
def test_9_9_formats_in_which_answers_can_become_right(beta: float, shares: list[float], accuracy: float) -> None:
    found, within = joint(beta)
    assert found == pytest.approx(shares, abs=2e-4)
    assert float(found @ within) == pytest.approx(accuracy, abs=2e-4)
    assert found == pytest.approx(tilt_inside(ALPHA, ACCURACY, beta), abs=1e-5)


@pytest.mark.parametrize(("beta", "shares"), [(0.2, [0.4869, 0.4655, 0.0476]), (0.05, [0.0991, 0.8988, 0.0022])])
def test_9_9_the_format_is_all_that_can_change(beta: float, shares: list[float]) -> None:
    found = ascend(ALPHA, ACCURACY, beta=beta, steps=20_000)[-1]
    assert found == pytest.approx(shares, abs=1e-4)
    assert found == pytest.approx(tilt_formats(ALPHA, ACCURACY, beta), abs=1e-4)


def test_9_9_without_a_penalty_the_most_accurate_format_takes_all() -> None:
    found = ascend(ALPHA, ACCURACY, beta=0.0, rate=0.5, steps=20_000)[-1]
    assert found == pytest.approx([0.0002, 0.9996, 0.0001], abs=1e-4)


def told_on_the_way(course: list[Array], *, beta: float) -> list[str]:
    """The alerts at ten observations of five hundred answers, evenly spread over the course."""
    watch = FormatMonitor(Rules(by_patterns(PATTERNS)), kl_weight=beta, early_steps=20)
    told: list[str] = []
    for step, at in enumerate(np.linspace(0, len(course) - 1, 11).astype(int)):
        told += watch.observe(step, prompts_of(batch(course[at].tolist(), ACCURACY.tolist(), samples=500)))[1]
    return told


def test_9_9_the_monitor_tells_the_two_collapses_and_not_the_kept_formats() -> None:
    assert told_on_the_way(ascend(ALPHA, ACCURACY, beta=0.2, steps=1000), beta=0.2) == []
    low = told_on_the_way(ascend(ALPHA, ACCURACY, beta=0.05, steps=1000), beta=0.05)
    none = told_on_the_way(ascend(ALPHA, ACCURACY, beta=0.0, rate=0.5, steps=20_000), beta=0.0)
    for told in (low, none):
        assert any("'b' has risen from 28%" in message for message in told)
        assert not any("not" in message and "'a'" in message for message in told)  # the .62 format is not the winner


def test_the_collapse_to_the_best_format_is_explained_by_the_second_bracket() -> None:
    final = ascend(ALPHA, ACCURACY, beta=0.05)[-1]
    watch = FormatMonitor(Rules(by_patterns(PATTERNS)), kl_weight=0.05, early_steps=20)
    watch.observe(0, prompts_of(batch(ALPHA.tolist(), ACCURACY.tolist())))
    figures, _ = watch.observe(20, prompts_of(batch(final.tolist(), ACCURACY.tolist())))
    assert abs(figures["excess_dominance"]) < 0.01
    assert figures["predicted_inside/b"] < 0.5 < figures["predicted_formats/b"]
