"""Task + directive -> the turns of a refine or teacher context."""

from __future__ import annotations

import pytest

from critique_rl.loop.contexts import CUT, FittedContext, context_budget, fitting_messages, guided_messages
from critique_rl.prompting.template import PromptTemplate, parse_template
from critique_rl.types import Message, Task
from tests.loop.fakes import CharPolicy, task

ATTEMPT = "0123456789" * 6
DIRECTIVE = "Carry."


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


class Placed(CharPolicy):
    """Knows how many positions it has."""

    max_positions = 40


def fitted(
    max_tokens: int | None, *, attempt: str = ATTEMPT, used: PromptTemplate | None = None
) -> FittedContext | None:
    return fitting_messages(
        task(),
        used or template(),
        attempt=attempt,
        directive=DIRECTIVE,
        encode=CharPolicy().encode,
        max_tokens=max_tokens,
    )


WHOLE = f"user: 6*7=|{ATTEMPT}|{DIRECTIVE}"  # one id a character


@pytest.mark.parametrize("max_tokens", [None, len(WHOLE), 1000])
def test_a_context_that_fits_is_left_alone(max_tokens: int | None) -> None:
    found = fitted(max_tokens)
    assert found is not None and found.cut_chars == 0
    assert found.messages == guided_messages(task(), template(), attempt=ATTEMPT, directive=DIRECTIVE)
    assert CharPolicy().decode(found.ids) == WHOLE


def test_the_middle_of_the_attempt_gives_way_first() -> None:
    found = fitted(len(WHOLE) - 11)
    assert found is not None
    # 11 ids too many and 7 for the mark: 18 of the attempt's 60 characters go, and its first and last 21 stay
    assert found.cut_chars == 18
    assert CharPolicy().decode(found.ids) == f"user: 6*7=|{ATTEMPT[:21]}{CUT}{ATTEMPT[-21:]}|{DIRECTIVE}"


def test_every_budget_is_kept_and_only_the_attempt_pays() -> None:
    least = len(WHOLE) - len(ATTEMPT) + len(CUT)
    for budget in range(least, len(WHOLE)):
        found = fitted(budget)
        assert found is not None and len(found.ids) == budget  # as much of the attempt as there is room for
        text = CharPolicy().decode(found.ids)
        assert text.startswith("user: 6*7=|") and text.endswith(f"|{DIRECTIVE}") and CUT in text
    assert fitted(least - 1) is None


def test_a_context_without_the_attempt_cannot_be_shortened() -> None:
    header = 'name = "x"\nversion = 1\ndescription = "d"\ninputs = ["question", "directive"]\n'
    alone = parse_template(f"+++\n{header}+++\n{{{{ question }}}} {{{{ directive }}}}\n", source="x")
    length = len("user: 6*7= Carry.")
    assert fitted(length - 1, used=alone) is None
    found = fitted(length, used=alone)
    assert found is not None and found.cut_chars == 0


def test_an_empty_attempt_has_nothing_to_give() -> None:
    assert fitted(5, attempt="") is None
    found = fitted(None, attempt="")
    assert found is not None and found.cut_chars == 0


@pytest.mark.parametrize(
    ("policy", "completion_tokens", "asked", "wanted"),
    [
        (CharPolicy(), 8, None, None),
        (CharPolicy(), 8, 30, 30),
        (Placed(), 8, None, 32),
        (Placed(), 8, 30, 30),  # both bound it: the smaller one counts
        (Placed(), 15, 30, 25),
        (Placed(), 41, None, 0),
    ],
)
def test_the_budget_is_what_the_positions_leave_or_less(
    policy: CharPolicy, completion_tokens: int, asked: int | None, wanted: int | None
) -> None:
    assert context_budget(policy, completion_tokens=completion_tokens, max_context_tokens=asked) == wanted
