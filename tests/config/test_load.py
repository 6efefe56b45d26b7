"""Run files: what is read, what is refused and in which words, arms, overrides, and the way back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from critique_rl.config.load import (
    RunFile,
    dump,
    load_resolved,
    load_run,
    merge,
    read_run_file,
    resolve,
    validate,
)
from critique_rl.errors import ConfigError

LAB = """
name = "x"
[critic]
kind = "lab_rules"
[refinement]
gamma = 0.2
[distillation]
k = 5
[arms.scalar]
algorithm.name = "grpo"
[arms.critique]
algorithm.name = "critique_grpo"
refinement.max_injected = 2
[arms.both]
algorithm = {name = "two_channel", critic_score_weight = 0.0}
"""
ALGORITHMS = {
    "grpo": {},
    "critique_grpo": {"critic": {"kind": "lab_rules"}, "refinement": {"gamma": 0.3}},
    "directive_distillation": {"critic": {"kind": "scripted", "fail": True}, "distillation": {"k": 3}},
    "two_channel": {"critic": {"kind": "lab_rules"}, "refinement": {"gamma": 0.3}, "distillation": {"tail": False}},
}


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path, *overrides: tuple[str, str]) -> str:
    with pytest.raises(ConfigError) as refused:
        load_run(path, overrides)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# -- what is refused, and in which words -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[rollout]\ngroupsize = 4", "rollout.groupsize is not a known key; `critique-rl keys` lists them all"),
        ("groups = 4", "groups is not a known key"),
        ("[rollout]\ngroup_size = 'many'", "rollout.group_size: Input should be a valid integer"),
        ("[rollout]\ngroup_size = 'many'", "(got 'many')"),
        ("[rollout]\ngroup_size = 0", "rollout.group_size: Input should be greater than or equal to 1 (got 0)"),
        ("[optimizer]\nlearning_rate = nan", "optimizer.learning_rate: Input should be a finite number"),
        ("rollout = 3", "rollout: Input should be a valid dictionary"),
        ("[algorithm]\nname = 'ppo'", "algorithm: Input tag 'ppo' found using 'name' does not match"),
        ("algorithm = 'grpo'", "algorithm"),
        ("[critic]\nkind = 'lab_rules'", "[critic] would have no effect under algorithm.name = 'grpo'"),
        ("[refinement]\n[distillation]", "[distillation], [refinement] would have no effect"),
        ("[algorithm]\nname = 'two_channel'", "algorithm.name = 'two_channel' needs a [critic] section"),
        ("[algorithm]\nname='critique_grpo'\n[critic]\nkind='none'", "needs a [critic] section"),
        (
            "[algorithm]\nname='critique_grpo'\n[critic]\nkind='lab_rules'\n[distillation]\nk=3",
            "[distillation] would have no effect under algorithm.name = 'critique_grpo'",
        ),
        ("name = '../x'", "name: String should match pattern"),
        ("seed = -1", "seed: Input should be greater than or equal to 0 (got -1)"),
    ],
)
def test_a_fault_names_the_key_and_what_came(tmp_path: Path, text: str, wanted: str) -> None:
    path = written(tmp_path, text)
    message = refusal(path)
    assert message.startswith(f"{path}: ")
    assert wanted in message


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    message = refusal(written(tmp_path, "[rollout]\ngroup_size = 0\ngroupsize = 1\n[budget]\nmax_steps = 'x'"))
    assert all(key in message for key in ("rollout.group_size:", "rollout.groupsize is", "budget.max_steps:"))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[rollout\n", "is not valid TOML: Expected ']' at the end of a table declaration (at line 1, column 9)"),
        ("a = 1\na = 2\n", "(at line 2, column 6)"),
        ("seeds = 3", "seeds must be a list of whole numbers >= 0, got 3"),
        ("seeds = [1, -2]", "seeds must be a list of whole numbers >= 0, got [1, -2]"),
        ("seeds = [true]", "seeds must be a list of whole numbers"),
        ("arms = 3", "arms must be tables [arms.NAME]"),
        ("[arms]\nx = 1", "arms must be tables [arms.NAME]"),
        ("[arms.'../x']\n", "arms: '../x' cannot name a directory"),
        ("checks = 3", "checks must be tables [[checks]]"),
        ("[[checks]]\nname = 'a'\narm = 'run'\nclass = 'hard'", "checks, entry 1: give exactly one of at_most and"),
        (
            "[[checks]]\nname='a'\narm='run'\nclass='hard'\nat_least=0.5\n[[checks]]\nname='b'\nat_most=0.1",
            "checks, entry 2: arm: Field required",
        ),
        ("[[checks]]\nname='a'\narm='run'\nclass='x'\natmost=1", "checks, entry 1: atmost is not a known key"),
        ("[[checks]]\nname='a'\narm='both'\nclass='x'\nat_most=1", "there is no arm 'both'; the file has run"),
        ("[[checks]]\nname='a'\narm='run'\nclass='x'\nat_most='x'", "at_most: Input should be a valid number"),
    ],
)
def test_a_file_that_is_no_run_file(tmp_path: Path, text: str, wanted: str) -> None:
    path = written(tmp_path, text)
    message = refusal(path)
    assert str(path) in message and wanted in message


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert "does not exist; give the path of a TOML file" in refusal(tmp_path / "none.toml")
    assert "cannot be read" in refusal(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'title = "caf\xe9"')
    assert "cannot be read" in refusal(tmp_path / "latin.toml")


# -- arms, seeds, checks -----------------------------------------------------------------------------------------------


def test_an_arm_that_changes_the_algorithm_drops_what_becomes_inert(tmp_path: Path) -> None:
    run_file = read_run_file(written(tmp_path, LAB))
    scalar, critique, both = (resolve(run_file, arm=arm) for arm in ("scalar", "critique", "both"))
    assert scalar.critic is None and not {"refinement", "distillation"} & scalar.model_fields_set
    assert "distillation" not in critique.model_fields_set
    assert (critique.refinement.gamma, critique.refinement.max_injected) == (0.2, 2)
    assert both.distillation.k == 5 and both.refinement.max_injected == 1
    assert both.algorithm.name == "two_channel" and both.algorithm.critic_score_weight == 0.0


def test_an_inert_section_of_the_arm_itself_is_refused(tmp_path: Path) -> None:
    run_file = read_run_file(written(tmp_path, LAB + "[arms.odd]\nalgorithm.name = 'grpo'\nrefinement.gamma = 0.5\n"))
    with pytest.raises(ConfigError, match=r"\[arms.odd\]: \[refinement\] would have no effect"):
        resolve(run_file, arm="odd")


def test_an_unknown_arm_is_told_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no arm 'botch'; it has \['both', 'critique', 'scalar'\]"):
        resolve(read_run_file(written(tmp_path, LAB)), arm="botch")
    with pytest.raises(ConfigError, match="there is no arm 'x'; it has none"):
        resolve(read_run_file(written(tmp_path, "")), arm="x")


def test_an_arm_is_no_key_of_another_arm(tmp_path: Path) -> None:
    run_file = read_run_file(written(tmp_path, LAB))
    before = json.dumps(run_file.base)
    for arm in run_file.arms:
        resolve(run_file, arm=arm, seed=3)
    assert json.dumps(run_file.base) == before


def test_seeds_and_checks_are_split_off(tmp_path: Path) -> None:
    text = "seeds = [3, 1]\n[[checks]]\nname = 'a'\narm = 'run'\nclass = 'hard'\nat_least = 0.5\n"
    run_file = read_run_file(written(tmp_path, text))
    assert run_file.seeds == (3, 1)
    assert run_file.checks == ({"name": "a", "arm": "run", "class": "hard", "at_least": 0.5},)
    assert resolve(run_file).seed == 0 and resolve(run_file, seed=7).seed == 7


def test_load_run_takes_the_first_arm(tmp_path: Path) -> None:
    assert load_run(written(tmp_path, LAB)).algorithm.name == "grpo"


@pytest.mark.parametrize(
    ("base", "over", "merged"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}, {"a": {"b": 1, "c": 3}}),
        ({"a": 1}, {"a": {"b": 2}}, {"a": {"b": 2}}),
        ({"a": {"b": 1}}, {"a": 2}, {"a": 2}),
        # a section of another kind replaces the old one: the old one's keys would be unknown in it
        ({"critic": {"kind": "lab_rules"}}, {"critic": {"kind": "x", "y": 1}}, {"critic": {"kind": "x", "y": 1}}),
        (
            {"critic": {"kind": "x", "y": 1}},
            {"critic": {"kind": "x", "z": 2}},
            {"critic": {"kind": "x", "y": 1, "z": 2}},
        ),
    ],
)
def test_merge(base: dict[str, object], over: dict[str, object], merged: dict[str, object]) -> None:
    assert merge(base, over) == merged


# -- overrides ---------------------------------------------------------------------------------------------------------


def test_overrides_are_toml_values_and_otherwise_words(tmp_path: Path) -> None:
    overrides = [
        ("optimizer.learning_rate", "1e-4"),
        ("rollout.group_size", "16"),
        ("policy.model", "some/model"),
        ("title", '"quoted: 1"'),
        ("tasks.kind", "reasoning_gym"),
        ("tasks.dataset", "chain_sum"),
        ("tasks.params.sizes", "[1, 2]"),
        ("report.samples_per_step", "0"),
    ]
    config = load_run(written(tmp_path, ""), overrides)
    assert config.optimizer.learning_rate == 1e-4 and config.rollout.group_size == 16
    assert (config.policy.model, config.title) == ("some/model", "quoted: 1")
    assert config.tasks.kind == "reasoning_gym" and config.tasks.params == {"sizes": [1, 2]}
    assert config.report.samples_per_step == 0


def test_the_last_override_of_a_key_counts(tmp_path: Path) -> None:
    assert load_run(written(tmp_path, "seed = 1"), [("seed", "2"), ("seed", "3")]).seed == 3


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("rollout.groupsize", "4", "rollout.groupsize is not a known key"),
        ("rollout.group_size", "four", "rollout.group_size: Input should be a valid integer"),
        ("rollout.group_size.x", "4", "--rollout.group_size.x: 'group_size' is a value, not a section"),
        ("nothing.here", "4", "nothing is not a known key"),
        ("optimizer.learning_rate", "inf", "finite number"),
    ],
)
def test_an_override_is_held_to_the_same_rules(tmp_path: Path, key: str, value: str, wanted: str) -> None:
    assert wanted in refusal(written(tmp_path, "[rollout]\ngroup_size = 2"), (key, value))


def test_an_override_holds_in_every_arm_whatever_the_arm_says(tmp_path: Path) -> None:
    text = LAB + "[arms.wide]\nalgorithm.name = 'grpo'\nrollout.group_size = 4\nalgorithm.scale = 'none'\n"
    overrides = [("rollout.group_size", "16"), ("algorithm.scale", "std"), ("refinement.gamma", "0.4")]
    run_file = read_run_file(written(tmp_path, text), overrides)
    configs = {arm: resolve(run_file, arm=arm) for arm in run_file.arms}
    assert [c.rollout.group_size for c in configs.values()] == [16] * 4
    assert [getattr(c.algorithm, "scale", None) for c in configs.values()] == ["std"] * 4
    assert configs["critique"].refinement.gamma == 0.4
    assert "refinement" not in configs["scalar"].model_fields_set  # inert there, as the file's own section is


# -- the way back ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_resolved_run_reads_back_as_itself(tmp_path: Path, name: str) -> None:
    tree = {"algorithm": {"name": name}, "seed": 3, "budget": {"max_generated_tokens": 9}, **ALGORITHMS[name]}
    config = validate(tree, source="test")
    path = tmp_path / "config.json"
    path.write_text(dump(config), encoding="utf-8")
    assert load_resolved(path) == config
    assert dump(load_resolved(path)) == dump(config)
    told = json.loads(dump(config))
    inert = {"critic", "refinement", "distillation"} - set(ALGORITHMS[name])
    assert not inert & told.keys()
    assert told["optimizer"]["beta2"] == 0.999  # defaults are written too


def test_tasks_rewards_and_critics_survive_the_way_back(tmp_path: Path) -> None:
    tree = {
        "algorithm": {"name": "two_channel"},
        "tasks": {"kind": "jsonl", "path": "rows.jsonl", "held_out_fraction": 0.25},
        "rewards": {"boxed": {"kind": "exact", "pattern": r"\[\[(.*?)\]\]"}},
        "critic": {"kind": "openai", "model": "m", "base_url": "http://localhost:1/v1"},
    }
    config = validate(tree, source="test")
    path = tmp_path / "config.json"
    path.write_text(dump(config), encoding="utf-8")
    assert load_resolved(path) == config


@pytest.mark.parametrize("text", ["", "{", '{"nam": 1}'])
def test_a_resolved_run_that_is_broken_is_one_clear_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json"):
        load_resolved(path)
    with pytest.raises(ConfigError, match="cannot be read as a resolved run"):
        load_resolved(tmp_path / "none.json")


def test_a_run_file_by_hand() -> None:
    run_file = RunFile(base={"seed": 5}, arms={}, seeds=(), checks=(), source="code")
    assert resolve(run_file).seed == 5
