"""Differences by seed by hand: which seeds are paired, the interval over them, and where there is none."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critique_rl.report.ablation_differences import difference_of, with_differences
from critique_rl.stats.intervals import rate_difference_interval

Json = dict[str, object]
T_2 = 4.302652729911275
"""Student's t with two degrees of freedom at 97.5 %."""
OLD = Path(__file__).parents[2] / "docs" / "results"


def row(
    arm: str,
    rates: Sequence[float],
    *,
    seeds: Sequence[int] = (),
    kind: str = "hard",
    trials: int = 100,
    **more: object,
) -> Json:
    own = list(seeds) or list(range(1, len(rates) + 1))
    used = {"seeds": own, "rates": list(rates), "trials": [trials] * len(rates)}
    return {"arm": arm, "class": kind, "mean": sum(rates) / len(rates), **used, **more}


def metric(values: Sequence[float | None], name: str = "pass@4") -> Json:
    return {name: {"mean": None, "low": None, "high": None, "values": list(values)}}


def ends(found: Mapping[str, object]) -> tuple[object, object]:
    return found["low"], found["high"]


def test_three_seeds_by_hand() -> None:
    found = difference_of(row("b", [0.5, 0.9, 0.7]), row("a", [0.4, 0.7, 0.4]))
    # d = .1, .2, .3: mean .2, s = .1, and the interval is .2 +- 4.3027 * .1 / sqrt(3) = .2 +- .2484
    assert found["values"] == pytest.approx([0.1, 0.2, 0.3])
    assert found["mean"] == pytest.approx(0.2)
    half = T_2 * 0.1 / math.sqrt(3)
    assert ends(found) == pytest.approx((0.2 - half, 0.2 + half))
    assert half == pytest.approx(0.2484, abs=1e-4)


def test_what_a_seed_does_to_both_arms_goes_out_of_the_difference() -> None:
    # Each arm's own rates spread from .1 to .9, and their differences from .04 to .06.
    found = difference_of(row("b", [0.14, 0.55, 0.96]), row("a", [0.1, 0.5, 0.9]))
    low, high = cast("tuple[float, float]", ends(found))
    # d = .04, .05, .06: .05 +- 4.3027 * .01 / sqrt(3) = .05 +- .0248
    assert (low, high) == pytest.approx((0.0252, 0.0748), abs=1e-4)


def test_seeds_are_paired_by_name_and_not_by_place() -> None:
    other = row("a", [0.3, 0.1, 0.2], seeds=[3, 1, 2])
    found = difference_of(row("b", [0.2, 0.4, 0.6], seeds=[1, 2, 3]), other)
    assert found["values"] == pytest.approx([0.1, 0.2, 0.3])
    assert found["seeds"] == [1, 2, 3]


def test_a_seed_that_one_arm_has_not_finished_is_left_out() -> None:
    mine, others = row("b", [0.9, 0.5, 0.7], seeds=[4, 1, 2]), row("a", [0.4, 0.4, 0.1], seeds=[1, 2, 3])
    found = difference_of(mine, others)
    # Seeds 1 and 2: .5 - .4 and .7 - .4
    assert found["seeds"] == [1, 2]
    assert found["values"] == pytest.approx([0.1, 0.3])
    assert found["mean"] == pytest.approx(0.2)


def test_one_shared_seed_has_a_mean_and_no_interval() -> None:
    found = difference_of(row("b", [0.5]), row("a", [0.25]))
    assert found == {"mean": 0.25, "low": None, "high": None, "values": [0.25], "seeds": [1]}


@pytest.mark.parametrize("other", [row("a", [0.5], seeds=[9]), {}])
def test_nothing_shared_has_no_mean(other: Json) -> None:
    nothing = {"mean": None, "low": None, "high": None, "values": [], "seeds": []}
    assert difference_of(row("b", [0.5]), other) == nothing
    assert difference_of(other, row("b", [0.5])) == nothing


def test_differences_that_are_all_the_same_get_the_interval_of_the_pooled_counts() -> None:
    found = difference_of(row("b", [0.4, 0.6, 0.9]), row("a", [0.3, 0.5, 0.8], seeds=[1, 2, 7]))
    # Seeds 1 and 2 only: 100 of 200 and 80 of 200
    assert found["mean"] == pytest.approx(0.1)
    assert ends(found) == pytest.approx(tuple(rate_difference_interval(100, 200, 80, 200)))
    both_perfect = difference_of(row("b", [1.0, 1.0]), row("a", [1.0, 1.0]))
    # Wilson's lower bound of 200 of 200 is n / (n + z^2) = 200 / 203.84
    assert ends(both_perfect) == pytest.approx((-1 + 200 / 203.8415, 1 - 200 / 203.8415), abs=1e-6)


def test_success_cannot_differ_by_more_than_everything() -> None:
    found = difference_of(row("b", [1.0, 1.0, 0.1]), row("a", [0.0, 0.1, 0.0]))
    assert found["high"] == 1.0
    assert cast(float, found["low"]) > -1


def test_a_metric_is_compared_in_its_own_values() -> None:
    mine = row("b", [0.0, 0.0, 0.0], metrics=metric([3.0, 5.0, 7.0]))
    others = row("a", [0.5, 0.5, 0.5], metrics=metric([2.0, 3.0, 4.0]))
    found = difference_of(mine, others, "pass@4")
    # 1, 2, 3: 2 +- 4.3027 / sqrt(3), which may well be more than 1
    assert found["mean"] == 2.0
    assert ends(found) == pytest.approx((2 - T_2 / math.sqrt(3), 2 + T_2 / math.sqrt(3)))
    assert difference_of(mine, others, "reward")["values"] == []


def test_a_metric_that_a_seed_lacks_has_no_mean_and_one_without_spread_no_interval() -> None:
    others = row("a", [0.5, 0.5], metrics=metric([0.25, 0.5]))
    lacking = difference_of(row("b", [0.5, 0.5], metrics=metric([0.5, None])), others, "pass@4")
    assert lacking == {"mean": None, "low": None, "high": None, "values": [0.25, None], "seeds": [1, 2]}
    same = difference_of(row("b", [0.5, 0.5], metrics=metric([0.5, 0.75])), others, "pass@4")
    assert (same["mean"], same["low"], same["high"]) == (0.25, None, None)


def test_every_arm_but_the_reference_gets_differences_within_its_class() -> None:
    table = [
        row("a", [0.1, 0.2], metrics=metric([0.5, 0.5])),
        row("a", [0.9, 0.8], kind="easy"),
        row("b", [0.3, 0.5], metrics=metric([0.75, 1.0])),
        row("b", [0.8, 0.8], kind="easy"),
        row("b", [0.8, 0.8], kind="other"),
    ]
    before = json.dumps(table)
    rows = cast("list[Json]", with_differences({"reference": "a", "table": table, "title": "t"})["table"])
    assert json.dumps(table) == before
    assert rows[:2] == table[:2] and rows[4] == table[4]
    hard, easy = (cast(Json, rows[place]["difference"]) for place in (2, 3))
    assert hard["values"] == pytest.approx([0.2, 0.3])
    assert easy["values"] == pytest.approx([-0.1, 0.0])
    of_metric = cast("Mapping[str, Json]", rows[2]["metrics"])["pass@4"]
    assert cast(Json, of_metric["difference"])["values"] == [0.25, 0.5]
    assert of_metric["values"] == [0.75, 1.0]
    again = with_differences({"reference": "a", "table": rows})["table"]
    assert again == rows


def test_without_the_reference_there_is_nothing_to_differ_from() -> None:
    table = [row("b", [0.5, 0.75])]
    assert with_differences({"table": table}) == {"table": table}
    assert with_differences({"reference": "a", "table": table})["table"] == table


def test_a_result_of_an_older_version_gets_its_differences() -> None:
    old = cast(Json, json.loads((OLD / "hicra_lab.json").read_text(encoding="utf-8")))
    stripped = [
        {key: value for key, value in one.items() if key != "difference"} for one in cast("list[Json]", old["table"])
    ]
    rows = cast("list[Json]", with_differences({**old, "table": stripped})["table"])
    rates = {cast(str, one["arm"]): cast("list[float]", one["rates"]) for one in rows}
    for one in rows:
        if one["arm"] == old["reference"]:
            assert "difference" not in one
            continue
        gaps = [a - b for a, b in zip(rates[cast(str, one["arm"])], rates["grpo"], strict=True)]
        found = cast(Json, one["difference"])
        assert found["mean"] == pytest.approx(sum(gaps) / len(gaps))
        assert cast(float, found["low"]) < cast(float, found["mean"]) < cast(float, found["high"])


counts = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=2, max_size=8)


@given(counts)
def test_the_other_way_round_it_is_the_mirror_image(pairs: list[tuple[int, int]]) -> None:
    mine = row("b", [a / 50 for a, _ in pairs], trials=50)
    others = row("a", [b / 50 for _, b in pairs], trials=50)
    one, two = difference_of(mine, others), difference_of(others, mine)
    low, mean, high = (cast(float, one[key]) for key in ("low", "mean", "high"))
    assert low <= mean + 1e-12 and mean <= high + 1e-12
    assert (low, mean, high) == pytest.approx(
        tuple(-cast(float, two[key]) for key in ("high", "mean", "low")), abs=1e-9
    )
