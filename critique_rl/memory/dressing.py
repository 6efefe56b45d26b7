"""A task with skills in its prompt, and the task as it was: one block of text that opens the first turn.

Owns: where the block stands, and that a task can be undressed. The question stays the last user turn, so that critics,
refinement and teacher see it bare, under the same opening. Must not know: which skills are chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from critique_rl.errors import PromptError
from critique_rl.memory.skill import Skill
from critique_rl.prompting.template import PromptTemplate
from critique_rl.types import Message, Task

SHOWN = "skills"
"""The key of a dressed task's metadata that holds the ids of its skills, joined by blanks."""
BLOCK = "skills_block"
"""The key that holds the block itself."""
INPUTS = ("skills", "principles", "question")


def check_template(template: PromptTemplate) -> None:
    """Raises PromptError for a template that wants what a block is not given, or that shows no skill."""
    template.check_available(INPUTS)
    if template.system or not {"skills", "principles"} & set(template.inputs):
        raise PromptError(
            f"{template.source}: a block of skills is the template's body with {{{{ skills }}}} or "
            "{{ principles }} in it, and no system part; change the template"
        )


def block_of(template: PromptTemplate, skills: Sequence[Skill], question: str) -> str:
    """The block: `skills` is one line per skill, `principles` only what they say, one after another."""
    available = {
        "skills": "\n".join(_line(skill) for skill in skills),
        "principles": " ".join(skill.principle for skill in skills),
        "question": question,
    }
    return template.render(**{name: available[name] for name in template.inputs})


def token_counter(template: PromptTemplate, tokens_of: Callable[[str], int]) -> Callable[[Sequence[Skill], str], int]:
    """Counts the tokens of the block of some skills before a question, the template's own words included."""
    return lambda skills, question: tokens_of(block_of(template, skills, question))


def dressed(task: Task, skills: Sequence[Skill], template: PromptTemplate) -> Task:
    """The task with a block of these skills before all else, as a system turn; without skills the bare task.

    A task that has a system turn keeps one: its words come first, since a chat template may allow no second.
    """
    task = undressed(task)
    if not skills:
        return task
    block = block_of(template, skills, task.question)
    first = task.messages[0]
    if first.role == "system":
        messages = (Message(role="system", content=f"{first.content}\n\n{block}"), *task.messages[1:])
    else:
        messages = (Message(role="system", content=block), *task.messages)
    ids = " ".join(skill.id for skill in skills)
    return replace(task, messages=messages, metadata={**task.metadata, SHOWN: ids, BLOCK: block})


def undressed(task: Task) -> Task:
    """The task as its source gave it."""
    block = task.metadata.get(BLOCK)
    if block is None:
        return task
    first = task.messages[0]
    own = first.content.removesuffix(block).removesuffix("\n\n")
    opening = (Message(role="system", content=own),) if own else ()
    metadata = {key: value for key, value in task.metadata.items() if key not in (SHOWN, BLOCK)}
    return replace(task, messages=(*opening, *task.messages[1:]), metadata=metadata)


def shown_to(task: Task) -> tuple[str, ...]:
    """The ids of the skills in a task's prompt."""
    return tuple(task.metadata.get(SHOWN, "").split())


def _line(skill: Skill) -> str:
    said = (
        skill.principle
        if skill.principle.startswith(skill.title.removesuffix("..."))
        else f"{skill.title}: {skill.principle}"
    )
    return f"- {said}" if not skill.when_to_apply else f"- {said} (learned on: {skill.when_to_apply})"
