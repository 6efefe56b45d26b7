"""Open questions as a checkpoint holds them: back from JSON as they were, and what is said of anything else."""

from __future__ import annotations

import dataclasses
import json
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critique_rl.errors import CheckpointError
from critique_rl.loop.criticize import Question, probe, questions
from critique_rl.loop.waiting import Waiting, waiting_from_json, waiting_to_json
from critique_rl.types import CriticOutcome, CriticRequest, Critique, Directive, Evaluative, Group, Turn, Usage
from tests.loop.fakes import group, task

Tree = dict[str, object]


def written(*entries: Waiting) -> Tree:
    """Through text, as a checkpoint goes."""
    return json.loads(json.dumps(waiting_to_json(entries), allow_nan=False))


def asked(of: Group, step: int = 3) -> list[Waiting]:
    found = questions(of, max_attempts=8, show_reference=True)
    return [Waiting(step=step, question=question, group=of) for question in found]


def episode() -> Group:
    """With all that a rollout may carry, and log-probs that have no short decimal form."""
    plain = group(task("e"), "41", "42")
    first = dataclasses.replace(
        plain.rollouts[0],
        behaviour_logprobs=(-1 / 3, -0.1 - 0.2, 0.0),
        policy_version=7,
        policy_mask=(True, False, True),
        turns=(Turn(start=0, end=1, text="4", action="search", argument="4", observation="found", documents=("d",)),),
    )
    score = dataclasses.replace(
        plain.scores[0], objectives={"length": 0.1, "tone": -2.0}, confidence=0.7, confidence_start=1
    )
    return dataclasses.replace(
        plain,
        rollouts=(first, plain.rollouts[1]),
        scores=(score, plain.scores[1]),
        rung="critique",
        confidence_tokens={"e/0": 2},
    )


def test_questions_groups_and_answers_come_back_as_they_were() -> None:
    mixed, rich = group(task("a", system="Be brief."), "41", "40", "41"), episode()
    shown = probe([rich], correct=True, show_reference=False)
    assert shown is not None
    said = Critique(
        rollout_id="a/0",
        critic="c",
        outcome=CriticOutcome.OK,
        evaluative=(Evaluative(criterion="correctness", value=0.1, confidence=None),),
        directives=(Directive(text="Add the ones.", span=(0, 2), quote="41", turn=0),),
        verdict="incorrect",
        dropped=(("so", "why"),),
        usage=Usage(prompt_tokens=3, completion_tokens=4, cost_usd=1e-7),
        members=(Critique(rollout_id="a/0", critic="m", outcome=CriticOutcome.TIMED_OUT),),
    )
    first, second = asked(mixed)
    entries = [
        dataclasses.replace(first, answer=said),
        second,
        *asked(rich, 4),
        Waiting(step=4, question=shown, probes=True),
    ]
    back = waiting_from_json(written(*entries))
    assert [(w.step, w.question.request, w.probes, w.answer) for w in back] == [
        (w.step, w.question.request, w.probes, w.answer) for w in entries
    ]
    assert [w.question.twins for w in back[:3]] == [w.question.twins for w in entries[:3]]
    assert [len(w.question.twins) for w in back] == [2, 1, 1, 0]  # of a probe nothing but its request is used
    assert back[0].group is back[1].group and back[0].group == mixed
    assert back[2].group == rich and back[3].group is None


def test_a_group_is_written_once_whatever_is_asked_about_it() -> None:
    of = group(task(), "1", "2", "3", "4")
    state = written(*asked(of), *asked(group(task(), "1")))
    assert len(cast("list[object]", state["groups"])) == 2
    assert len(cast("list[object]", state["questions"])) == 5


def test_nothing_waits_in_an_empty_state() -> None:
    assert waiting_from_json(written()) == waiting_from_json({}) == []


@given(
    st.lists(st.text(alphabet="0123456789?", min_size=1, max_size=3), min_size=1, max_size=6),
    st.integers(0, 10**6),
    st.integers(1, 6),
)
def test_what_is_written_twice_is_the_same(texts: list[str], step: int, attempts: int) -> None:
    of = group(task(answer="never"), *texts)
    entries = [
        Waiting(step=step, question=question, group=of)
        for question in questions(of, max_attempts=attempts, show_reference=False)
    ]
    once = written(*entries)
    assert written(*waiting_from_json(once)) == once


def broken(**changes: object) -> Tree:
    """A written state whose only question has these fields."""
    state = written(asked(group(task(), "41"))[0])
    (question,) = cast("list[Tree]", state["questions"])
    return {**state, "questions": [{**question, **changes}]}


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (broken(step="soon"), r"field 'questions\.0\.step'"),
        (broken(group=1), "came with group 1; wanted one of the 1"),
        (broken(group=-1), "came with group -1"),
        (broken(twins=[0, 5]), r"came with twins \[0, 5\]; wanted some of 1 rollouts"),
        (broken(twins=[]), "came with twins"),
        (broken(group=None), "came with group None and probes None; wanted one of them"),
        (broken(probes=True), "came with group 0 and probes True"),
        ({"groups": "many"}, "field 'groups'"),
    ],
)
def test_anything_else_is_refused_with_its_place(state: Tree, told: str) -> None:
    with pytest.raises(CheckpointError, match=told) as caught:
        waiting_from_json(state)
    assert "late critiques in the checkpoint" in str(caught.value)
    assert "resume from an older checkpoint" in str(caught.value)


def test_a_group_that_lost_a_score_is_refused() -> None:
    state = written(asked(group(task(), "41", "40"))[0])
    (kept,) = cast("list[Tree]", state["groups"])
    kept["scores"] = cast("list[object]", kept["scores"])[:1]
    with pytest.raises(CheckpointError, match=r"groups\.0 came with 1 scores for 2 rollouts"):
        waiting_from_json(state)


def test_several_attempts_in_one_question_keep_their_rollouts() -> None:
    of = group(task(), "411", "40", "5")
    (question,) = questions(of, max_attempts=8, show_reference=False, others_chars=100)
    (back,) = waiting_from_json(written(Waiting(step=0, question=question, group=of)))
    assert back.question == Question(question.request, question.twins)
    assert isinstance(back.question.request, CriticRequest) and back.question.request.other_attempts == ("40", "411")
