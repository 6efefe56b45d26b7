"""`[ablation]`: columns, classes, claims on metrics and decisions are refused where they could say nothing."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from pydantic import ValidationError

from critique_rl.config.ablation import AblationConfig

Tree = dict[str, object]
DECISIONS: Tree = {"penalties": [1, 4.5], "by_confidence": ["b"]}
CLAIM: Tree = {"name": "c", "arm": "b", "class": "all"}


def ablation(**changes: object) -> AblationConfig:
    return AblationConfig.model_validate({"reference": "a", **changes})


def test_arms_are_all_that_are_named() -> None:
    claim = {**CLAIM, "metric": "pass@4", "at_most_share_of": {"arm": "c", "share": 0.5}}
    found = ablation(
        columns=["pass@4", "utility@4.5"],
        classes=["all"],
        claims=[claim],
        decisions={**DECISIONS, "by_confidence": ["d"]},
    )
    assert found.arms() == ("a", "b", "c", "d")
    assert found.claims[0].others == ("c",)


def test_a_claim_is_judged_by_intervals_unless_it_names_seeds() -> None:
    plain, seeds, margin = ablation(
        columns=["reward"],
        claims=[
            {**CLAIM, "above": ["a"]},
            {**CLAIM, "above": ["a"], "by": "seeds"},
            {**CLAIM, "not_below": ["c"], "by": "seeds", "margin": 2.0, "metric": "reward"},
        ],
    ).claims
    assert (plain.by, plain.margin) == ("intervals", None)
    assert (seeds.by, seeds.margin) == ("seeds", None)
    assert (margin.margin, margin.others) == (2.0, ("c",))


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        ({}, False),
        ({"classes": ["all"]}, False),
        ({"columns": ["confidence/ece"]}, False),
        ({"columns": ["confidence/ece"], "classes": ["n1"]}, False),
        ({"columns": ["pass@4"], "classes": ["all"]}, False),
        ({"columns": ["confidence/ece"], "classes": ["all", "n1"]}, True),
        ({"columns": ["coverage@1"], "classes": ["all"], "decisions": DECISIONS}, True),
    ],
)
def test_answers_are_needed_where_classes_cannot_be_added_up(changes: Mapping[str, object], needed: bool) -> None:
    assert ablation(**changes).needs_answers is needed


def test_figures_of_monitors_are_columns_of_all_classes_together() -> None:
    name = "monitor/probe/format/share/equals"
    assert ablation(columns=[name], classes=["all"]).needs_monitors
    assert not ablation(columns=["pass@4"], classes=["all"]).needs_monitors


@pytest.mark.parametrize(
    "name", ["pass@1", "pass^64", "majority_vote", "confidence/ece_equal_mass", "confidence/auroc"]
)
def test_what_an_evaluation_measures_is_a_column(name: str) -> None:
    assert ablation(columns=[name]).columns == (name,)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"columns": ["pass@0"]}, "'pass@0' is nothing that is measured"),
        ({"columns": ["confidence/eec"]}, "nothing that is measured"),
        ({"columns": ["success"]}, "nothing that is measured"),
        ({"columns": ["utility@4"]}, "not of decisions.penalties; there are none"),
        ({"columns": ["utility@5"], "classes": ["all"], "decisions": DECISIONS}, "utility@1, utility@4.5"),
        ({"columns": ["pass@4", "pass@4"]}, "one stands there twice"),
        ({"classes": ["all", "all"]}, "one stands there twice"),
        ({"columns": ["monitor/probe/format/entropy"]}, 'figures of monitors are shown for class "all" only'),
        ({"columns": ["monitor/train/entropy"], "classes": ["all"]}, "nothing that is measured"),
        ({"columns": ["utility@1"], "decisions": DECISIONS}, 'add "all" to classes'),
        ({"columns": ["pass@4"], "classes": ["all"], "decisions": DECISIONS}, "a metric such as 'coverage@1'"),
        ({"claims": [{**CLAIM, "metric": "pass@4", "above": ["a"]}]}, "not one of columns; add it there"),
        ({"classes": ["n1"], "claims": [{**CLAIM, "above": ["a"]}]}, "not one of classes; add it there"),
        (
            {"columns": ["pass@4"], "claims": [{**CLAIM, "metric": "pass@4", "floor_above": 0.5}]},
            "no effect with floor_above",
        ),
        ({"claims": [{**CLAIM, "above": ["a"], "at_most_share_of": {"arm": "a", "share": 0.5}}]}, "give exactly one"),
        ({"claims": [{**CLAIM, "at_most_share_of": {"arm": "a", "share": 1.0}}]}, "less than 1"),
        ({"claims": [{**CLAIM, "floor_above": 0.5, "by": "seeds"}]}, "no effect with floor_above, which every seed"),
        (
            {"claims": [{**CLAIM, "at_most_share_of": {"arm": "a", "share": 0.5}, "by": "seeds"}]},
            "nor with at_most_share_of",
        ),
        ({"claims": [{**CLAIM, "not_below": ["a"], "by": "seeds"}]}, "needs a margin, how much worse is no worse"),
        ({"claims": [{**CLAIM, "not_below": ["a"], "margin": 0.05}]}, "margin = 0.05 has no effect without not_below"),
        ({"claims": [{**CLAIM, "above": ["a"], "margin": 0.05}]}, "margin = 0.05 has no effect"),
        ({"claims": [{**CLAIM, "above": ["a"], "by": "seeds", "margin": 0.05}]}, "margin = 0.05 has no effect"),
        ({"claims": [{**CLAIM, "floor_above": 0.5, "margin": 0.05}]}, "margin = 0.05 has no effect"),
        ({"claims": [{**CLAIM, "not_below": ["a"], "by": "seeds", "margin": 0}]}, "greater than 0"),
        ({"claims": [{**CLAIM, "not_below": ["a"], "by": "seeds", "margin": 1}]}, "grants everything"),
        ({"claims": [{**CLAIM, "not_below": ["a"], "by": "seeds", "margin": float("inf")}]}, "finite number"),
        ({"claims": [{**CLAIM, "above": ["a"], "by": "seed"}]}, "'intervals' or 'seeds'"),
        ({"decisions": {"penalties": []}}, "at least 1 item"),
        ({"decisions": {"penalties": [1, 1]}}, "names one twice"),
        ({"decisions": {"penalties": [-1]}}, "greater than or equal to 0"),
        ({"decisions": {"penalties": [1], "abstains": "("}}, "not a regular expression"),
        ({"decisions": {"penalties": [1], "calibrator": "platt"}}, "no effect without by_confidence"),
    ],
)
def test_what_could_say_nothing_is_refused(changes: Mapping[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint.replace("(", r"\(")):
        ablation(**changes)
