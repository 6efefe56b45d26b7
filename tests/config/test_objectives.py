"""[objectives]: its defaults, and that a key or an objective without effect is refused with the way out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from critique_rl.config.load import dump, load_resolved, merge, validate
from critique_rl.config.objectives import READERS
from critique_rl.config.reads import NEEDS
from critique_rl.config.run import RunConfig
from critique_rl.errors import ConfigError
from tests.lab_runs import Tree

RIGHT: Tree = {"source": "verifier"}
SHORT: Tree = {"source": "length", "target_tokens": 100}
STATED: Tree = {"source": "confidence"}
JUDGED: Tree = {"stated": {"kind": "with_confidence"}}
CRITIC: Tree = {"algorithm": {"name": "two_channel", "use": ["scores"]}, "critic": {"kind": "lab_rules"}}
SCORED: Tree = {"source": "critic"}


def run_of(
    combine: str = "gdpo", *, of: Tree | None = None, keys: Tree | None = None, others: Tree | None = None
) -> RunConfig:
    objectives: Tree = {"combine": combine, "of": of or {"right": RIGHT, "short": SHORT}, **(keys or {})}
    return validate(merge({"objectives": objectives}, others or {}), source="test")


def test_defaults() -> None:
    objectives = run_of().objectives
    assert objectives is not None and objectives.gradient_method is None
    assert objectives.missing == "exclude" and not objectives.without_verifier
    assert (objectives.ddof, objectives.eps, objectives.batch_norm) == (None, None, None)
    right = objectives.of["right"]
    assert (right.weight, right.only_if, right.threshold, right.tokens) == (1.0, None, None, "all")
    assert RunConfig().objectives is None


@pytest.mark.parametrize("method", ["pcgrad", "mgda", "mgda_normalized"])
def test_methods_that_join_gradients(method: str) -> None:
    objectives = run_of(method).objectives
    assert objectives is not None and objectives.gradient_method == method


def test_a_resolved_run_reads_back_the_same(tmp_path: Path) -> None:
    own: Tree = {"source": "python", "function": "math:pow", "low": -3, "high": 3, "only_if": "right", "threshold": 0.5}
    of: Tree = {"right": RIGHT, "own": own, "stated": STATED | {"tokens": "confidence"}}
    config = run_of("sa_mrpo", of=of, keys={"gamma": 2.0, "batch_norm": "none"}, others={"rewards": JUDGED})
    path = tmp_path / "config.json"
    path.write_text(dump(config), encoding="utf-8")
    assert load_resolved(path) == config


@pytest.mark.parametrize("name", NEEDS)
def test_every_method_either_reads_objectives_or_refuses_them(name: str) -> None:
    others: Tree = {"algorithm": {"name": name}}
    if name == "two_channel":
        others = {"algorithm": {"name": name, "use": ["targets"]}}
    if "critic" in NEEDS[name]:
        others["critic"] = {"kind": "lab_rules"}
    if name in READERS:
        assert run_of(others=others).objectives is not None
    else:
        with pytest.raises(ConfigError, match=rf"\[objectives\] has no place under algorithm.name = '{name}'"):
            run_of(others=others)


@pytest.mark.parametrize(
    ("combine", "keys", "wanted"),
    [
        (
            "dvao",
            {"batch_norm": "none"},
            "batch_norm = 'none' has no effect with combine = 'dvao'.*'gdpo' or 'sa_mrpo'",
        ),
        ("gdpo", {"gamma": 1.0}, "gamma = 1.0 has no effect with combine = 'gdpo'; remove it, or set.*'sa_mrpo'"),
        ("sum", {"power": 2.0}, "power = 2.0 has no effect with combine = 'sum'; remove it, or set.*'dvao'"),
        ("sum_unscaled", {"ddof": 0}, "ddof = 0 has no effect with combine = 'sum_unscaled'"),
        ("sum_unscaled", {"eps": 0.1}, "eps = 0.1 has no effect with combine = 'sum_unscaled'"),
        ("gdpo", {"without_verifier": True}, 'without_verifier = true has no effect beside source = "verifier"'),
        ("gdpo", {"ddof": 2}, "objectives.ddof: Input should be 0 or 1"),
        ("gdpo", {"eps": -1}, "objectives.eps: Input should be greater than or equal to 0"),
        ("best", {}, "objectives.combine: Input should be 'sum'"),
        ("gdpo", {"wieght": 1}, "objectives.wieght is not a known key"),
    ],
)
def test_keys_without_effect(combine: str, keys: Tree, wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        run_of(combine, keys=keys)


WITHOUT: Tree = {"short": SHORT, "exact": {"source": "reward", "reward": "exact"}}


@pytest.mark.parametrize(
    ("combine", "of", "wanted"),
    [
        ("gdpo", {"right": RIGHT}, "of has 1 objectives; wanted at least two"),
        ("gdpo", WITHOUT, 'no objective of weight above 0 has source = "verifier".*without_verifier = true'),
        ("gdpo", {"right": RIGHT | {"weight": 0}, "short": SHORT}, "no objective of weight above 0 has source"),
        ("gdpo", {"right": RIGHT, "too/short": SHORT}, "'too/short' cannot name a figure and a key"),
        ("mo_grpo", {"right": RIGHT, "short": SHORT | {"weight": 2}}, "of.short.weight = 2 cannot be with.*'mo_grpo'"),
        ("mgda", {"right": RIGHT | {"weight": 2}, "short": SHORT}, "of.right.weight = 2 cannot be with.*'mgda'"),
        ("gdpo", {"right": RIGHT | {"weight": -1}, "short": SHORT}, "weight: Input should be greater than or equal"),
        ("gdpo", {"right": RIGHT, "short": SHORT | {"threshold": 1}}, "of.short.threshold has no effect without only"),
        ("gdpo", {"right": RIGHT, "short": SHORT | {"only_if": "x"}}, "only_if = 'x' names no other.*known are right"),
        ("gdpo", {"right": RIGHT, "short": SHORT | {"only_if": "short"}}, "only_if = 'short' names no other objective"),
        (
            "gdpo",
            {"right": RIGHT, "short": SHORT | {"only_if": "right"}, "shorter": SHORT | {"only_if": "short"}},
            "of.shorter.only_if = 'short' has a condition of its own; name that one, 'right'",
        ),
        (
            "gdpo",
            {"right": RIGHT, "own": {"source": "python", "function": "math:pow", "low": 0}},
            "low and high only work together",
        ),
        (
            "gdpo",
            {"right": RIGHT, "own": {"source": "python", "function": "math:pow", "low": 1, "high": 1}},
            "low = 1 is not below high = 1",
        ),
        (
            "sa_mrpo",
            {"right": RIGHT, "own": {"source": "python", "function": "m:f"}},
            "of.own: combine = 'sa_mrpo' needs",
        ),
        ("gdpo", {"right": RIGHT, "own": {"source": "python", "function": "pow"}}, "function: String should match"),
        ("gdpo", {"right": RIGHT, "own": {"source": "magic"}}, "objectives.of.own: Input tag 'magic'"),
        ("gdpo", {"right": RIGHT, "short": {"source": "length"}}, "target_tokens: Field required"),
        ("gdpo", {"right": RIGHT, "short": SHORT | {"low": 0}}, "low is not a known key"),
    ],
)
def test_objectives_that_cannot_be(combine: str, of: Tree, wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        run_of(combine, of=of)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"wrong": 1.0}, "a mistake must cost"),
        ({"wrong": 2.0}, "a mistake must cost"),
        ({"wrong": -1.0, "abstain": 1.0}, "always or never"),
        ({"wrong": -1.0, "abstain": -1.0}, "always or never"),
        ({"wrong": float("nan")}, "finite"),
        ({"wrong": -1.0, "abstains": "("}, "not a regular expression"),
    ],
)
def test_payoffs_that_leave_no_choice(keys: Tree, said: str) -> None:
    of = {"right": {"source": "verifier"}, "worth": {"source": "payoff", "abstains": "pass", **keys}}
    with pytest.raises(ConfigError, match=said):
        run_of("sum_unscaled", of=of)


def test_without_a_verifier_where_the_user_says_so() -> None:
    assert run_of(of=WITHOUT, keys={"without_verifier": True}).objectives is not None


@pytest.mark.parametrize("combine", ["sum", "sum_unscaled", "dvao"])
def test_weights_that_pay_for_giving_up_are_refused(combine: str) -> None:
    safe: Tree = {"right": RIGHT | {"weight": 0.5}, "stated": STATED | {"weight": 0.5}}
    assert run_of(combine, of=safe, others={"rewards": JUDGED}).objectives is not None
    unsafe: Tree = {"right": RIGHT | {"weight": 0.5}, "stated": STATED | {"weight": 0.6}}
    said = re.escape('source = "confidence" weigh 0.6, those with "verifier" 0.5: then a deliberately wrong answer')
    with pytest.raises(ConfigError, match=said):
        run_of(combine, of=unsafe, others={"rewards": JUDGED})
    split: Tree = {"right": RIGHT | {"weight": 0.5}, "stated": STATED | {"tokens": "confidence"}}
    assert run_of(combine, of=split, others={"rewards": JUDGED}).objectives is not None


@pytest.mark.parametrize(
    ("of", "others", "keys", "wanted"),
    [
        ({"right": RIGHT, "stated": STATED}, {}, {}, 'of.stated needs a .rewards.NAME. of kind = "with_confidence"'),
        ({"right": RIGHT | {"tokens": "answer"}, "short": SHORT}, {}, {}, "of.right needs a .rewards.NAME. of kind"),
        (
            {"right": RIGHT, "stated": STATED | {"only_if": "right"}},
            {"rewards": JUDGED},
            {},
            "of.stated.only_if: a confidence that is scored for some answers alone",
        ),
        (
            {"right": RIGHT, "stated": STATED | {"tokens": "confidence"}},
            {"rewards": JUDGED},
            {"batch_norm": "tokens"},
            "of.stated.tokens = 'confidence' cannot be with batch_norm",
        ),
        (
            {"right": RIGHT, "form": {"source": "reward", "reward": "form"}},
            {},
            {},
            "of.form.reward = 'form' is no reward of this run; known are exact",
        ),
        ({"right": RIGHT, "said": SCORED}, {}, {}, 'of.said: source = "critic" needs algorithm.name = "two_channel"'),
        (
            {"right": RIGHT, "said": SCORED},
            {"algorithm": {"name": "two_channel", "use": ["targets"]}, "critic": {"kind": "lab_rules"}},
            {},
            'with "scores" in use',
        ),
        (
            {"right": RIGHT, "short": SHORT},
            CRITIC,
            {},
            "names scores, but with .objectives. the critic's scores are an",
        ),
        (
            {"right": RIGHT, "said": SCORED | {"criterion": "form"}},
            CRITIC | {"trust": {"calibration": "rescue.json"}},
            {},
            "of.said.criterion = 'form' cannot be with trust.calibration",
        ),
        (
            {"right": RIGHT, "said": SCORED},
            CRITIC | {"algorithm": {"name": "two_channel", "use": ["scores"], "critic_score_weight": 0.2}},
            {},
            "critic_score_weight = 0.2 has no effect with .objectives.",
        ),
        (
            {"right": RIGHT, "short": SHORT},
            {"algorithm": {"name": "grpo", "scale": "std"}},
            {},
            "algorithm.scale = 'std' has no effect",
        ),
        (
            {"right": RIGHT, "short": SHORT},
            {"algorithm": {"name": "dapo", "scale": "none"}},
            {},
            "algorithm.scale = 'none' has no effect",
        ),
    ],
)
def test_what_the_rest_of_the_run_must_offer(of: Tree, others: Tree, keys: Tree, wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        run_of(of=of, others=others, keys=keys)


def test_the_critics_scores_are_an_objective() -> None:
    config = run_of(of={"right": RIGHT, "said": SCORED | {"criterion": "form"}}, others=CRITIC)
    assert config.objectives is not None and config.objectives.of["said"].source == "critic"


def test_a_scale_still_counts_for_refinements() -> None:
    others: Tree = {"algorithm": {"name": "critique_grpo", "scale": "std"}, "critic": {"kind": "lab_rules"}}
    assert run_of(others=others).objectives is not None


@pytest.mark.parametrize("join", ["advantages", "signed", "routed"])
def test_gradients_are_not_joined_where_advantages_are_changed_later(join: str) -> None:
    taught: Tree = {"join": join} if join == "routed" else {"join": join, "support": "sampled"}
    others: Tree = {
        "algorithm": {"name": "two_channel", "use": ["targets"]},
        "critic": {"kind": "lab_rules"},
        "distillation": taught,
    }
    assert run_of("gdpo", others=others).objectives is not None
    with pytest.raises(ConfigError, match=f"combine = 'pcgrad' cannot be with distillation.join = '{join}'"):
        run_of("pcgrad", others=others)


def test_gradients_are_not_joined_beside_rows_without_objectives() -> None:
    others: Tree = {
        "algorithm": {"name": "two_channel", "use": ["refinements"]},
        "critic": {"kind": "lab_rules"},
        "refinement": {"train_refiner": 0.5},
    }
    assert run_of("dvao", others=others).objectives is not None
    with pytest.raises(ConfigError, match=r"combine = 'mgda' cannot be with refinement\.train_refiner = 0\.5"):
        run_of("mgda", others=others)
