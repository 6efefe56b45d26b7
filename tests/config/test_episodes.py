"""What tasks with a tool may be combined with, their keys, and what has no effect without one."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from critique_rl.config.ablation import AblationConfig
from critique_rl.config.load import validate
from critique_rl.config.run import RunConfig
from critique_rl.errors import ConfigError

SEARCH = {"kind": "search", "path": "q.jsonl", "corpus": "c.jsonl", "held_out_fraction": 0.1}


def config(**sections: object) -> RunConfig:
    return validate({"tasks": {"kind": "lab_search"}, **sections}, source="test")


def refused(said: str, **sections: object) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**sections)
    assert said in str(caught.value)


def test_defaults() -> None:
    lab = config().tasks
    assert (lab.kind, getattr(lab, "max_turns", 0), getattr(lab, "max_turn_tokens", 0)) == ("lab_search", 3, 8)
    own = config(tasks=SEARCH).tasks
    assert own.model_dump(exclude={"path", "corpus"}) == {
        "kind": "search",
        "held_out_path": None,
        "held_out_fraction": 0.1,
        "verifier": "search",
        "system": "",
        "top_k": 3,
        "max_turns": 4,
        "max_turn_tokens": None,
        "max_result_chars": None,
        "stop_at_calls": True,
        "search_tag": "search",
        "answer_tag": "answer",
        "result_tag": "result",
        "no_answer_penalty": 0.0,
        "malformed_penalty": 0.0,
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"held_out_path": "h.jsonl"}, "exactly one of held_out_path and held_out_fraction"),
        ({"held_out_fraction": None}, "exactly one of held_out_path and held_out_fraction"),
        ({"answer_tag": "search"}, "must differ"),
        ({"search_tag": "a b"}, "search_tag"),
        ({"max_turns": 0}, "max_turns"),
        ({"no_answer_penalty": 1.5}, "no_answer_penalty"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_keys_of_a_search_task(changes: Mapping[str, object], said: str) -> None:
    refused(said, tasks={**SEARCH, **changes})


def test_first_turn_candidates() -> None:
    given = {"group_size": 4, "first_turn_candidates": 5}
    assert config(rollout=given).rollout.first_turn_candidates == 5
    refused("leaves nothing to choose", rollout={"group_size": 5, "first_turn_candidates": 5})
    refused("has no effect on tasks of one turn", tasks={"kind": "lab"}, rollout=given)
    refused("tasks.max_turns = 1", tasks={"kind": "lab_search", "max_turns": 1}, rollout=given)
    refused("no rollout is sampled", algorithm={"name": "sft"}, rollout={"first_turn_candidates": 9})


def test_recorded_feedback_is_refused() -> None:
    refused(
        "which of its words were the tool's",
        algorithm={"name": "two_channel"},
        feedback={"path": "f.jsonl"},
    )


def test_the_verifier_of_searches_is_a_source_of_objectives() -> None:
    wanted = {"right": {"source": "verifier"}, "found": {"source": "reward", "reward": "search"}}
    objectives = config(objectives={"combine": "sum_unscaled", "of": wanted}).objectives
    assert objectives is not None
    assert set(objectives.of) == {"right", "found"}
    refused("search", tasks={"kind": "lab"}, objectives={"combine": "sum_unscaled", "of": wanted})


def test_an_ablation_can_show_how_episodes_searched() -> None:
    found = AblationConfig(reference="a", columns=("query_unique_ratio", "evidence_overlap"))
    assert found.columns == ("query_unique_ratio", "evidence_overlap")
    with pytest.raises(ValueError, match="evidence_overlap"):
        AblationConfig(reference="a", columns=("query_length",))
