"""The rows of an ablation and its claims by hand: means over seeds, floors of seeds, and when a claim holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import pytest

from critique_rl.config.ablation import ClaimConfig
from critique_rl.report.ablation_rows import judged, judged_anew, rows_of
from critique_rl.report.course import Course, Evaluation

Json = dict[str, object]
USED = {"generated_tokens": 600, "critic_completion_tokens": 40, "critic_calls": 4, "train_wall_s": 1.0}


def run(seed: int, successes: int) -> Json:
    return {
        "arm": "both",
        "seed": seed,
        "steps": 10 * seed,
        "end": {"hard": {"successes": successes, "trials": 10}},
        **USED,
    }


def course(success: Sequence[float], *, trips: int | None = None, low: float | None = None) -> Course:
    return Course(
        evaluations=tuple(Evaluation(i, 100 * i, {"hard": rate}) for i, rate in enumerate(success)),
        lowest_entropy=low,
        highest_entropy=None if low is None else low + 1,
        wires={"success": 0.5} if trips else {},
        trips=trips,
        trip_messages=(),
    )


def claim(bound: float = 0.5, *, arm: str = "both") -> ClaimConfig:
    return ClaimConfig.model_validate({"name": "c", "arm": arm, "class": "hard", "floor_above": bound})


def floors(*seeds: Sequence[float]) -> list[Json]:
    runs = [run(seed, 5) for seed in range(1, len(seeds) + 1)]
    courses: dict[tuple[object, object], Course] = {("both", i): course(s) for i, s in enumerate(seeds, start=1)}
    return rows_of("both", runs, courses)


def test_a_row_by_hand() -> None:
    (row,) = rows_of("both", [run(1, 4), run(2, 6)], {})
    # (4/10 + 6/10) / 2 and (10 + 20) / 2
    assert (row["mean"], row["rates"], row["steps"], row["seeds"]) == (0.5, [0.4, 0.6], 15.0, [1, 2])
    assert (row["generated_tokens"], row["critic_tokens"]) == (600.0, 40.0)
    assert "floor" not in row and "curve" not in row


def test_a_row_of_watched_runs_has_curve_floors_and_wires() -> None:
    courses: dict[tuple[object, object], Course] = {
        ("both", 1): course([0.0, 0.8, 0.6], trips=1, low=0.2),
        ("both", 2): course([0.0, 1.0, 0.9], trips=2, low=0.1),
    }
    (row,) = rows_of("both", [run(1, 6), run(2, 9)], courses)
    assert (row["broken_steps"], row["floors"], row["floor"]) == ([1, 1], [0.6, 0.9], 0.6)
    assert (row["lowest_entropy"], row["highest_entropy"], row["trips"]) == (0.1, 1.2, 3)
    assert row["wires"] == {"success": 0.5}
    curve = row["curve"]
    assert isinstance(curve, list)
    assert curve[1] == {"step": 1, "tokens": 100.0, "success": 0.9, "lowest": 0.8, "highest": 1.0}


def test_an_arm_of_which_one_seed_was_not_watched_has_no_floors() -> None:
    (row,) = rows_of("both", [run(1, 4), run(2, 6)], {("both", 1): course([0.0, 1.0, 1.0])})
    assert "floor" not in row
    assert judged(claim(), [row])["holds"] is None


@pytest.mark.parametrize(
    ("seeds", "value", "holds"),
    [
        (([0.0, 0.9, 0.8], [0.0, 1.0, 0.7]), 0.7, True),
        (([0.0, 0.9, 0.8], [0.0, 1.0, 0.5]), 0.5, False),  # at the bound is not above it
        (([0.0, 0.9, 0.8], [0.0, 1.0, 0.1, 1.0]), 0.1, False),  # recovered, but it fell
        (([0.0, 0.9, 0.8], [0.0, 0.0, 0.0]), 0.8, False),  # one seed never broke the plateau
        (([0.0, 0.0, 0.0],), None, False),
        (([0.0, 0.9, 0.8], [0.0, 0.0, 0.7]), 0.8, None),  # one seed broke it at its last evaluation
        (([0.0, 0.9, 0.2], [0.0, 0.0, 0.7]), 0.2, False),  # which cannot save a claim that another refutes
    ],
)
def test_a_floor_is_judged_in_every_seed(seeds: Sequence[Sequence[float]], value: float, holds: bool | None) -> None:
    found = judged(claim(), floors(*seeds))
    assert (found["value"], found["holds"], found["target"]) == (value, holds, "> 0.5")
    if len(seeds) == 2 and holds is None:
        assert floors(*seeds)[0]["floor"] is None


def test_a_floor_from_a_step_on_counts_every_evaluation_from_there() -> None:
    rows = floors([0.0, 0.8, 0.3, 0.9], [0.0, 0.9, 0.7, 0.6])
    steps = [cast(int, point["step"]) for point in cast("list[Json]", rows[0]["curve"])]
    late = ClaimConfig.model_validate(
        {"name": "c", "arm": "both", "class": "hard", "floor_above": 0.5, "from_step": steps[3]}
    )
    found = judged(late, rows)
    assert (found["value"], found["holds"]) == (0.6, True)
    early = late.model_copy(update={"from_step": steps[2]})
    assert (judged(early, rows)["value"], judged(early, rows)["holds"]) == (0.3, False)
    assert judged(late.model_copy(update={"from_step": 10**6}), rows)["holds"] is None
    with pytest.raises(ValueError, match="no effect without floor_above"):
        ClaimConfig.model_validate({"name": "c", "arm": "b", "class": "hard", "above": ["a"], "from_step": 3})


def test_a_floor_of_an_arm_that_did_not_run_is_not_measured() -> None:
    assert judged(claim(arm="nobody"), floors([0.0, 1.0, 1.0]))["holds"] is None


def stated(seed: int, ece: float, *, arm: str = "both") -> Json:
    ends = {kind: {"successes": n, "trials": 10, "calibration": {"ece": 0.9}} for kind, n in (("n1", 8), ("n2", 4))}
    return {**run(seed, 0), "arm": arm, "end": ends, "pooled": {"confidence/ece": ece}}


def test_columns_of_all_classes_together() -> None:
    (row,) = rows_of(
        "both", [stated(1, 0.1), stated(2, 0.3)], {}, classes=["all"], columns=["confidence/ece", "pass@4"]
    )
    assert (row["class"], row["mean"], row["trials"]) == ("all", 0.6, [20, 20])  # (8 + 4) / 20
    metrics = row["metrics"]
    assert isinstance(metrics, dict)
    assert (metrics["confidence/ece"]["mean"], metrics["confidence/ece"]["values"]) == (0.2, [0.1, 0.3])
    assert metrics["pass@4"]["mean"] is None


def test_a_class_that_pools_others_has_no_floor() -> None:
    courses: dict[tuple[object, object], Course] = {("both", 1): course([0.0, 1.0, 1.0])}
    pooled, own = rows_of("both", [run(1, 5)], courses, classes=["all", "hard"])
    assert "floor" not in pooled and "floor" in own


def measured(arm: str, low: float | None, high: float | None) -> Json:
    return {
        "arm": arm,
        "class": "all",
        "low": 0.0,
        "high": 1.0,
        "metrics": {"confidence/ece": {"low": low, "high": high}},
    }


def share_claim(share: float = 0.5) -> ClaimConfig:
    least = {"arm": "plain", "share": share}
    tree = {"name": "c", "arm": "both", "class": "all", "metric": "confidence/ece", "at_most_share_of": least}
    return ClaimConfig.model_validate(tree)


@pytest.mark.parametrize(
    ("high", "other_low", "value", "holds"),
    [
        (0.1, 0.4, 0.25, True),
        (0.2, 0.4, 0.5, True),  # at the bound
        (0.3, 0.4, 0.75, False),
        (0.1, 0.0, None, False),  # nothing is a share of what may be 0
        (None, 0.4, None, None),  # one seed says nothing about spread
    ],
)
def test_a_share_is_judged_by_the_ends_that_speak_against_it(
    high: float | None, other_low: float, value: float | None, holds: bool | None
) -> None:
    table = [measured("plain", other_low, 0.9), measured("both", None if high is None else 0.05, high)]
    found = judged(share_claim(), table)
    assert found["value"] == pytest.approx(value)
    assert found["holds"] is holds


def test_a_metric_is_compared_and_not_success() -> None:
    table = [measured("plain", 0.1, 0.2), measured("both", 0.3, 0.4)]
    tree = {"name": "c", "arm": "both", "class": "all", "metric": "confidence/ece", "above": ["plain"]}
    found = judged(ClaimConfig.model_validate(tree), table)
    assert found["value"] == pytest.approx(0.1)
    assert (found["holds"], found["unit"]) == (True, "margin between intervals of confidence/ece")
    assert judged(ClaimConfig.model_validate({**tree, "arm": "plain", "above": ["both"]}), table)["holds"] is False
    assert judged(ClaimConfig.model_validate({**tree, "metric": "pass@4"}), table)["holds"] is None


def rated(arm: str, *rates: float, seeds: Sequence[int] = ()) -> Json:
    own = list(seeds) or list(range(1, len(rates) + 1))
    return {"arm": arm, "class": "hard", "seeds": own, "rates": list(rates), "trials": [100] * len(rates)}


def seeds_claim(*, not_below: bool = False, others: Sequence[str] = ("a",), **more: object) -> ClaimConfig:
    form: Json = {"not_below": list(others), "margin": 0.05} if not_below else {"above": list(others)}
    return ClaimConfig.model_validate({"name": "c", "arm": "b", "class": "hard", "by": "seeds", **form, **more})


REFERENCE = rated("a", 0.4, 0.5, 0.6)


# The interval over three seeds is mean +- 4.3027 s / sqrt(3) = mean +- 2.4841 s.
@pytest.mark.parametrize(
    ("rates", "above", "not_below"),
    [
        # d = .1, .1, .13: mean .11, s = sqrt((.01^2 + .01^2 + .02^2) / 2) = .01732, so .067 to .153
        ((0.5, 0.6, 0.73), "holds", "holds"),
        # d = -.01, 0, .01: 0 +- .0248
        ((0.39, 0.5, 0.61), "undecided", "holds"),
        # d = -.05, 0, .05: 0 +- .1242 holds both 0 and -.05
        ((0.35, 0.5, 0.65), "undecided", "undecided"),
        # d = -.03, -.04, -.02: -.03 +- .0248 lies below 0, and holds -.05
        ((0.37, 0.46, 0.58), "fails", "undecided"),
        # d = -.1, -.1, -.13: -.153 to -.067
        ((0.3, 0.4, 0.47), "fails", "fails"),
        # d = .3, .1, -.1: .1 +- .4968, a mean on the right side decides nothing
        ((0.7, 0.6, 0.5), "undecided", "undecided"),
    ],
)
def test_each_verdict_by_seeds(rates: Sequence[float], above: str, not_below: str) -> None:
    table = [REFERENCE, rated("b", *rates)]
    for claimed, verdict in ((seeds_claim(), above), (seeds_claim(not_below=True), not_below)):
        found = judged(claimed, table)
        assert found["verdict"] == verdict
        assert found["holds"] is {"holds": True, "fails": False, "undecided": None}[verdict]
        assert found["target"] == ("> 0" if claimed.above else "> -0.05")
        difference = cast("Mapping[str, Json]", found["differences"])["a"]
        assert found["value"] == difference["low"]
        assert difference["values"] == pytest.approx([b - a for a, b in zip((0.4, 0.5, 0.6), rates, strict=True)])


def test_the_end_of_an_interval_by_hand() -> None:
    found = judged(seeds_claim(), [REFERENCE, rated("b", 0.39, 0.5, 0.61)])
    assert found["value"] == pytest.approx(-0.02484, abs=1e-5)
    assert found["unit"] == "lower end of the difference by seed"


def test_one_arm_that_refutes_outweighs_all_others_and_one_that_did_not_run_what_holds() -> None:
    table = [REFERENCE, rated("low", 0.1, 0.1, 0.13), rated("high", 0.9, 0.8, 0.9), rated("b", 0.4, 0.51, 0.61)]

    def verdict(*others: str) -> object:
        return judged(seeds_claim(others=others), table)["verdict"]

    assert verdict("low") == "holds"
    assert verdict("low", "a") == "undecided"
    assert verdict("low", "a", "high") == "fails"
    assert verdict("low", "nobody") == "not measured"
    assert verdict("a", "nobody") == "not measured"
    assert verdict("nobody", "high") == "fails"
    assert judged(seeds_claim(others=["low", "nobody"]), table)["value"] is None


def test_seeds_decide_what_intervals_of_spread_out_seeds_cannot() -> None:
    # Each arm spreads from .1 to .9; by seed one is always .04 to .06 ahead: .05 +- .0248.
    table = [
        {**rated("a", 0.1, 0.5, 0.9), "low": 0.0, "high": 1.0},
        {**rated("b", 0.14, 0.55, 0.96), "low": 0.0, "high": 1.0},
    ]
    tree = {"name": "c", "arm": "b", "class": "hard", "above": ["a"]}
    assert judged(ClaimConfig.model_validate(tree), table)["holds"] is False
    assert judged(ClaimConfig.model_validate({**tree, "by": "seeds"}), table)["holds"] is True
    # Intervals grant "no worse" to whatever is as wide as this.
    worse = [table[0], {**rated("b", 0.0, 0.3, 0.6), "low": 0.0, "high": 1.0}]
    lenient = ClaimConfig.model_validate({"name": "c", "arm": "b", "class": "hard", "not_below": ["a"]})
    assert judged(lenient, worse)["holds"] is True
    assert judged(seeds_claim(not_below=True), worse)["verdict"] == "undecided"


def test_seeds_need_two_and_only_shared_ones_count() -> None:
    one = judged(seeds_claim(), [rated("a", 0.1), rated("b", 0.9)])
    assert (one["verdict"], one["holds"], one["value"]) == ("undecided", None, None)
    shared = judged(seeds_claim(), [rated("a", 0.1, 0.2, seeds=[5, 6]), rated("b", 0.9, 0.3, 0.0, seeds=[7, 6, 5])])
    assert cast("Mapping[str, Json]", shared["differences"])["a"]["values"] == pytest.approx([0.1, -0.1])
    none = judged(seeds_claim(), [rated("a", 0.1, 0.2, seeds=[1, 2]), rated("b", 0.9, 0.3, seeds=[3, 4])])
    assert (none["verdict"], none["holds"]) == ("not measured", None)


def test_a_metric_by_seeds_has_a_margin_in_its_own_units() -> None:
    table = [
        {**rated(arm, 0.5, 0.5, 0.5), "metrics": {"reward": {"low": None, "high": None, "values": values}}}
        for arm, values in (("a", [2.0, 3.0, 4.0]), ("b", [1.0, 3.0, 5.0]))
    ]
    # d = -1, 0, 1: 0 +- 2.4841
    found = judged(seeds_claim(not_below=True, metric="reward", margin=2.5), table)
    assert (found["verdict"], found["target"]) == ("holds", "> -2.5")
    assert found["unit"] == "lower end of the difference by seed of reward"
    assert judged(seeds_claim(not_below=True, metric="reward", margin=2.4), table)["verdict"] == "undecided"


def test_a_finished_result_is_judged_by_other_claims() -> None:
    earlier: Json = {"name": "old", "value": 1.0, "unit": "u", "target": "> 0", "holds": True}
    figure: Json = {"name": "b/hard", "value": 0.6, "unit": "held out", "target": None, "holds": None}
    table = [REFERENCE, rated("b", 0.5, 0.6, 0.73)]
    result = {"reference": "a", "table": table, "rows": [earlier, figure], "claims": [earlier], "seeds": [1, 2, 3]}
    found = judged_anew(result, [seeds_claim(), seeds_claim(not_below=True)])
    claims = cast("list[Json]", found["claims"])
    assert [claim["holds"] for claim in claims] == [True, True]
    assert found["rows"] == [*claims, figure]
    assert "difference" in cast("list[Json]", found["table"])[1]
    assert found["seeds"] == [1, 2, 3]
    assert result["claims"] == [earlier]
