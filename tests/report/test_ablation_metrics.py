"""Metrics of a run by class and over seeds, by hand: pooling weighs by tasks, intervals never claim too much."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critique_rl.report.ablation_metrics import Figure, ends_of, figures_of, last_monitored, over_seeds

Json = dict[str, object]


def end(successes: int, trials: int, **more: object) -> Json:
    return {"successes": successes, "trials": trials, **more}


def rate(value: float, low: float, high: float) -> Json:
    return {"value": value, "low": low, "high": high}


def test_classes_are_those_of_the_run_unless_named() -> None:
    run: Json = {"end": {"n1": end(3, 4), "n2": end(1, 4)}}
    assert list(ends_of(run, ())) == ["n1", "n2"]
    assert list(ends_of(run, ["n2"])) == ["n2"]
    assert list(ends_of(run, ["all", "n1", "n9"])) == ["all", "n1"]


def test_pooling_by_hand() -> None:
    run: Json = {
        "end": {
            "n1": end(3, 4, rates={"pass@4": rate(1.0, 0.8, 1.0), "majority_vote": rate(1, 1, 1)}),
            "n2": end(1, 12, rates={"pass@4": rate(0.5, 0.4, 0.8)}, calibration={"ece": 0.9}),
        },
        "pooled": {"confidence/ece": 0.25},
    }
    found = ends_of(run, ["all"])["all"]
    assert (found["successes"], found["trials"]) == (4, 16)
    # p = .25 * 1 + .75 * .5; low p - sqrt((.25 * .2)^2 + (.75 * .1)^2) = p - sqrt(.008125); high p + .75 * .3
    # The vote is not there in every class.
    figures = figures_of(found)
    assert figures.keys() == {"pass@4", "confidence/ece"}
    assert figures["pass@4"] == pytest.approx((0.625, 0.625 - 0.0901388, 0.85))
    # Of all answers together, and no mean of classes.
    assert figures["confidence/ece"] == Figure(0.25)


def test_a_class_that_is_called_all_is_pooled_with_itself() -> None:
    run: Json = {"end": {"all": end(3, 4, rates={"pass@2": rate(0.9, 0.8, 1.0)})}}
    found = ends_of(run, ["all"])["all"]
    assert (found["successes"], found["trials"]) == (3, 4)
    assert figures_of(found)["pass@2"] == pytest.approx((0.9, 0.8, 1.0))
    assert ends_of({"end": {}}, ["all"]) == {}


def test_the_last_figure_of_each_monitor_counts(tmp_path: Path) -> None:
    assert last_monitored(tmp_path) == {}
    lines = [
        '{"step": 1, "monitor/probe/format/entropy": 0.9, "monitor/batch/turns": 1, "loss": 2.0}',
        '{"step": 2, "monitor/probe/format/entropy": 0.4, "monitor/probe/note": "x"}',
        '{"step": 3, "loss": 1.0}',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert last_monitored(tmp_path) == {"monitor/probe/format/entropy": 0.4, "monitor/batch/turns": 1.0}


def test_figures_have_the_names_of_columns() -> None:
    found = figures_of(end(1, 2, rates={"pass@4": rate(0.5, 0.1, 0.9)}, calibration={"ece": 0.2}))
    assert found == {"pass@4": Figure(0.5, 0.1, 0.9), "confidence/ece": Figure(0.2)}


def test_over_seeds_by_hand() -> None:
    # mean 0.2, sample std 0.1, t(2 df, .975) = 4.302653: half 4.302653 * 0.1 / sqrt(3) = 0.248414
    found = over_seeds([Figure(0.1), Figure(0.2), Figure(0.3)])
    assert found["mean"] == pytest.approx(0.2)
    assert (found["low"], found["high"]) == pytest.approx((0.2 - 0.248414, 0.2 + 0.248414), abs=1e-6)
    assert found["values"] == [0.1, 0.2, 0.3]


def test_a_rate_is_no_surer_than_its_tasks_allow() -> None:
    # All seeds agree, so that t has no width: the mean of the runs' own bounds is left.
    found = over_seeds([Figure(1.0, 0.8, 1.0), Figure(1.0, 0.9, 1.0)])
    assert (found["low"], found["high"]) == pytest.approx((0.85, 1.0))
    # Seeds that disagree widely: t is wider than [0, 1], which no rate leaves.
    wide = over_seeds([Figure(0.1, 0.05, 0.2), Figure(0.9, 0.85, 0.95)])
    assert (wide["low"], wide["high"]) == (0.0, 1.0)


def test_one_seed_has_its_own_bounds_or_none() -> None:
    assert over_seeds([Figure(0.5, 0.4, 0.7)])["low"] == 0.4
    assert over_seeds([Figure(0.8), Figure(1.0)])["high"] > 1.0
    assert over_seeds([Figure(0.8), Figure(1.0)], share=True)["high"] == 1.0
    assert over_seeds([Figure(0.5)]) == {"mean": 0.5, "low": None, "high": None, "values": [0.5]}


@pytest.mark.parametrize("figures", [[Figure(0.5), None], [None], []])
def test_a_seed_without_the_metric_leaves_no_mean(figures: Sequence[Figure | None]) -> None:
    found = over_seeds(figures)
    assert found["mean"] is found["low"] is found["high"] is None


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_the_mean_lies_inside_and_order_of_seeds_does_not_matter(values: list[float]) -> None:
    found = over_seeds([Figure(value, max(0.0, value - 0.1), min(1.0, value + 0.1)) for value in values])
    mean, low, high = (float(str(found[key])) for key in ("mean", "low", "high"))
    assert low - 1e-12 <= mean <= high + 1e-12
    back = over_seeds([Figure(v, max(0.0, v - 0.1), min(1.0, v + 0.1)) for v in reversed(values)])
    assert (float(str(back["low"])), float(str(back["high"]))) == pytest.approx((low, high), abs=1e-9)
