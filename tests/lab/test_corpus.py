from __future__ import annotations

import re
from itertools import product

import pytest

from critique_rl.lab import corpus
from critique_rl.lab.corpus import UNINFORMATIVE, ContextRenderer, Corpus, directive_text
from critique_rl.lab.problems import Problem

QUESTION = re.compile(r"\d\d\+\d\d=")


@pytest.fixture(scope="module")
def contexts() -> list[tuple[str, str]]:
    return [(e.prompt, e.answer) for e in Corpus(digits=2, seed=3).contexts(4000)]


def test_contexts_show_what_the_templates_say() -> None:
    problem = Problem.parse("27+38=")
    render = ContextRenderer()
    assert render.refine(problem, "550", "Carry.") == "27+38= tried 550\nCarry.\n27+38="
    assert render.teacher(problem, "Carry.") == "27+38=\nCarry.\n27+38="


def test_only_build_problems_occur(contexts: list[tuple[str, str]]) -> None:
    plain = Corpus(digits=2, seed=3).plain(4000)
    questions = [q for prompt, _ in (*contexts, *plain) for q in QUESTION.findall(prompt)]
    assert len(questions) > 10_000
    assert {Problem.parse(q).split for q in questions} == {"build"}


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_plain_answers_drop_carries_and_a_share_starts_at_the_wrong_end(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "WRONG_END_SHARE", share)
    examples = Corpus(digits=2, seed=0).plain(4000)
    turned = 0
    for example in examples:
        dropped = Problem.parse(example.prompt).dropped_answer
        assert example.answer in (dropped, dropped[::-1])
        turned += example.answer != dropped
    assert 0.8 * share <= turned / len(examples) <= share  # a tenth of the turned ones read the same


def test_answers_are_right_exactly_when_the_feedback_fits(contexts: list[tuple[str, str]]) -> None:
    for prompt, answer in contexts:
        problem = Problem.parse(prompt.rsplit("\n", 1)[1])
        first, text = prompt.split("\n")[:2]
        spoken = re.search(r"tried (\d+)", first)
        attempts = [spoken[1]] if spoken else [problem.dropped_answer, problem.dropped_answer[::-1]]
        fitting = {directive_text(problem, a, wording=w) for a, w in product(attempts, range(6))} - {""}
        assert answer == (problem.answer if text in fitting else problem.dropped_answer)


def test_each_kind_of_feedback_has_its_share(contexts: list[tuple[str, str]]) -> None:
    uninformative = sum(p.split("\n")[1] in UNINFORMATIVE for p, _ in contexts)
    teacher = sum(" tried " not in p for p, _ in contexts)
    assert 0.08 < uninformative / 4000 < 0.12  # 10 %
    assert 0.28 < teacher / 4000 < 0.34  # a third of 94 % is 31 %


def test_equal_seeds_give_equal_streams() -> None:
    assert Corpus(digits=2, seed=1).contexts(50) == Corpus(digits=2, seed=1).contexts(50)
    assert Corpus(digits=2, seed=1).contexts(50) != Corpus(digits=2, seed=2).contexts(50)
