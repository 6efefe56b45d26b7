"""[phases]: no key without effect, and what it cannot be with."""

from __future__ import annotations

import pytest

from critique_rl.config.load import validate
from critique_rl.errors import ConfigError

Tree = dict[str, object]


def run(phases: Tree, **sections: object) -> None:
    validate({"phases": phases, **sections}, source="test")


@pytest.mark.parametrize(
    "phases",
    [
        {},
        {"mode": "on"},
        {"mode": "on", "grams": ["let me"], "alpha": 0.3},
        {"mode": "off", "grams": "grams.json"},
        {"tokens": "surprising", "surprising_share": 0.3},
        {"mining": {"clusters": 10}},
        {"success_above": 0.0, "fallen_by": 0.5, "sure_below_nats": 0.0},
    ],
)
def test_fine(phases: Tree) -> None:
    run(phases)


@pytest.mark.parametrize(
    ("phases", "told"),
    [
        ({"mode": "on", "window": 10}, 'window has no effect with mode = "on"'),
        ({"mode": "on", "success_above": 0.3}, 'success_above has no effect with mode = "on"'),
        ({"mode": "off", "grams": ["a"], "fallen_by": 0.3}, 'fallen_by has no effect with mode = "off"'),
        ({"mode": "on", "sure_below_nats": 0.1}, 'sure_below_nats has no effect with mode = "on"'),
        ({"fallen_by": 1.0}, "fallen_by"),
        ({"sure_below_nats": -0.1}, "sure_below_nats"),
        ({"sure_below_nats": float("inf")}, "sure_below_nats"),
        ({"success_above": 1.0}, "success_above"),
        ({"mode": "off", "grams": ["a"], "alpha": 0.3}, 'alpha has no effect with mode = "off"'),
        ({"surprising_share": 0.3}, "surprising_share has no effect"),
        ({"grams": ["a"], "mining": {"clusters": 3}}, "mining has no effect with grams of another source"),
        ({"grams": "f.json", "min_solutions": 5}, "min_solutions has no effect"),
        ({"grams": []}, "grams is empty"),
        ({"mode": "off"}, "measures nothing"),
        ({"max_solutions": 10}, "is below min_solutions = 20"),
        ({"alpha": 1.0}, "alpha"),
        ({"mining": {"min_words": 6}}, "min_words = 6 is above max_words = 5"),
        ({"beta": 1.0}, "beta"),
    ],
)
def test_faults(phases: Tree, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        run(phases)


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"algorithm": {"name": "self_imitation"}}, "weights other than advantages"),
        ({"algorithm": {"name": "sft"}}, 'no effect with algorithm.name = "sft"'),
    ],
)
def test_methods_that_it_cannot_be_with(sections: Tree, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        run({}, **sections)
    if sections["algorithm"] == {"name": "self_imitation"}:
        run({"mode": "off", "grams": ["a"]}, **sections)


def test_covariances_with_a_join_that_adds_to_advantages() -> None:
    sections: Tree = {
        "algorithm": {"name": "two_channel"},
        "critic": {"kind": "lab_rules"},
        "loss": {"kl_cov_share": 0.1},
        "optimizer": {"updates_per_step": 2},
    }
    run({}, **sections)
    with pytest.raises(ConfigError, match="choose join = 'losses'"):
        run({}, **sections, distillation={"join": "advantages", "support": "sampled"})


def test_it_may_stand_beside_dynamic_sampling() -> None:
    run({}, sampling={"dynamic": True})
