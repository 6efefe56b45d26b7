"""Skills in a prompt and out of it again; the question stays bare."""

from __future__ import annotations

import pytest

from critique_rl.errors import PromptError
from critique_rl.loop.contexts import guided_messages
from critique_rl.memory.dressing import check_template, dressed, shown_to, token_counter, undressed
from critique_rl.memory.skill import Skill
from critique_rl.prompting.catalogue import load_prompt
from critique_rl.prompting.template import parse_template
from critique_rl.types import Message, Task

TEMPLATE, LAB = load_prompt("skills"), load_prompt("lab_skills")
SKILLS = (
    Skill(id="a", title="Carry", principle="Carry the one.", when_to_apply="27+38="),
    Skill(id="b", title="Order", principle="Start with the ones."),
)
TASK = Task(
    id="t", messages=(Message(role="user", content="14+29="),), answer="430", verifier="exact", metadata={"x": "y"}
)
SYSTEM = Message(role="system", content="You add.")


def test_a_block_stands_before_the_question() -> None:
    found = dressed(TASK, SKILLS, TEMPLATE)
    block, question = found.messages
    assert block.role == "system"
    assert "- Carry the one. (learned on: 27+38=)\n- Order: Start with the ones.\n" in block.content
    assert question == TASK.messages[0]
    assert found.question == TASK.question
    assert shown_to(found) == ("a", "b")


def test_a_system_turn_comes_first_and_stays_one() -> None:
    task = Task(id="t", messages=(SYSTEM, *TASK.messages), answer="", verifier="exact")
    found = dressed(task, SKILLS, TEMPLATE)
    assert [m.role for m in found.messages] == ["system", "user"]
    assert found.messages[0].content.startswith("You add.\n\nWhat earlier attempts")
    assert undressed(found) == task


def test_undressing_gives_the_task_back_and_dressing_twice_is_dressing_once() -> None:
    once = dressed(TASK, SKILLS, TEMPLATE)
    assert undressed(once) == TASK
    assert undressed(TASK) is TASK
    assert dressed(once, SKILLS[:1], TEMPLATE) == dressed(TASK, SKILLS[:1], TEMPLATE)
    assert dressed(once, (), TEMPLATE) == TASK


def test_the_lab_s_block_has_the_form_of_its_teacher() -> None:
    plain = "\n".join(m.content for m in dressed(TASK, SKILLS, LAB).messages)
    teacher = load_prompt("lab_teacher").render(question="14+29=", directive="Carry the one. Start with the ones.")
    assert plain == teacher


def test_refinement_and_teacher_see_the_same_opening() -> None:
    found = dressed(TASK, SKILLS, TEMPLATE)
    guided = guided_messages(found, load_prompt("lab_refine"), attempt="330", directive="Carry.")
    assert guided[0] == found.messages[0]
    assert guided[-1].content == "14+29= tried 330\nCarry.\n14+29="


def test_tokens_are_those_of_the_whole_block() -> None:
    count = token_counter(LAB, lambda text: len(text.split()))
    assert count(SKILLS[:1], "14+29=") == 4  # the question and "Carry the one."


@pytest.mark.parametrize(
    ("inputs", "body", "told"),
    [
        ('["question"]', "{{ question }}", "a block of skills is the template's body"),
        ('["skills", "attempt"]', "{{ skills }} {{ attempt }}", "the template wants attempt"),
    ],
)
def test_a_template_that_cannot_be_a_block(inputs: str, body: str, told: str) -> None:
    text = f'+++\nname = "x"\nversion = 1\ndescription = "d"\ninputs = {inputs}\n+++\n{body}\n'
    with pytest.raises(PromptError, match=told):
        check_template(parse_template(text, source="x.md"))


def test_a_system_part_would_have_no_place() -> None:
    text = '+++\nname = "x"\nversion = 1\ndescription = "d"\ninputs = ["skills"]\nsystem = "be"\n+++\n{{ skills }}\n'
    with pytest.raises(PromptError, match="no system part"):
        check_template(parse_template(text, source="x.md"))
    check_template(TEMPLATE)
    check_template(LAB)
