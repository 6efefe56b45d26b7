"""Two sentences and one table, from numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from critique_rl.report.headline import headline, interval_basis, percent, results, span, steps_text
from critique_rl.report.load import RunSet, load_run_set
from critique_rl.stats.intervals import mean_interval, wilson_interval

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


def seeds(*counts: tuple[int, int], arm: str = "a", **bounds: float) -> list[dict[str, object]]:
    return [
        {"arm": arm, "seed": seed, "kind": "hard", "successes": k, "trials": n, **bounds}
        for seed, (k, n) in enumerate(counts, start=1)
    ]


def test_over_seeds_the_rate_is_the_mean_and_students_t_tells_how_far_seeds_differ(tmp_path: Path) -> None:
    (found,) = results(run_set_of(tmp_path, seeds((120, 200), (80, 200), (100, 200), low=0.1, high=0.2)))
    # Rates 0.6, 0.4, 0.5: mean 0.5, s = 0.1, t_2 = 4.302653, half width 4.302653 * 0.1 / sqrt(3) = 0.248414
    assert (found.low, found.high) == pytest.approx((0.251586, 0.748414), abs=1e-6)
    assert (found.success, found.successes, found.trials, found.seeds_counted) == (0.5, 300, 600, 3)
    pooled = wilson_interval(300, 600)
    assert found.low < pooled.low < pooled.high < found.high


def test_each_seed_counts_alike_whatever_its_trials(tmp_path: Path) -> None:
    (found,) = results(run_set_of(tmp_path, seeds((1, 10), (900, 1000))))
    assert found.success == 0.5  # (0.1 + 0.9) / 2, where the pool of trials says 901 / 1010 = 0.89
    assert (found.low, found.high) == (0.0, 1.0)  # 0.5 +- 12.7 * 0.57 / sqrt(2), of a share


def test_seeds_that_agree_are_no_certainty(tmp_path: Path) -> None:
    (found,) = results(run_set_of(tmp_path, seeds((0, 200), (0, 200), (0, 200))))
    assert mean_interval([0.0, 0.0, 0.0]) == (0.0, 0.0)
    assert (found.low, found.high) == wilson_interval(0, 600)


def test_one_seed_has_the_interval_of_its_row_or_wilsons(tmp_path: Path) -> None:
    own, plain_row = results(run_set_of(tmp_path, seeds((3, 10), low=0.1, high=0.6) + seeds((9, 10), arm="b")))
    assert (own.low, own.high) == (0.1, 0.6)
    assert (plain_row.low, plain_row.high) == wilson_interval(9, 10)


def test_a_seed_without_trials_is_no_seed(tmp_path: Path) -> None:
    (found,) = results(run_set_of(tmp_path, seeds((9, 10), (0, 0))))
    assert (found.success, found.seeds_counted, len(found.seeds)) == (0.9, 1, 2)
    assert (found.low, found.high) == wilson_interval(9, 10)
    (nothing,) = results(run_set_of(tmp_path, seeds((0, 0))))
    assert (nothing.success, nothing.low, nothing.high, nothing.seeds_counted) == (0.0, 0.0, 1.0, 0)


def test_counts_that_cannot_be_end_at_the_trials(tmp_path: Path) -> None:
    (found,) = results(run_set_of(tmp_path, seeds((12, 10), (-3, 10))))
    assert (found.success, found.successes, found.trials) == (0.5, 10, 20)


@pytest.mark.parametrize(
    ("counted", "basis"),
    [
        ((1,), "within one seed"),
        ((0, 1), "within one seed"),
        ((3, 3), "over 3 seeds"),
        ((3, 2, 3), "over 2–3 seeds"),
        ((1, 3), "over 3 seeds, or within one where there is only one"),
    ],
)
def test_what_intervals_are_over(tmp_path: Path, counted: tuple[int, ...], basis: str) -> None:
    table = [row for arm, n in enumerate(counted) for row in seeds(*([(1, 2)] * n or [(0, 0)]), arm=f"arm{arm}")]
    assert interval_basis(results(run_set_of(tmp_path, table))) == basis


def test_a_lead_in_the_pool_of_trials_that_seeds_do_not_bear_out_is_none(tmp_path: Path) -> None:
    table = seeds((40, 200), (50, 200), (45, 200)) + seeds((60, 200), (180, 200), (120, 200), arm="b")
    assert wilson_interval(135, 600).high < wilson_interval(360, 600).low
    outcome, _ = headline(run_set_of(tmp_path, table))
    # b: rates 0.3, 0.9, 0.6: 0.6 +- 4.302653 * 0.3 / sqrt(3) = 0.6 +- 0.745; a: 0.225 +- 4.302653 * 0.025 / sqrt(3)
    assert plain(outcome) == (
        "On hard problems, no arm is clearly ahead: a ended at 22 % (16–29 %), b at 60 % (0–100 %); "
        "95 % intervals over 3 seeds."
    )


def test_the_class_that_tells_the_arms_apart_comes_first(tmp_path: Path) -> None:
    table = rows(a=0.1, b=0.9) + [row | {"class": "easy"} for row in rows(a=0.9, b=0.95)]
    assert [r.kind for r in results(run_set_of(tmp_path, table))] == ["hard", "hard", "easy", "easy"]


def test_a_clear_winner_is_named(tmp_path: Path, make_run: MakeRun) -> None:
    outcome, trigger = headline(load_run_set(make_run(tmp_path)))
    assert plain(outcome) == (
        "On hard problems, scalar GRPO stalled at 0.2 % (0.1–0.7 %); both channels reached 97.0 % (89–100 %) "
        "with the same 304k generated tokens; 95 % intervals over 2 seeds."
    )
    assert trigger == (
        "The stall was detected at step 14, before the first critic call at step 14; "
        "876 critiques were asked for over 2 seeds."
    )


def test_overlapping_intervals_are_no_victory(tmp_path: Path) -> None:
    outcome, trigger = headline(run_set_of(tmp_path, rows(grpo=0.50, two_channel=0.55)))
    assert outcome.startswith("On hard problems, no arm is clearly ahead: scalar GRPO ended at 50")
    assert plain(outcome).endswith("; 95 % intervals within one seed.")
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
