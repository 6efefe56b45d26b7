"""Which sections each algorithm reads, and defaults that the specs fix."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from critique_rl.config.algorithm import LOSS_DEFAULTS, AlgorithmConfig, DapoConfig, RlooConfig
from critique_rl.config.load import dump, load_resolved, read_run_file, resolve, validate
from critique_rl.config.loss import LossConfig
from critique_rl.config.reads import NEEDS
from critique_rl.config.run import RunConfig
from critique_rl.errors import ConfigError

SECTIONS = {"critic": {"kind": "lab_rules"}, "refinement": {}, "distillation": {}}


def test_every_algorithm_says_what_it_reads() -> None:
    configs = get_args(get_args(AlgorithmConfig)[0])
    assert {config().name for config in configs} == NEEDS.keys()


@pytest.mark.parametrize("name", NEEDS)
@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_is_taken_exactly_where_it_is_read(name: str, section: str) -> None:
    tree: dict[str, object] = {"algorithm": {"name": name}, section: SECTIONS[section]}
    if "critic" in NEEDS[name]:
        tree["critic"] = SECTIONS["critic"]
    if section in NEEDS[name]:
        assert section in validate(tree, source="test").model_fields_set
    else:
        with pytest.raises(ConfigError, match=rf"\[{section}\] would have no effect under"):
            validate(tree, source="test")


def test_no_critic_is_the_same_as_none() -> None:
    assert validate({"critic": {"kind": "none"}}, source="test").critic is None


def test_a_config_is_frozen() -> None:
    config = RunConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 3  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValidationError, match="frozen"):
        config.rollout.group_size = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_defaults_that_the_methods_rest_on() -> None:
    config = RunConfig()
    assert config.algorithm.name == "grpo" and config.algorithm.scale == "none"  # Dr.GRPO: no std
    assert config.loss.normalizer == "constant" and config.loss.clip_low == config.loss.clip_high == 0.2
    assert config.refinement.gamma == 0.1 and config.refinement.ratio_mode == "shaped"
    assert config.distillation.divergence == "forward" and config.distillation.tail
    assert config.policy.model == "lab" and config.tasks.kind == "lab"


# -- [loss], by method and by hand -------------------------------------------------------------------------------------

PRESETS = {
    "grpo": ("clip", 0.2, 0.2, "constant"),
    "dr_grpo": ("clip", 0.2, 0.2, "constant"),
    "dapo": ("clip", 0.2, 0.28, "tokens"),
    "gspo": ("gspo", 3e-4, 4e-4, "sequences"),
    "cispo": ("cispo", 0.2, 4.0, "tokens"),
    "rloo": ("reinforce", 0.2, 0.2, "constant"),
    "weighted_reinforce": ("clip", 0.2, 0.2, "tokens"),
    "sft": ("reinforce", 0.2, 0.2, "tokens"),
}


def loss_of(name: str, **loss: object) -> LossConfig:
    return validate({"algorithm": {"name": name}, **({"loss": loss} if loss else {})}, source="test").loss


@pytest.mark.parametrize("name", PRESETS)
def test_a_method_brings_its_loss(name: str) -> None:
    loss = loss_of(name)
    assert (loss.objective, loss.clip_low, loss.clip_high, loss.normalizer) == PRESETS[name]
    assert loss.tis_cap is None and loss.kl_weight == loss.entropy_weight == 0.0 and loss.entropy_target is None
    assert LOSS_DEFAULTS.keys() < PRESETS.keys()


def test_a_key_that_is_set_wins_over_the_method() -> None:
    assert loss_of("dapo", clip_high=0.2).clip_high == 0.2
    assert loss_of("dapo", clip_high=0.2).normalizer == "tokens"
    assert loss_of("gspo", normalizer="constant").normalizer == "constant"
    assert loss_of("rloo", tis_cap=2.0).tis_cap == 2.0
    written = RunConfig(algorithm=DapoConfig(), loss=LossConfig(clip_low=0.1))
    assert (written.loss.clip_low, written.loss.clip_high) == (0.1, 0.28)
    assert RunConfig(algorithm=RlooConfig()).loss.objective == "reinforce"


def test_the_clips_of_a_method_go_with_its_objective() -> None:
    loss = loss_of("gspo", objective="clip")
    assert (loss.clip_low, loss.clip_high, loss.normalizer) == (0.2, 0.2, "sequences")
    assert loss_of("cispo", objective="reinforce").clip_high == 0.2


@pytest.mark.parametrize("name", PRESETS)
def test_a_resolved_run_reads_back_the_same(name: str, tmp_path: Path) -> None:
    config = validate({"algorithm": {"name": name}, "loss": {"kl_weight": 0.1, "kl_kind": "k3"}}, source="test")
    path = tmp_path / "config.json"
    path.write_text(dump(config), encoding="utf-8")
    assert load_resolved(path) == config


def test_arms_bring_their_own_loss(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        "loss.entropy_weight = 0.01\n[arms.a]\nalgorithm.name = 'gspo'\n[arms.b]\nalgorithm.name = 'cispo'\n"
        "[arms.c]\nalgorithm.name = 'cispo'\nloss.clip_high = 2.0\n",
        encoding="utf-8",
    )
    losses = {arm: resolve(read_run_file(path), arm=arm).loss for arm in "abc"}
    assert [loss.objective for loss in losses.values()] == ["gspo", "cispo", "cispo"]
    assert [loss.clip_high for loss in losses.values()] == [4e-4, 4.0, 2.0]
    assert all(loss.entropy_weight == 0.01 for loss in losses.values())


@pytest.mark.parametrize(
    ("loss", "wanted"),
    [
        ({"objective": "cispo", "clip_low": 0.1}, "clip_low = 0.1 has no effect with objective = 'cispo'; remove it"),
        ({"objective": "reinforce", "clip_high": 0.28}, "clip_high = 0.28 has no effect with objective = 'reinforce'"),
        (
            {"objective": "gspo", "dual_clip": 3.0},
            "dual_clip = 3.0 has no effect.*remove it, or set objective to 'clip'",
        ),
        ({"tis_cap": 2.0}, "tis_cap = 2.0 would correct twice for the sampler.*or set objective = 'reinforce'"),
        ({"objective": "cispo", "tis_cap": 2.0}, "tis_cap = 2.0 would correct twice"),
        ({"objective": "reinforce", "tis_cap": 0.0}, "loss.tis_cap: Input should be greater than 0"),
        ({"kl_kind": "k3"}, "kl_kind = 'k3' has no effect with kl_weight = 0; remove it, or set a weight"),
        ({"kl_kind": "k4", "kl_weight": 1.0}, "loss.kl_kind: Input should be 'k1', 'k2' or 'k3'"),
        ({"kl_weight": -0.1}, "loss.kl_weight: Input should be greater than or equal to 0"),
        ({"entropy_target": 0.0}, "loss.entropy_target: Input should be greater than 0"),
        ({"objective": "ppo"}, "loss.objective: Input should be 'clip', 'cispo', 'gspo' or 'reinforce'"),
        ({"normalizer": "rows"}, "loss.normalizer: Input should be 'constant', 'tokens' or 'sequences'"),
        ({"clip": 0.2}, "loss.clip is not a known key"),
    ],
)
def test_loss_keys_that_would_do_nothing_or_make_no_sense(loss: dict[str, object], wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        validate({"loss": loss}, source="test")


@pytest.mark.parametrize("tree", [{"loss": 3}, {"loss": 3, "algorithm": {"name": "gspo"}}, {"algorithm": {"name": 3}}])
def test_a_broken_tree_is_refused_and_not_filled_in(tree: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        validate(tree, source="test")
