"""[exploration], token options of [loss], updates of a batch: what has no effect is an error with a way out."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from critique_rl.config.exploration import BY_DEFAULT, usable_actions
from critique_rl.config.load import dump, load_resolved, validate
from critique_rl.config.run import RunConfig
from critique_rl.errors import ConfigError

Tree = dict[str, object]
SEVERAL: Tree = {"optimizer": {"updates_per_step": 4}}


def refused(tree: Mapping[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        validate(tree, source="test")


def test_nothing_is_on_by_default() -> None:
    config = validate({}, source="test")
    assert config.exploration is None and not config.loss.surveys and not config.optimizer.several
    assert (config.loss.clip_cov_share, config.loss.kl_cov_share, config.loss.top_entropy_share) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        ({"kl_cov_share": 0.002}, "no effect with one update per batch.*updates_per_step to 2 or more"),
        ({"kl_cov_weight": 2.0}, "kl_cov_weight = 2.0 has no effect with kl_cov_share = 0"),
        ({"clip_cov_band": [2, 6]}, "has no effect with clip_cov_share = 0"),
        ({"clip_cov_share": 0.1, "clip_cov_band": [6, 2]}, "is empty; wanted its lower end first"),
        ({"clip_cov_share": 0.1, "objective": "reinforce"}, "PPO's ratio per token; set objective = 'clip'"),
        ({"kl_cov_share": 0.1, "objective": "cispo"}, "PPO's ratio per token; set objective = 'clip'"),
        ({"kl_cov_share": 0.1, "clip_high": 0.28}, "clip_high came with kl_cov_share.*takes the place of every clip"),
        ({"kl_cov_share": 0.1, "clip_cov_share": 0.1}, "clip_cov_share came with kl_cov_share"),
        ({"top_entropy_share": 0.2}, "normalizer = 'constant', which would shrink the loss"),
        ({"top_entropy_share": 0.0}, "greater than 0"),
        ({"kl_cov_share": 20}, "less than or equal to 1"),
    ],
)
def test_token_options_without_effect_are_refused(loss: Tree, words: str) -> None:
    refused({"loss": loss}, words)


def test_token_options_that_act() -> None:
    validate({"loss": {"kl_cov_share": 0.002}, **SEVERAL}, source="test")
    validate({"loss": {"kl_cov_share": 0.002}, "optimizer": {"epochs": 2}}, source="test")
    validate({"loss": {"top_entropy_share": 0.2, "normalizer": "tokens", "clip_cov_share": 2e-4}}, source="test")
    dapo = validate({"algorithm": {"name": "dapo"}, "loss": {"kl_cov_share": 0.002}, **SEVERAL}, source="test")
    assert (dapo.loss.clip_high, dapo.loss.normalizer) == (0.2, "tokens")  # its clip-higher goes with the clip


def test_joined_gradients_have_no_one_advantage() -> None:
    objectives = {
        "combine": "pcgrad",
        "of": {"right": {"source": "verifier"}, "short": {"source": "length", "target_tokens": 3}},
    }
    refused({"objectives": objectives, "loss": {"clip_cov_share": 0.1}}, "one advantage per token.*combine advantages")


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"exploration": {"mode": "warn", "actions": ["stop"]}}, "actions has no effect with mode = 'warn'"),
        ({"exploration": {"mode": "warn", "clip_high_rise": 0.1}}, "without the action 'raise_clip_high'"),
        ({"exploration": {"actions": []}}, "at most once and at least"),
        ({"exploration": {"actions": ["stop", "stop"]}}, "at most once"),
        ({"exploration": {"actions": ["stop"], "max_rollbacks": 3}}, "without the action 'rollback'"),
        ({"exploration": {"actions": ["rollback"]}}, "set checkpoint.every"),
        ({"exploration": {"actions": ["kl_cov"]}}, "set optimizer.updates_per_step"),
        ({"exploration": {"actions": ["raise_clip_high"]}}, "set optimizer.updates_per_step"),
        (SEVERAL | {"exploration": {"actions": ["kl_cov"]}, "loss": {"clip_cov_share": 0.1}}, "Clip-Cov is"),
        (
            SEVERAL | {"exploration": {"actions": ["raise_clip_high"]}, "loss": {"clip_high": 0.4}},
            "not below max_clip_high",
        ),
        (
            SEVERAL | {"exploration": {"actions": ["raise_clip_high"]}, "algorithm": {"name": "rloo"}},
            "no clip per token",
        ),
        ({"exploration": {"actions": ["entropy_bonus"]}, "loss": {"entropy_weight": 0.1}}, "a bonus of its own"),
        ({"exploration": {"clip_high_rise": 0.1}}, "exploration.clip_high_rise has no effect"),
        ({"exploration": {"wait_steps": 19}}, "greater than or equal to 20"),
        (
            {
                "exploration": {"actions": ["raise_temperature"]},
                "engine": {"kind": "vllm", "model": "m", "weights_directory": "w"},
            },
            "a temperature that cannot be moved",
        ),
        ({"exploration": {}, "algorithm": {"name": "sft"}}, "exploration"),
    ],
)
def test_a_guard_without_effect_is_refused(tree: Tree, words: str) -> None:
    refused(tree, words)


def test_recalled_rollouts_have_no_exploration() -> None:
    tree: Tree = {
        "algorithm": {"name": "two_channel"},
        "feedback": {"path": "rows.jsonl"},
        "exploration": {"mode": "warn"},
    }
    refused(tree, "recalled rollouts say nothing of the policy")


def actions_of(tree: Mapping[str, object]) -> tuple[str, ...]:
    return usable_actions(validate({"exploration": {}} | dict(tree), source="test"))


def test_the_default_actions_are_those_that_can_have_an_effect() -> None:
    assert actions_of(SEVERAL) == BY_DEFAULT
    assert actions_of({}) == ("entropy_bonus", "lower_learning_rate", "raise_temperature")
    assert actions_of({"loss": {"entropy_target": 0.2}}) == ("lower_learning_rate", "raise_temperature")
    assert actions_of({"engine": {"kind": "vllm", "model": "m", "weights_directory": "w"}}) == (
        "entropy_bonus",
        "lower_learning_rate",
    )
    assert usable_actions(validate({"exploration": {"mode": "warn"}}, source="test")) == ()
    named = validate({"exploration": {"actions": ["stop", "raise_temperature"]}}, source="test")
    assert usable_actions(named) == ("stop", "raise_temperature")


def test_a_resolved_run_reads_back_the_same(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("run") / "config.json"
    tree: Tree = SEVERAL | {
        "loss": {"kl_cov_share": 0.002, "kl_cov_weight": 2.0},
        "exploration": {"actions": ["raise_temperature", "rollback"], "max_rollbacks": 1},
        "checkpoint": {"every": 5},
    }
    config = validate(tree, source="test")
    path.write_text(dump(config), encoding="utf-8")
    assert load_resolved(path) == config and isinstance(config, RunConfig)
