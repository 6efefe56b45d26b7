"""Two sentences and one table, from numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from critique_rl.report.headline import headline, percent, results, span, steps_text
from critique_rl.report.load import RunSet, load_run_set
from critique_rl.stats.intervals import wilson_interval

MakeRun = Callable[..., Path]


def rows(**rates: float) -> list[dict[str, object]]:
    return [
        {"arm": arm, "seed": 1, "class": "hard", "successes": round(100 * rate), "trials": 100}
        for arm, rate in rates.items()
    ]


def run_set_of(path: Path, table: Sequence[Mapping[str, object]], **fields: object) -> RunSet:
    (path / "summary.json").write_text(json.dumps({"table": table, **fields}))
    return load_run_set(path)


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    ("rate", "text"),
    [(0.0, "0 %"), (0.002, "0.2 %"), (0.42, "42 %"), (0.97, "97.0 %"), (0.996, "99.6 %"), (1.0, "100 %")],
)
def test_percentages(rate: float, text: str) -> None:
    assert plain(percent(rate)) == text


def test_spans_and_steps() -> None:
    assert plain(span(0.0, 0.011)) == "0.0–1.1 %"
    assert plain(span(0.4, 0.5)) == "40–50 %"
    assert (steps_text([14, 14]), steps_text([15, 12, 13])) == ("step 14", "steps 12–15")


def test_seeds_are_pooled_with_wilsons_interval_and_a_single_row_keeps_its_own(tmp_path: Path) -> None:
    table = [
        {"arm": "a", "seed": 1, "kind": "hard", "successes": 3, "trials": 10, "low": 0.1, "high": 0.6},
        {"arm": "a", "seed": 2, "kind": "hard", "successes": 5, "trials": 10, "low": 0.2, "high": 0.8},
        {"arm": "b", "seed": 1, "kind": "hard", "successes": 9, "trials": 10, "low": 0.5, "high": 0.95},
    ]
    first, second = results(run_set_of(tmp_path, table))
    assert (first.success, first.successes, first.trials, len(first.seeds)) == (0.4, 8, 20, 2)
    assert (first.low, first.high) == wilson_interval(8, 20)
    assert (second.low, second.high) == (0.5, 0.95)


def test_the_class_that_tells_the_arms_apart_comes_first(tmp_path: Path) -> None:
    table = rows(a=0.1, b=0.9) + [row | {"class": "easy"} for row in rows(a=0.9, b=0.95)]
    assert [r.kind for r in results(run_set_of(tmp_path, table))] == ["hard", "hard", "easy", "easy"]


def test_a_clear_winner_is_named(tmp_path: Path, make_run: MakeRun) -> None:
    outcome, trigger = headline(load_run_set(make_run(tmp_path)))
    assert plain(outcome) == (
        "On hard problems, scalar GRPO stalled at 0.2 % (0.1–0.7 %); both channels reached 97.0 % (95.7–97.9 %) "
        "with the same 304k generated tokens."
    )
    assert trigger == (
        "The stall was detected at step 14, before the first critic call at step 14; "
        "876 critiques were asked for over 2 seeds."
    )


def test_overlapping_intervals_are_no_victory(tmp_path: Path) -> None:
    outcome, trigger = headline(run_set_of(tmp_path, rows(grpo=0.50, two_channel=0.55)))
    assert outcome.startswith("On hard problems, no arm is clearly ahead: scalar GRPO ended at 50")
    assert trigger == ""


def test_equal_tokens_are_claimed_only_if_they_are_equal(tmp_path: Path) -> None:
    table = [row | {"generated_tokens": n} for row, n in zip(rows(a=0.1, b=0.9), (1000, 2000), strict=True)]
    assert "same" not in headline(run_set_of(tmp_path, table))[0]
    assert "ended at" in headline(run_set_of(tmp_path, table))[0]


def test_a_run_without_a_table_says_how_far_it_got(tmp_path: Path, make_run: MakeRun) -> None:
    (make_run(tmp_path, ("grpo",), (1,)) / "summary.json").unlink()
    outcome, trigger = headline(load_run_set(tmp_path))
    assert plain(outcome).startswith("This run is recorded up to step 159 with a mean reward of 49 %")
    assert trigger == "A stall was detected at step 14; no critic was asked."


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([{"step": 0, "critic/calls": 0}], "No stall was detected, and no critic was asked."),
        (
            [{"step": 3, "critic/calls": 2}],
            "The critic was first asked at step 3, without a detected stall; 2 critiques were asked for.",
        ),
        (
            [{"step": 3, "critic/calls": 2}, {"step": 4, "plateau/plateaued": 1}],
            "The stall was detected at step 4, not before the first critic call at step 3; 2 critiques were asked for.",
        ),
        (
            [{"step": 0, "critic/calls": 2}, {"step": 4, "plateau/plateaued": 1}],
            "The stall was detected at step 4, not before the first critic call at step 0; 2 critiques were asked for.",
        ),
    ],
)
def test_the_order_of_stall_and_critic_is_told_as_it_was(
    tmp_path: Path, lines: list[dict[str, float]], sentence: str
) -> None:
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert headline(load_run_set(tmp_path))[1] == sentence


def test_nothing_at_all(tmp_path: Path) -> None:
    assert headline(load_run_set(tmp_path)) == ("Nothing is recorded of this run yet.", "")
