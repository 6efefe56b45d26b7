"""Task + directive -> the messages of a refine or teacher context: the template replaces the last user turn."""

from __future__ import annotations

from critique_rl.prompting.template import PromptTemplate
from critique_rl.types import Message, Task


def guided_messages(task: Task, template: PromptTemplate, *, attempt: str, directive: str) -> tuple[Message, ...]:
    """The task's turns with the last user turn rendered from `template`; its system part joins if the task has none."""
    rendered = template.messages_from({"question": task.question, "attempt": attempt, "directive": directive})
    last = max((i for i, m in enumerate(task.messages) if m.role == "user"), default=len(task.messages))
    turns = (*task.messages[:last], rendered[-1], *task.messages[last + 1 :])
    has_system = any(m.role == "system" for m in task.messages)
    return turns if has_system else (*rendered[:-1], *turns)
