"""`[[stage]]` of a run file: what a stage inherits, what it leaves out, what is refused, and arms with stages."""

from __future__ import annotations

from pathlib import Path

import pytest

from critique_rl.config.load import read_run_file, resolve, resolve_stages, with_feedback
from critique_rl.config.run import RunConfig
from critique_rl.errors import ConfigError

BASE = """
name = "x"
seed = 3
[rollout]
group_size = 4
max_tokens = 32
[plateau]
block = 5
[loss]
clip_high = 0.3
kl_weight = 0.01
[algorithm]
name = "two_channel"
[critic]
kind = "lab_rules"
[guards]
mode = "stop"
[budget]
max_steps = 20
max_generated_tokens = 5000
count_critic_tokens = true
"""
STAGES = """
[[stage]]
name = "sft"
algorithm.name = "sft"
budget.max_epochs = 2
[[stage]]
name = "scalar"
algorithm.name = "grpo"
budget.max_generated_tokens = 1000
budget.stop_on_plateau = true
[[stage]]
name = "critics"
budget.max_steps = 30
"""


def stages_of(tmp_path: Path, text: str = BASE + STAGES, *overrides: tuple[str, str], arm: str | None = None):
    path = tmp_path / "run.toml"
    path.write_text(text, encoding="utf-8")
    return resolve_stages(read_run_file(path, overrides), arm=arm)


def refused(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as error:
        stages_of(tmp_path, text)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_stage_is_the_file_with_its_own_sections_laid_over(tmp_path: Path) -> None:
    sft, scalar, critics = stages_of(tmp_path)
    assert [stage.name for stage in (sft, scalar, critics)] == ["sft", "scalar", "critics"]
    assert {stage.config.name for stage in (sft, scalar, critics)} == {"x"}
    assert (sft.config.budget.max_epochs, sft.config.budget.max_steps) == (2, 20)
    assert scalar.config.budget.stop_on_plateau and scalar.config.budget.max_generated_tokens == 1000
    assert critics.config.budget.max_steps == 30 and critics.config.budget.max_generated_tokens == 5000
    assert critics.config.guards.mode == "stop" and critics.config.critic is not None
    assert {stage.config.rollout.max_tokens for stage in (sft, scalar, critics)} == {32}


def test_a_stage_drops_what_its_algorithm_does_not_read(tmp_path: Path) -> None:
    sft, scalar, critics = (stage.config for stage in stages_of(tmp_path))
    assert sft.critic is None and scalar.critic is None and critics.critic is not None
    assert sft.guards == scalar.guards == RunConfig().guards
    assert sft.rollout.group_size == RunConfig().rollout.group_size and scalar.rollout.group_size == 4
    assert sft.plateau == RunConfig().plateau and scalar.plateau.block == 5
    assert (sft.loss.objective, sft.loss.normalizer, sft.loss.clip_high) == ("reinforce", "tokens", 0.2)
    assert sft.loss.kl_weight == 0.01 and scalar.loss.clip_high == 0.3


@pytest.mark.parametrize("section", ["[stage.critic]\nkind = 'lab_rules'", "[stage.plateau]\nblock = 9"])
def test_what_a_stage_sets_itself_must_have_an_effect(tmp_path: Path, section: str) -> None:
    message = refused(tmp_path, BASE + f"[[stage]]\nname = 'a'\nalgorithm.name = 'sft'\n{section}\n")
    assert "[[stage]] a: " in message
    assert "have no effect" in message or "has no effect" in message


@pytest.mark.parametrize(
    ("stages", "wanted"),
    [
        ("stage = 3\n", "stage must be tables [[stage]]"),
        ("[[stage]]\nalgorithm.name = 'sft'", "stage 1 has name = None"),
        ("[[stage]]\nname = 'a/b'", "stage 1 has name = 'a/b'"),
        ("[[stage]]\nname = 'a'\n[[stage]]\nname = 'a'", "two stages are called 'a'"),
        ("[[stage]]\nname = 'a'\nseed = 4", "stage 'a' sets seed, which belongs to the whole run"),
        ("[[stage]]\nname = 'a'\n[stage.arms.b]\nseed = 4", "stage 'a' sets arms"),
        ("[[stage]]\nname = 'a'\n[stage.rollout]\ngroups = 4", "[[stage]] a: rollout.groups is not a known key"),
        (
            "[[stage]]\nname = 'a'\n[[stage]]\nname = 'b'\npolicy.model = 'lab'",
            "[[stage]] b: policy.model has no effect",
        ),
    ],
)
def test_bad_stages_are_refused(tmp_path: Path, stages: str, wanted: str) -> None:
    text = stages + BASE if stages.startswith("stage") else BASE + stages
    assert wanted in refused(tmp_path, text)


def test_the_first_stage_may_say_where_it_starts(tmp_path: Path) -> None:
    (first, _) = stages_of(tmp_path, BASE + "[[stage]]\nname='a'\npolicy.model='lab_guess'\n[[stage]]\nname='b'\n")
    assert first.config.policy.model == "lab_guess"


def test_overrides_hold_in_every_stage(tmp_path: Path) -> None:
    found = stages_of(tmp_path, BASE + STAGES, ("budget.max_steps", "2"), ("optimizer.learning_rate", "0.5"))
    assert {stage.config.budget.max_steps for stage in found} == {2}
    assert {stage.config.optimizer.learning_rate for stage in found} == {0.5}


def test_a_file_with_stages_is_its_last_stage_with_the_budget_of_all(tmp_path: Path) -> None:
    stages_of(tmp_path)
    whole = resolve(read_run_file(tmp_path / "run.toml"), seed=9)
    assert whole.seed == 9 and whole.algorithm.name == "two_channel" and whole.budget.max_steps == 30
    assert whole.budget.max_generated_tokens == 5000
    unlimited = BASE.replace("max_generated_tokens = 5000\ncount_critic_tokens = true", "")
    stages_of(tmp_path, unlimited + STAGES + "budget.max_generated_tokens = 70\n")
    assert resolve(read_run_file(tmp_path / "run.toml")).budget.max_generated_tokens is None


ARMS = """
[arms.whole]
algorithm.name = "grpo"
[arms.staged]
rollout.group_size = 6
stage = [{ name = "a", algorithm.name = "sft" }, { name = "b", critic = "lab_rules" }]
[arms.alone]
stage = []
"""


def test_an_arm_may_have_stages_of_its_own(tmp_path: Path) -> None:
    assert stages_of(tmp_path, BASE + ARMS, arm="whole") == ()
    assert stages_of(tmp_path, BASE + STAGES + ARMS, arm="alone") == ()
    assert [s.name for s in stages_of(tmp_path, BASE + STAGES + ARMS, arm="whole")] == ["sft", "scalar", "critics"]
    a, b = stages_of(tmp_path, BASE + STAGES + ARMS, arm="staged")
    assert (a.name, b.name) == ("a", "b") and b.config.rollout.group_size == 6
    assert b.config.critic is not None and b.config.critic.kind == "lab_rules"


def test_a_file_of_feedback_does_not_fit_stages(tmp_path: Path) -> None:
    stages_of(tmp_path)
    with pytest.raises(ConfigError, match=r"--feedback: .* has stages"):
        with_feedback(read_run_file(tmp_path / "run.toml"), "f.jsonl")
