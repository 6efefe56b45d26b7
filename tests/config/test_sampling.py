"""Where [sampling] is read, and where one of its keys could do nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from critique_rl.config.load import dump, load_resolved, merge, validate
from critique_rl.config.reads import NEEDS
from critique_rl.config.sampling import ADVANTAGES_FROM_REWARDS, CONTRAST
from critique_rl.errors import ConfigError

Tree = dict[str, object]
CRITIC: Tree = {"critic": {"kind": "lab_rules"}}


def run_of(sampling: Tree, name: str = "grpo", **sections: object) -> Tree:
    critic = CRITIC if "critic" in NEEDS[name] and "feedback" not in sections else {}
    return {"algorithm": {"name": name}, **critic, **sections, "sampling": sampling}


@pytest.mark.parametrize("name", CONTRAST)
def test_methods_that_learn_from_contrast(name: str, tmp_path: Path) -> None:
    config = validate(run_of({"dynamic": True, "recycle": True, "min_std": 0.1}, name), source="test")
    assert config.sampling is not None and config.sampling.max_rounds == 10 and config.sampling.when_short == "train"
    (tmp_path / "run.json").write_text(dump(config))
    assert load_resolved(tmp_path / "run.json") == config
    assert validate({"algorithm": {"name": name}, **(CRITIC if NEEDS[name] else {})}, source="test").sampling is None


def test_the_lists_name_methods_that_exist() -> None:
    assert set(ADVANTAGES_FROM_REWARDS) < set(CONTRAST) < NEEDS.keys()


@pytest.mark.parametrize(
    ("sampling", "fault"),
    [
        ({}, "turns nothing on"),
        ({"min_std": 0.1}, "turns nothing on"),
        ({"overlong_filter": True, "min_std": 0.1}, r"min_std = 0.1 has no effect without dynamic or recycle"),
        ({"overlong_filter": True, "std_over": "valid"}, "std_over"),
        ({"recycle": True, "max_rounds": 3}, "max_rounds = 3 has no effect without dynamic"),
        ({"recycle": True, "when_short": "error"}, "when_short"),
        ({"dynamic": True, "recycle_share": 0.5}, "recycle_share = 0.5 has no effect without recycle"),
        ({"dynamic": True, "recycle_from": "unsolved"}, "recycle_from"),
        ({"unlikeliness": 1.0}, "unlikeliness"),
        ({"dynamic": True, "max_rounds": 0}, "max_rounds"),
        ({"overlong_buffer": 256}, r"overlong_buffer = 256 came with rollout.max_tokens = 256"),
        ({"drop_void_turns": True}, r"drop_void_turns has no effect where rollouts have no turns"),
        ({"dinamic": True}, "dinamic"),
    ],
)
def test_keys_without_effect(sampling: Tree, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        validate(run_of(sampling), source="test")


@pytest.mark.parametrize(
    ("tree", "fault"),
    [
        (run_of({"dynamic": True}, "weighted_reinforce"), r"sampling.dynamic has no place under algorithm.name"),
        (run_of({"recycle": True}, "directive_distillation"), r"sampling.recycle has no place under"),
        (run_of({"unlikeliness": 0.25}, "pass_at_k"), r"sampling.unlikeliness cannot be with algorithm.name"),
        (run_of({"overlong_buffer": 8}, "self_imitation"), r"sampling.overlong_buffer cannot be with"),
        (run_of({"overlong_buffer": 8}, "two_channel"), r'take "scores" out of algorithm.use'),
        (run_of({"dynamic": True}, "two_channel", feedback={"path": "x"}), r"no effect with \[feedback\]"),
        (run_of({"unlikeliness": 0.25}, "two_channel", feedback={"path": "x"}), r"recalled ones"),
        (run_of({"dynamic": True}, rollout={"group_size": 1}), r"rollout.group_size = 1, where no rewards differ"),
        (
            run_of({"dynamic": True}, "two_channel", distillation={"schedule": "unsolved"}),
            r'cannot be with schedule = "unsolved"',
        ),
        (
            run_of({"recycle": True, "recycle_share": 0.7}, "two_channel", replay={"revisit_share": 0.5}),
            r"more than a whole step",
        ),
    ],
)
def test_what_it_does_not_fit(tree: Tree, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        validate(tree, source="test")


@pytest.mark.parametrize("sampling", [{"dynamic": True}, {"unlikeliness": 0.25}])
def test_several_objectives_have_contrasts_of_their_own(sampling: Tree) -> None:
    objectives: Tree = {
        "combine": "sum",
        "of": {"right": {"source": "verifier"}, "short": {"source": "length", "target_tokens": 4}},
    }
    base = {"algorithm": {"name": "grpo"}, "objectives": objectives}
    validate(base, source="test")
    with pytest.raises(ConfigError, match=r"\[objectives\]"):
        validate({**base, "sampling": sampling}, source="test")
    validate({**base, "sampling": {"overlong_filter": True}}, source="test")


def test_void_turns_are_those_of_episodes() -> None:
    search: Tree = {"tasks": {"kind": "lab_search"}, "policy": {"model": "lab_search"}}
    config = validate({**run_of({"drop_void_turns": True}), **search}, source="test")
    assert config.sampling is not None and config.sampling.drop_void_turns


def test_demonstrations_are_not_sampled() -> None:
    with pytest.raises(ConfigError, match=r'\[sampling\] has no effect under algorithm.name = "sft"'):
        validate(run_of({"overlong_filter": True}, "sft"), source="test")


def test_an_arm_may_turn_a_part_on() -> None:
    base = run_of({"overlong_filter": True})
    merged = validate(merge(base, {"sampling": {"dynamic": True}}), source="test")
    assert merged.sampling is not None and merged.sampling.dynamic and merged.sampling.overlong_filter


def test_scores_out_of_use_make_room_for_the_length_penalty() -> None:
    tree = run_of({"overlong_buffer": 8}, "two_channel")
    validate({**tree, "algorithm": {"name": "two_channel", "use": ["refinements"]}}, source="test")
