"""A search task from its files: the tool, the verifier that comes along, and the words about the calls."""

from __future__ import annotations

from pathlib import Path

import pytest

from critique_rl.build_tasks import build_environment, build_reward, build_tasks
from critique_rl.config.load import validate
from critique_rl.config.run import RunConfig
from critique_rl.errors import DataError
from critique_rl.types import Turn


def config(tmp_path: Path, **changes: object) -> RunConfig:
    (tmp_path / "q.jsonl").write_text('{"question": "Who wrote it?", "answer": "Ada"}\n', encoding="utf-8")
    (tmp_path / "c.jsonl").write_text(
        '{"id": "a", "text": "Ada wrote the first program"}\n{"id": "b", "text": "Bob read it"}\n', encoding="utf-8"
    )
    tasks = {
        "kind": "search",
        "path": str(tmp_path / "q.jsonl"),
        "corpus": str(tmp_path / "c.jsonl"),
        "held_out_fraction": 0,
        "top_k": 1,
        **changes,
    }
    return validate({"tasks": tasks, "rollout": {"prompts_per_step": 1}}, source="test")


def test_the_tool_searches_the_corpus(tmp_path: Path) -> None:
    run = config(tmp_path, max_turns=5, max_turn_tokens=7, max_result_chars=9)
    environment = build_environment(run.tasks)
    assert environment is not None
    assert (environment.max_turns, environment.max_turn_tokens) == (5, 7)
    (task,) = build_tasks(run.tasks).batch(0, 1, seed=0)
    found = environment.answer(task, [Turn(start=0, end=1, text="<search>first program</search>")])
    assert (found.observation, found.documents) == ('<result id="a">Ada wrote...</result>', ("a",))


def test_turns_end_at_the_tags_that_are_set_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    environment = build_environment(config(tmp_path, search_tag="find", answer_tag="final").tasks)
    assert environment is not None and environment.stop == ("</find>", "</final>")
    environment = build_environment(config(tmp_path, stop_at_calls=False).tasks)
    assert environment is not None and environment.stop == ()


def test_the_embedded_world_ends_turns_by_itself() -> None:
    environment = build_environment(validate({"tasks": {"kind": "lab_search"}}, source="test").tasks)
    assert environment is not None and environment.stop == ()


def test_the_policy_is_told_how_calls_are_written_unless_the_file_does(tmp_path: Path) -> None:
    (task,) = build_tasks(config(tmp_path, search_tag="find").tasks).batch(0, 1, seed=0)
    assert task.messages[0].role == "system"
    assert "<find>" in task.messages[0].content
    assert "<answer>your answer</answer>" in task.messages[0].content
    (task,) = build_tasks(config(tmp_path, system="Be brief.").tasks).batch(0, 1, seed=0)
    assert [m.content for m in task.messages] == ["Be brief.", "Who wrote it?"]


def test_the_verifier_reads_the_tag_that_is_set(tmp_path: Path) -> None:
    run = config(tmp_path, answer_tag="final")
    (task,) = build_tasks(run.tasks).batch(0, 1, seed=0)
    reward = build_reward(run)
    assert reward.score(task, "<final> ada </final>").correct
    assert not reward.score(task, "<answer>Ada</answer>").correct


def test_tasks_of_one_turn_have_no_tool() -> None:
    assert build_environment(validate({"tasks": {"kind": "lab"}}, source="test").tasks) is None


def test_a_corpus_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        build_environment(config(tmp_path, corpus=str(tmp_path / "none.jsonl")).tasks)
