"""An expert's solutions as tasks of one step each: N steps make N - 1 of them (arXiv 2510.25992).

    task k of 1..N-1:  question and steps 1..k-1  ->  step k

Owns: which steps are asked, and where the steps before stand. Must not know: how a step is judged. Weak in the source:
how steps are put into the prompt; that the title of the next step helps. The last step is no target, as in the paper;
a proposal for TRL trains on it (`train_last`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol, cast, runtime_checkable

from critique_rl.errors import ConfigError, DataError
from critique_rl.prompting.template import PromptTemplate
from critique_rl.protocols import TaskSource
from critique_rl.tasks.order import epoch_batch
from critique_rl.types import Message, Task

STEPS, TITLES, SOLUTION = "steps", "titles", "solution"
"""Keys of a task's metadata: a JSON list of step texts whose concatenation is the solution, their titles, the whole."""


@runtime_checkable
class Pooled(Protocol):
    """A source that can tell all its training tasks."""

    def training(self) -> Sequence[Task]: ...


class Expert(NamedTuple):
    """The steps of a worked solution, and a title of each or ""."""

    steps: tuple[str, ...]
    titles: tuple[str, ...]


class StepTasks:
    """A `TaskSource` over the steps of the solutions of `source`'s training tasks; evaluations ask its held-out ones.

    `template` puts question, steps before and title into one turn (None: the steps follow the question's own text).
    Errors: ConfigError for a source that cannot tell its tasks; DataError for a task without usable steps.
    """

    def __init__(
        self,
        source: TaskSource,
        *,
        verifier: str,
        template: PromptTemplate | None = None,
        next_title: bool = False,
        train_last: bool = False,
        skip_without_steps: bool = False,
    ) -> None:
        if not isinstance(source, Pooled):
            raise ConfigError(
                "tasks.of: this source does not tell its training tasks, so their steps cannot be listed; choose "
                "another kind"
            )
        if template is not None:
            template.check_available(("question", "steps", "title"))
        self._source = source
        self._instances: tuple[Task, ...] = ()
        made: list[Task] = []
        for task in source.training():
            if skip_without_steps and STEPS not in task.metadata:
                continue
            expert = read_steps(task)
            if next_title and not any(expert.titles):
                raise DataError(f"task {task.id!r} has no titles, and tasks.next_title is set; add titles or unset it")
            made += step_tasks(
                task, expert, verifier=verifier, template=template, titled=next_title, train_last=train_last
            )
        if not made:
            raise DataError("tasks.of: no training task has steps to learn; see train_last and skip_without_steps")
        self._instances = tuple(made)

    def batch(self, step: int, size: int, *, seed: int) -> Sequence[Task]:
        """`size` different steps; a pure function of (seed, step, size)."""
        return epoch_batch(self._instances, step, size, seed=seed)

    def training(self) -> Sequence[Task]:
        """Every step that is asked for."""
        return self._instances

    def held_out(self) -> Sequence[Task]:
        """The source's own held-out tasks: whole questions."""
        return self._source.held_out()


def step_tasks(
    task: Task,
    expert: Expert,
    *,
    verifier: str,
    template: PromptTemplate | None = None,
    titled: bool = False,
    train_last: bool = False,
) -> list[Task]:
    """One task for each step but the last (with `train_last` for every step), whose answer is that step."""
    last = len(expert.steps) - (0 if train_last else 1)
    return [
        replace(
            task,
            id=f"{task.id}/step-{k + 1}",
            messages=_asking(task, "".join(expert.steps[:k]), expert.titles[k] if titled else "", template),
            answer=expert.steps[k],
            verifier=verifier,
            kind=f"{task.kind} step".strip(),
            metadata={SOLUTION: expert.steps[k]},
        )
        for k in range(last)
    ]


def read_steps(task: Task) -> Expert:
    """The steps that a task's metadata holds. Errors: DataError naming the task."""
    steps = _texts(task, STEPS)
    if not steps or not all(step.strip() for step in steps):
        came = "a list with an empty step" if steps else "missing or empty"
        raise DataError(
            f"task {task.id!r}: metadata.{STEPS} is {came}; "
            'wanted a JSON list of step texts such as ["Add 2 and 3.\\n", "So it is 5."], or leave the task out '
            "(tasks.skip_without_steps)"
        )
    titles = _texts(task, TITLES)
    if titles and len(titles) != len(steps):
        raise DataError(f"task {task.id!r}: {len(titles)} titles came with {len(steps)} steps; give each step one")
    return Expert(steps, titles or ("",) * len(steps))


def _texts(task: Task, key: str) -> tuple[str, ...]:
    raw = task.metadata.get(key)
    if raw is None:
        return ()
    try:
        found: object = json.loads(raw)
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(text, str) for text in cast("list[object]", found)):
        raise DataError(f"task {task.id!r}: metadata.{key} is {raw!r:.60}; wanted a JSON list of texts")
    return tuple(cast("list[str]", found))


def _asking(task: Task, before: str, title: str, template: PromptTemplate | None) -> tuple[Message, ...]:
    """The task's turns with the last question replaced; earlier turns stay."""
    *earlier, asked = task.messages
    if template is None:
        return (*earlier, Message(role=asked.role, content=asked.content + before + title))
    values = {"question": asked.content, "steps": before, "title": title}
    content = template.render(**{name: values[name] for name in template.inputs})
    return (*earlier, Message(role=asked.role, content=content))
