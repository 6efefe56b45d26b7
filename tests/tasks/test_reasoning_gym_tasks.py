"""Generated problems: different, reproducible, disjoint; clear errors without the package or with wrong options."""

from __future__ import annotations

import json
import sys

import pytest

from critique_rl.errors import ConfigError, MissingExtraError
from critique_rl.tasks.reasoning_gym_tasks import ReasoningGymTasks

SMALL = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}


def chain_sums(**changes: object) -> ReasoningGymTasks:
    pytest.importorskip("reasoning_gym")
    options: dict[str, object] = {"size": 12, "seed": 3, "held_out_size": 4, "params": SMALL, **changes}
    return ReasoningGymTasks("chain_sum", **options)  # pyright: ignore[reportArgumentType]


def test_problems_are_different_and_held_out_ones_are_never_trained_on() -> None:
    source = chain_sums()
    trained = {task.question for step in range(3) for task in source.batch(step, 4, seed=0)}
    held_out = {task.question for task in source.held_out()}
    assert (len(trained), len(held_out)) == (12, 4)
    assert trained.isdisjoint(held_out)


def test_equal_seeds_give_equal_problems() -> None:
    assert chain_sums().held_out() == chain_sums().held_out()
    assert chain_sums().held_out() != chain_sums(seed=4).held_out()


def test_a_task_says_how_it_was_made() -> None:
    task = chain_sums(system="Answer with a number.").held_out()[0]
    assert task.verifier == "reasoning_gym"
    assert task.kind == "chain_sum"
    assert task.messages[0].content == "Answer with a number."
    assert json.loads(task.metadata["reasoning_gym"]) == {
        "dataset": "chain_sum",
        "seed": 3,
        "size": 64,  # 4 tries for each of 12 + 4 problems
        "params": SMALL,
        "index": 0,
    }


def test_too_few_different_questions() -> None:
    # Two one-digit terms: fewer than 10 * 10 * 2 = 200 questions.
    with pytest.raises(ConfigError, match=r"different questions in 1600 tries; wanted size \+ held_out_size = 400"):
        chain_sums(size=300, held_out_size=100)


@pytest.mark.parametrize("params", [{"no_such_option": 1}, {"min_terms": -1}])
def test_wrong_options(params: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="'chain_sum' cannot be made with these options"):
        chain_sums(params=params)


def test_an_unknown_data_set() -> None:
    pytest.importorskip("reasoning_gym")
    with pytest.raises(ConfigError, match="'chain_sam' cannot be made"):
        ReasoningGymTasks("chain_sam", size=1, seed=0, held_out_size=0)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'critique-rl\[reasoning-gym\]'"):
        ReasoningGymTasks("chain_sum", size=1, seed=0, held_out_size=0)
