"""Solutions as tasks of one step each: how many there are, what stands in front of them, what is held out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critique_rl.build_tasks import build_tasks
from critique_rl.config.load import validate
from critique_rl.errors import ConfigError, DataError
from critique_rl.prompting.catalogue import load_prompt
from critique_rl.tasks.jsonl import JsonlTasks
from critique_rl.tasks.steps import Expert, StepTasks, read_steps, step_tasks
from critique_rl.types import Message, Task

STEPS = ("First.\n", "Second.\n", "Third.\n", "Fourth.\n", "So 5.")
TITLES = ("one", "two", "three", "four", "five")


def solved(steps: tuple[str, ...] = STEPS, *, name: str = "t", **metadata: str) -> Task:
    return Task(
        id=name,
        messages=(Message(role="system", content="Be brief."), Message(role="user", content="What?")),
        answer="5",
        verifier="exact",
        kind="sum",
        metadata={"steps": json.dumps(steps), "solution": "".join(steps), **metadata},
    )


def of(task: Task, **options: object) -> list[Task]:
    return step_tasks(task, read_steps(task), verifier="near", **options)  # pyright: ignore[reportArgumentType]


def test_9_1_five_steps_make_four_instances() -> None:
    """Prefixes of 0, 1, 2 and 3 steps; the last step is never a target."""
    made = of(solved())
    assert [t.answer for t in made] == list(STEPS[:4])
    assert [t.question for t in made] == ["What?" + "".join(STEPS[:k]) for k in range(4)]
    assert [t.id for t in made] == [f"t/step-{k}" for k in (1, 2, 3, 4)]
    assert {t.verifier for t in made} == {"near"} and {t.kind for t in made} == {"sum step"}
    assert all(t.messages[0].content == "Be brief." for t in made)
    assert [t.metadata["solution"] for t in made] == list(STEPS[:4])  # a step can be learned by sft, too


def test_the_last_step_can_be_asked_for() -> None:
    assert [t.answer for t in of(solved(), train_last=True)] == list(STEPS)
    assert of(solved(("So 5.",))) == []
    assert [t.answer for t in of(solved(("So 5.",)), train_last=True)] == ["So 5."]


@given(st.lists(st.text(alphabet="ab\n", min_size=1).filter(str.strip), min_size=1, max_size=6))
def test_question_prefix_and_targets_make_the_solution_again(steps: list[str]) -> None:
    made = of(solved(tuple(steps)), train_last=True)
    assert "".join(t.answer for t in made) == "".join(steps)
    for t in made:
        assert ("What?" + "".join(steps)).startswith(t.question + t.answer)


def test_a_prompt_holds_question_steps_and_title() -> None:
    template = load_prompt("next_step")
    first, second, *_ = of(solved(titles=json.dumps(TITLES)), template=template, titled=True)
    assert first.question.startswith("What?\n\nWrite the next step") and 'called "one"' in first.question
    assert "A solution begins like this:\nFirst.\n" in second.question and 'called "two"' in second.question
    assert "called" not in of(solved(titles=json.dumps(TITLES)), template=template)[0].question


@pytest.mark.parametrize(
    ("metadata", "wanted"),
    [
        ({}, "task 't': metadata.steps is missing or empty; wanted a JSON list of step texts"),
        ({"steps": "[]"}, "missing or empty"),
        ({"steps": "First. Second."}, "metadata.steps is 'First. Second.'; wanted a JSON list of texts"),
        ({"steps": "[1, 2]"}, "wanted a JSON list of texts"),
        ({"steps": '["a", " "]'}, "a list with an empty step"),
        ({"steps": '["a", "b"]', "titles": '["one"]'}, "1 titles came with 2 steps"),
    ],
)
def test_unusable_steps_name_the_task(metadata: dict[str, str], wanted: str) -> None:
    with pytest.raises(DataError) as refused:
        read_steps(Task(id="t", messages=(), answer="5", verifier="exact", metadata=metadata))
    assert wanted in str(refused.value)


def test_titles_may_be_missing() -> None:
    assert read_steps(solved(("a", "b"))) == Expert(("a", "b"), ("", ""))


# -- over a source -----------------------------------------------------------------------------------------------------


def rows(path: Path, count: int = 10, **more: object) -> Path:
    lines = [
        {"prompt": f"{n}+1?", "answer": str(n + 1), "steps": [f"{n} and 1.\n", f"So {n + 1}."]} for n in range(count)
    ]
    path.write_text("".join(json.dumps({**line, **more}) + "\n" for line in lines))
    return path


def test_held_out_tasks_are_whole_questions(tmp_path: Path) -> None:
    inner = JsonlTasks(rows(tmp_path / "r.jsonl"), verifier="exact", held_out_fraction=0.2)
    source = StepTasks(inner, verifier="near")
    assert source.held_out() == inner.held_out() and len(source.held_out()) == 2
    assert len(source.training()) == len(inner.training()) == 8
    seen = [t.id for step in range(4) for t in source.batch(step, 2, seed=3)]
    assert sorted(seen) == sorted(t.id for t in source.training())
    assert source.batch(1, 2, seed=3) == source.batch(1, 2, seed=3) != source.batch(1, 2, seed=4)


def test_tasks_without_steps_are_an_error_or_left_out(tmp_path: Path) -> None:
    path = rows(tmp_path / "r.jsonl", 3)
    path.write_text(path.read_text() + '{"prompt": "Why?", "answer": "so"}\n')
    inner = JsonlTasks(path, verifier="exact")
    with pytest.raises(DataError, match=r"task 'r:4': metadata.steps is missing"):
        StepTasks(inner, verifier="near")
    assert len(StepTasks(inner, verifier="near", skip_without_steps=True).training()) == 3
    path.write_text('{"prompt": "Why?", "answer": "so"}\n')
    with pytest.raises(DataError, match="no training task has steps"):
        StepTasks(JsonlTasks(path, verifier="exact"), verifier="near", skip_without_steps=True)
    with pytest.raises(DataError, match="has no titles"):
        StepTasks(JsonlTasks(rows(path), verifier="exact"), verifier="near", next_title=True)


def test_a_source_that_does_not_tell_its_tasks_is_refused() -> None:
    class Endless:
        def batch(self, step: int, size: int, *, seed: int) -> list[Task]:
            return []

        def held_out(self) -> list[Task]:
            return []

    with pytest.raises(ConfigError, match="does not tell its training tasks"):
        StepTasks(Endless(), verifier="near")


def test_rows_say_their_steps(tmp_path: Path) -> None:
    """The solution is the steps in a row: what sft learns and guidance shows."""
    titled = rows(tmp_path / "r.jsonl", 1, titles=["sum", "end"])
    (task,) = JsonlTasks(titled, verifier="exact").training()
    assert task.metadata["solution"] == "0 and 1.\nSo 1."
    assert read_steps(task) == Expert(("0 and 1.\n", "So 1."), ("sum", "end"))
    for row, wanted in (
        ({"steps": "a"}, 'steps is "a"; wanted a list of texts that are not empty'),
        ({"steps": ["a", ""]}, "wanted a list of texts that are not empty"),
        ({"steps": ["a"], "metadata": {"solution": "b"}}, "metadata.solution differs from what steps say"),
        ({"titles": ["a"], "steps": None}, "steps is missing or null"),
    ):
        with pytest.raises(DataError) as refused:
            JsonlTasks(rows(tmp_path / "bad.jsonl", 1, **row), verifier="exact")
        assert wanted in str(refused.value)
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a", "answer": "b", "titles": ["c"]}\n')
    with pytest.raises(DataError, match="titles came without steps"):
        JsonlTasks(tmp_path / "bad.jsonl", verifier="exact")


def test_a_section_names_its_source(tmp_path: Path) -> None:
    of = {"kind": "jsonl", "path": str(rows(tmp_path / "r.jsonl")), "held_out_fraction": 0.5}
    config = validate({"tasks": {"kind": "steps", "of": of, "prefix": "text"}}, source="test")
    assert [t.question for t in build_tasks(config.tasks).batch(0, 5, seed=0) if t.question == "1+1?"] in ([], ["1+1?"])
    with pytest.raises(ConfigError, match=r"prompt = 'mine\.md' has no effect with prefix = 'text'"):
        validate({"tasks": {"kind": "steps", "of": of, "prefix": "text", "prompt": "mine.md"}}, source="test")
    with pytest.raises(ConfigError, match=r"tasks.steps.of"):
        validate({"tasks": {"kind": "steps"}}, source="test")
