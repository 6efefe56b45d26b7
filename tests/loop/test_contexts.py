"""Task + directive -> the turns of a refine or teacher context."""

from __future__ import annotations

from critique_rl.loop.contexts import guided_messages
from critique_rl.prompting.template import PromptTemplate, parse_template
from critique_rl.types import Message, Task
from tests.loop.fakes import task


def template(*, system: str = "") -> PromptTemplate:
    line = f'system = "{system}"\n' if system else ""
    header = f'name = "x"\nversion = 1\ndescription = "d"\ninputs = ["question", "attempt", "directive"]\n{line}'
    return parse_template(f"+++\n{header}+++\n{{{{ question }}}}|{{{{ attempt }}}}|{{{{ directive }}}}\n", source="x")


def turns(of: Task, used: PromptTemplate) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in guided_messages(of, used, attempt="41", directive="Carry.")]


def test_the_last_user_turn_is_replaced() -> None:
    assert turns(task(), template()) == [("user", "6*7=|41|Carry.")]


def test_the_task_keeps_its_own_system_turn() -> None:
    wanted = [("system", "Be brief."), ("user", "6*7=|41|Carry.")]
    assert turns(task(system="Be brief."), template()) == wanted
    assert turns(task(system="Be brief."), template(system="You are told.")) == wanted


def test_a_template_brings_its_system_turn_where_the_task_has_none() -> None:
    assert turns(task(), template(system="You are told.")) == [("system", "You are told."), ("user", "6*7=|41|Carry.")]


def test_earlier_and_later_turns_stay() -> None:
    messages = (
        Message(role="user", content="Hello"),
        Message(role="assistant", content="Hi"),
        Message(role="user", content="6*7="),
        Message(role="assistant", content="The answer is "),
    )
    several = Task(id="t", messages=messages, answer="42", verifier="exact")
    assert turns(several, template()) == [
        ("user", "Hello"),
        ("assistant", "Hi"),
        ("user", "6*7=|41|Carry."),
        ("assistant", "The answer is "),
    ]


def test_a_task_without_a_user_turn_gets_one() -> None:
    only_system = Task(id="t", messages=(Message(role="system", content="Say 42."),), answer="42", verifier="exact")
    assert turns(only_system, template()) == [("system", "Say 42."), ("user", "|41|Carry.")]


def test_values_are_data_and_are_never_rendered_again() -> None:
    used = guided_messages(task(), template(), attempt="{{ directive }}", directive="{% raw %}")
    assert used[-1].content == "6*7=|{{ directive }}|{% raw %}"
