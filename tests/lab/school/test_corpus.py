from __future__ import annotations

from collections import Counter

import pytest

from critique_rl.lab.school.chains import PLANS, Chain, read_attempt
from critique_rl.lab.school.corpus import (
    ADVISED,
    BARE,
    END,
    FORMAT_SHARES,
    MISLED,
    PLAN_PIECES,
    SHORT_ORDER,
    Lesson,
    Manner,
    SchoolContexts,
    SchoolCorpus,
    answer_shares,
    next_shares,
    plan_shares,
    word_shares,
)
from critique_rl.lab.school.problems import FORMAT_ACCURACY, Recall, Sort, Sum, Write, select_problems
from critique_rl.lab.school.reward import FORMAT_PATTERNS
from critique_rl.lab.school.splits import split_of

SUM = Sum(left=27, right=8)
WRITE = Write(topic="sea", banned=("wave", "salt"))


@pytest.fixture(scope="module")
def lessons() -> list[Lesson]:
    corpus = SchoolCorpus(seed=3)
    return [*corpus.drills(40), *corpus.short(140), *corpus.formats(30), *corpus.chains(60), *corpus.advised(60)]


def test_shares_add_to_one_and_hold_what_is_written(lessons: list[Lesson]) -> None:
    for lesson in lessons:
        assert len(lesson.pieces) == len(lesson.shares)
        for piece, shares in zip(lesson.pieces, lesson.shares, strict=True):
            assert sum(shares.values()) == pytest.approx(1.0)
            assert shares[piece] > 0
        assert lesson.prompt


def test_every_problem_is_of_the_build_split() -> None:
    corpus = SchoolCorpus(seed=4)
    questions = [e.prompt for e in (*corpus.short(140), *corpus.chains(60))]
    questions += [f"s {e.prompt}" for e in corpus.drills(40) if not e.prompt.startswith(" ")]
    questions += [e.prompt.rsplit("\n", 1)[1] for e in corpus.advised(40)]
    assert {split_of(question) for question in questions} == {"build"}


def test_equal_seeds_give_equal_lessons() -> None:
    first, again, other = (SchoolCorpus(seed=s).advised(12) for s in (1, 1, 2))
    assert first == again != other


def test_the_formats_of_a_sum_have_the_shares_and_accuracies_of_the_specification() -> None:
    """behaviour_and_schedule 9.5: p0 = [.28, .62, .10], a = [.35, .20, .10], accuracy at p0 .232."""
    answers = {"".join(pieces): share for pieces, share in answer_shares(SUM).items()}
    assert sum(answers.values()) == pytest.approx(1.0)
    assert answers == pytest.approx(
        {
            "=35": 0.28 * 0.35,
            "=36": 0.28 * 0.65,
            "<35>": 0.62 * 0.20,
            "<36>": 0.62 * 0.80,
            "sum 35": 0.10 * 0.10,
            "sum 36": 0.10 * 0.90,
        }
    )
    assert sum(answers[text] for text in ("=35", "<35>", "sum 35")) == pytest.approx(0.232)
    assert list(FORMAT_SHARES) == list(FORMAT_ACCURACY) == list(FORMAT_PATTERNS)


def test_sorting_and_recalling_are_right_in_about_a_third() -> None:
    for problem in select_problems("build", "sort", 50, chain_length=5):
        assert isinstance(problem, Sort)
        answers = {"".join(pieces): share for pieces, share in answer_shares(problem).items()}
        assert answers[problem.answer] == pytest.approx(0.35)
        assert sum(answers.values()) == pytest.approx(1.0)
    recall = Recall(letters="acbf", numbers=("41", "72", "25", "90"), asked=1)
    answers = {"".join(pieces): share for pieces, share in answer_shares(recall).items()}
    assert answers == pytest.approx({"72": 0.40, "25": 0.42, "41": 0.09, "90": 0.09})


def test_a_line_is_mostly_filler() -> None:
    first, later = word_shares(WRITE, first=True), word_shares(WRITE, first=False)
    assert sum(first.values()) == pytest.approx(1.0)
    assert [f" {word}" for word in first] == list(later)
    assert (first["so"], first["tide"], first["wave"]) == pytest.approx((0.80, 0.02, 0.01))


@pytest.mark.parametrize("manner", [BARE, ADVISED, MISLED], ids=["bare", "advised", "misled"])
def test_a_plans_words_multiply_to_its_share(manner: Manner) -> None:
    assert sum(manner.plans.values()) == pytest.approx(1.0)
    for plan in PLANS:
        share = 1.0
        for piece, options in zip(PLAN_PIECES[plan], plan_shares(plan, manner), strict=True):
            share *= options[piece]
        assert share == pytest.approx(manner.plans[plan])
        assert "".join(PLAN_PIECES[plan]) == f"{plan}:"


def test_the_starting_success_on_five_steps_is_far_below_one_percent() -> None:
    # .015 * .55^5 + .010 * .35^5 = .00075 + .00005
    right = sum(BARE.plans[p] * BARE.accuracy[p] ** 5 for p in ("step by step", "from the left"))
    assert right == pytest.approx(0.000807, abs=1e-6)
    assert ADVISED.plans["step by step"] * ADVISED.accuracy["step by step"] ** 5 > 0.5


def test_chains_are_written_in_the_grammar_and_go_on_from_slips() -> None:
    plans: Counter[str] = Counter()
    for lesson in SchoolCorpus(seed=5).chains(120):
        chain = Chain.parse(lesson.prompt)
        read = read_attempt("".join(lesson.pieces))
        assert read is not None and lesson.pieces[-1] == END
        plans[read.plan] += 1
        assert len(read.steps) == (0 if read.plan == "at once" else len(chain.signs))
        for before, step in zip(read.steps, read.steps[1:], strict=False):
            assert before.result == (step.right if read.plan == "from the right" else step.left)
        for step in read.steps:
            assert step.result in (step.right_result, (step.right_result + 1) % 10)
            assert step.result == step.right_result or read.plan != "from the right"
    assert min(plans[p] for p in PLANS) > 10


def test_advice_stands_where_the_prompts_of_a_run_put_it() -> None:
    contexts = SchoolContexts()
    assert contexts.refine("c 3-4-2=", "at once: 2", "Go.").strip() == "c 3-4-2= tried at once: 2\nGo.\nc 3-4-2="
    assert contexts.teacher("c 3-4-2=", "Go.").strip() == "c 3-4-2=\nGo.\nc 3-4-2="


def test_shares_of_beginnings_by_hand() -> None:
    found = next_shares({("a", "b"): 0.2, ("a", "c"): 0.6, ("d",): 0.2, ("e",): 0.0}, ("a", "b"))
    assert [dict(options) for options in found] == [
        pytest.approx({"a": 0.8, "d": 0.2}),
        pytest.approx({"b": 0.25, "c": 0.75}),
    ]


def test_short_lessons_go_round() -> None:
    letters = [e.prompt[0] for e in SchoolCorpus(seed=6).short(2 * len(SHORT_ORDER))]
    assert letters == ["s", "o", "r", "s", "o", "r", "w"] * 2


def test_format_lessons_show_every_format_alike_and_teach_the_same_shares() -> None:
    lessons = SchoolCorpus(seed=8).formats(300)
    seen = Counter(lesson.pieces[0] for lesson in lessons)
    assert set(seen) == {"=", "<", "sum"} and min(seen.values()) >= 75  # of 100; three standard errors of 8.2
    assert all(lesson.shares[0] == pytest.approx({"=": 0.28, "<": 0.62, "sum": 0.10}) for lesson in lessons)
