"""The ladder: which rung serves a prompt, and what each rung shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from critique_rl.config.refinement import RefinementConfig
from critique_rl.errors import PromptError
from critique_rl.loop.guidance import Guidance, Planned, load_guidance, prefix_of
from critique_rl.prompting.catalogue import load_prompt
from critique_rl.types import Group, Task
from tests.loop.fakes import critique, group, task

SOLUTION = "Put six sevens in a row. Add them up two at a time. Then say the sum."
LADDER = ("verdict", "critique", "lesson", "prefix_25", "prefix_50", "prefix_75")


def guidance(**options: object) -> Guidance:
    return load_guidance(RefinementConfig.model_validate(options), load_prompt("refine"))


def solved(solution: str = SOLUTION) -> Task:
    return replace(task(), metadata={"solution": solution})


def stuck(*texts: str, rung: str = "", of: Task | None = None, told: bool = True) -> Group:
    made = group(of or task(), *texts)
    critiques = {r.id: critique(r.id, f"Mind {r.text}.") for r in made.rollouts} if told else {}
    return replace(made, critiques=critiques, rung=rung)


def shown(plans: list[Planned]) -> list[tuple[str, str, str, str]]:
    return [(p.rung, p.hint.attempt, p.hint.directive, p.hint.template.name if p.hint.template else "") for p in plans]


def test_the_rung_asked_for_serves_if_it_can() -> None:
    ladder = guidance(ladder=LADDER)
    assert [ladder.rung(solved(), n) for n in range(6)] == list(LADDER)
    assert ladder.rung(solved(), 99) == "prefix_75"
    assert guidance().rung(task(), 3) == "critique"


def test_a_rung_that_cannot_serve_is_passed_over() -> None:
    ladder = guidance(ladder=LADDER)
    assert [ladder.rung(task(), n) for n in range(6)] == ["verdict", "critique", *["lesson"] * 4]
    assert [ladder.rung(solved(), n, critic=False) for n in range(4)] == ["verdict", *["prefix_25"] * 3]
    assert ladder.rung(task(), 2, critic=False) == "verdict"
    assert guidance().rung(solved(), 0, critic=False) is None
    assert guidance(ladder=["prefix_25"]).rung(task(), 0) is None


def test_a_prefix_that_states_the_answer_is_not_shown() -> None:
    ladder = guidance(ladder=["prefix_50", "prefix_75"])
    early = solved("The answer is 42. One sees this by adding six sevens, as they were given.")
    late = solved("Add six sevens, two at a time: that is three sums. The answer is 42, as one sees by adding them up.")
    assert ladder.rung(early, 0) is None
    assert [ladder.rung(late, n) for n in range(2)] == ["prefix_50", "prefix_50"]


def test_a_prefix_ends_with_a_whole_word() -> None:
    # 20 characters: a quarter is 5 of them, which ends inside "two"; a half ends after it
    of = solved("one two three four x")
    assert [prefix_of(of, share) for share in (0.25, 0.35, 0.5, 0.75, 1.0)] == [
        "one",
        "one two",
        "one two",
        "one two three",
        "one two three four x",
    ]
    assert prefix_of(solved("word"), 0.5) == "" and prefix_of(task(), 0.5) == ""


def test_a_critique_is_shown_with_the_attempt_and_only_where_there_is_one() -> None:
    of = replace(stuck("1", "2"), critiques={"t/1": critique("t/1", "Add.")})
    assert shown(guidance().plan([group(task("u"), "3"), of])) == [("critique", "2", "Add.", "refine")]
    assert [p.group for p in guidance().plan([group(task("u"), "3"), of])] == [1]


def test_the_verdict_and_a_prefix_need_no_critique_and_get_none() -> None:
    ladder = guidance(ladder=LADDER, per_attempt=2, max_attempts=2)
    of = stuck("1", "42", "2", "3", rung="verdict", told=False)
    plans = ladder.plan([of])
    assert shown(plans) == [("verdict", text, "Wrong.", "refine") for text in ("1", "1", "2", "2")]
    assert {p.critique.critic for p in plans} == {"verdict"}
    quarter = ladder.plan([stuck("1", "!", rung="prefix_25", of=solved(), told=False)])
    assert shown(quarter) == [("prefix_25", "", "Put six sevens in", "refine_prefix")] * 2


def test_without_a_plateau_no_rung_acts() -> None:
    of = replace(stuck("1", rung="verdict", told=False), plateaued=False)
    assert guidance(ladder=["verdict"]).plan([of]) == []


def test_a_lesson_leaves_the_attempt_out_of_view() -> None:
    lesson = [("lesson", "", "Mind 1.", "refine_lesson")]
    assert shown(guidance(ladder=["critique", "lesson"]).plan([stuck("1", rung="lesson")])) == lesson
    assert shown(guidance(view="lesson").plan([stuck("1")])) == lesson
    assert shown(guidance(ladder=["lesson"]).plan([stuck("1")])) == lesson


@pytest.mark.parametrize(("times", "lessons"), [(2, 1), (3, 1), (4, 2)])
def test_mixed_views_show_the_attempt_first(times: int, lessons: int) -> None:
    plans = guidance(view="mixed", per_attempt=times).plan([stuck("1", "2")])
    assert [(p.attempt.text, p.rung) for p in plans] == [
        (text, rung) for text in ("1", "2") for rung in ["critique"] * (times - lessons) + ["lesson"] * lessons
    ]


def test_failures_together_stand_shortest_first_with_what_was_said_of_each() -> None:
    plans = guidance(aggregate="refine").plan([stuck("long", "b", "b")])
    both = ("critique", "(1) b\n\n(2) long", "On (1): Mind b.\nOn (2): Mind long.", "refine_group")
    assert shown(plans) == [both] * 3
    assert [p.attempt.id for p in plans] == ["t/0", "t/1", "t/2"]


def test_one_failure_or_one_directive_is_not_numbered() -> None:
    alone = guidance(aggregate="refine").plan([stuck("1", "1")])
    assert shown(alone) == [("critique", "1", "Mind 1.", "refine_group")] * 2
    same = replace(stuck("1", "2"), critiques={f"t/{n}": critique(f"t/{n}", "Add.") for n in range(2)})
    assert shown(guidance(aggregate="refine").plan([same]))[0][2] == "Add."


def test_lessons_together_name_no_attempt() -> None:
    plans = guidance(aggregate="refine", view="lesson").plan([stuck("1", "2")])
    assert shown(plans) == [("lesson", "", "Mind 1.\nMind 2.", "refine_lesson")] * 2


def test_the_trial_is_held_under_the_template_that_critiques_are_tried_under() -> None:
    def name(of: Guidance) -> str | None:
        return of.trial_template.name if of.trial_template else None

    assert name(guidance()) == "refine"
    assert name(guidance(view="mixed", per_attempt=2)) == "refine"
    assert name(guidance(view="lesson")) == "refine_lesson"
    assert name(guidance(ladder=["verdict", "lesson"])) == "refine_lesson"
    assert name(guidance(aggregate="refine")) == "refine_group"
    assert load_guidance(RefinementConfig(), None).trial_template is None
    ladder = guidance(ladder=LADDER)
    assert [ladder.on_trial(stuck("1", rung=rung)) for rung in LADDER] == [False, True, False, False, False, False]
    assert guidance().on_trial(stuck("1"))


def test_a_lesson_template_that_wants_the_attempt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="wants attempt, but only directive, question can be filled here"):
        guidance(view="lesson", lesson_prompt="refine")
    with pytest.raises(PromptError, match="does not exist"):
        guidance(ladder=["prefix_25"], prefix_prompt=str(tmp_path / "none.md"))
