from __future__ import annotations

import pytest

from critique_rl.errors import DataError
from critique_rl.lab.school.chains import Chain
from critique_rl.lab.school.problems import Problem, Recall, Sort, Sum, Write, select_problems
from critique_rl.lab.school.reward import SchoolReward, line_score
from critique_rl.lab.school.tasks import school_task
from critique_rl.types import Message, ScoreStatus, Task

CHAIN = Chain.parse("c 3-4-2=")
SUM = Sum(left=27, right=8)
SORT = Sort(digits="4172")
RECALL = Recall(letters="acbf", numbers=("41", "72", "25", "90"), asked=1)
WRITE = Write(topic="sea", banned=("wave", "salt"))


@pytest.mark.parametrize(
    ("problem", "text", "reward", "status"),
    [
        (CHAIN, CHAIN.solution, 1.0, ScoreStatus.OK),
        (CHAIN, "step by step: 3-4=0; 0-2=8; so 8", 0.0, ScoreStatus.OK),
        (CHAIN, "at once: 2", 0.0, ScoreStatus.OK),
        (CHAIN, "at once: 7", 1.0, ScoreStatus.OK),
        (CHAIN, "step by step: 3-4=9;", 0.0, ScoreStatus.UNPARSED),
        (SUM, "=35", 1.0, ScoreStatus.OK),
        (SUM, "<35>", 1.0, ScoreStatus.OK),
        (SUM, "sum 35", 1.0, ScoreStatus.OK),
        (SUM, "sum 36", 0.0, ScoreStatus.OK),
        (SUM, "<35", 0.0, ScoreStatus.UNPARSED),
        (SORT, "1247", 1.0, ScoreStatus.OK),
        (SORT, "7421", 0.0, ScoreStatus.OK),
        (SORT, "124", 0.0, ScoreStatus.UNPARSED),
        (RECALL, "72", 1.0, ScoreStatus.OK),
        (RECALL, "25", 0.0, ScoreStatus.OK),
        (WRITE, "tide sand so fish", 0.75, ScoreStatus.OK),
        (WRITE, "", 0.0, ScoreStatus.UNPARSED),
        (WRITE, "=35", 0.0, ScoreStatus.UNPARSED),
    ],
)
def test_each_kind_is_judged(problem: Problem, text: str, reward: float, status: ScoreStatus) -> None:
    score = SchoolReward().score(school_task(problem), text)
    assert (score.reward, score.status) == (reward, status)


def test_a_line_earns_by_different_fitting_words_among_the_first_four() -> None:
    assert line_score(WRITE, "tide tide tide tide") == 0.25
    assert line_score(WRITE, "wave salt tree so") == 0.0  # banned, banned, of another topic, a filler
    assert line_score(WRITE, "so so so so tide") == 0.0
    assert line_score(WRITE, WRITE.answer) == 1.0


def test_with_fixed_accuracy_the_format_alone_earns() -> None:
    reward = SchoolReward(fixed_accuracy=True)
    problems = select_problems("build", "sum", 400, chain_length=5)
    for text, accuracy in (("={}", 0.35), ("<{}>", 0.20), ("sum {}", 0.10)):
        tasks = [school_task(p) for p in problems]
        one = [reward.score(task, text.format("10")).reward for task in tasks]
        other = [reward.score(task, text.format(task.answer)).reward for task in tasks]
        assert one == other
        # three standard errors of 400 draws
        assert sum(one) / 400 == pytest.approx(accuracy, abs=3 * (accuracy * (1 - accuracy) / 400) ** 0.5)
    assert [reward.score(school_task(SUM), text).reward for text in ("35", "?")] == [1.0, 0.0]
    assert reward.score(school_task(SORT), "1247").reward == 1.0


def test_a_dressed_prompt_is_judged_as_the_bare_one() -> None:
    bare = school_task(WRITE)
    dressed = Task(
        id=bare.id,
        messages=(Message(role="user", content=f"Think.\n{WRITE.question}"),),
        answer=bare.answer,
        verifier=bare.verifier,
        kind="mixed:write",
        metadata=bare.metadata,
    )
    assert SchoolReward().score(dressed, "tide sand fish ship").reward == 1.0


def test_another_sources_task_is_refused() -> None:
    task = Task(id="x", messages=(), answer="1", verifier="school")
    with pytest.raises(DataError, match="task 'x': its metadata has school = ''"):
        SchoolReward().score(task, "1")
