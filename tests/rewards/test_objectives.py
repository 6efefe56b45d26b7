"""What each source gives, where nothing is missing data and not 0, and what stops a step with a name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from critique_rl.config.objectives import ObjectivesConfig
from critique_rl.errors import ConfigError, DataError
from critique_rl.rewards.by_name import VerifierRouter
from critique_rl.rewards.exact import ExactReward
from critique_rl.rewards.format_reward import FormatReward
from critique_rl.rewards.objectives import ObjectiveReader
from critique_rl.types import CriticOutcome, Critique, Evaluative, Group, Score, ScoreStatus, Task
from tests.algorithms.groups import ERROR, critique, group
from tests.lab_runs import Tree

RIGHT: Tree = {"source": "verifier"}


class Failing:
    """A reward that cannot judge."""

    def score(self, task: Task, text: str) -> Score:
        return Score(reward=0.0, status=ScoreStatus.ERROR)


ROUTER = VerifierRouter({"exact": ExactReward(), "form": FormatReward(pattern="1$"), "failing": Failing()})


def reader(of: Tree, **keys: object) -> ObjectiveReader:
    return ObjectiveReader(ObjectivesConfig.model_validate({"combine": "gdpo", "of": of, **keys}), ROUTER)


def column(objective: Tree, of: Group, **keys: object) -> list[float | None]:
    """The values of one objective beside the verifier's."""
    return [row[1] for row in reader({"right": RIGHT, "own": objective}, **keys).read(of)]


def test_the_verifier_and_another_reward() -> None:
    of = group([1, 0, 0.5])  # texts r0, r1, r2
    read = reader({"right": RIGHT, "form": {"source": "reward", "reward": "form"}})
    assert read.names == ("right", "form")
    assert read.read(of) == [[1.0, 0.0], [0.0, 1.0], [0.5, 0.0]]  # r1 ends in 1
    # another verifier may know the answer: that of the task is "1"
    assert column({"source": "reward", "reward": "exact"}, of) == [0.0] * 3


def test_where_the_verifier_failed_nothing_is_measured() -> None:
    assert reader({"right": RIGHT, "short": {"source": "length", "target_tokens": 9}}).read(group([1, ERROR])) == [
        [1.0, 1.0],
        [None, None],
    ]
    # not with missing = "zero" either: the rollout itself is no evidence
    assert column({"source": "length", "target_tokens": 9}, group([1, ERROR]), missing="zero") == [1.0, None]


def test_a_reward_that_fails_is_missing() -> None:
    assert column({"source": "reward", "reward": "failing"}, group([1, 0])) == [None, None]
    assert column({"source": "reward", "reward": "failing"}, group([1, 0]), missing="zero") == [0.0, 0.0]


@pytest.mark.parametrize(
    ("soft", "wanted"),
    [
        # rollouts of 1 to 6 tokens
        (0, [1, 1, 0, 0, 0, 0]),
        (4, [1, 1, 0.75, 0.5, 0.25, 0]),
    ],
)
def test_lengths(soft: int, wanted: list[float]) -> None:
    found = column({"source": "length", "target_tokens": 2, "soft_tokens": soft}, group([0] * 6))
    assert found == pytest.approx(wanted)


def test_a_stated_confidence() -> None:
    of = group([1, 0])
    of = replace(of, scores=(replace(of.scores[0], objectives={"confidence": 0.96}), of.scores[1]))
    assert column({"source": "confidence"}, of) == [0.96, None]


def test_what_an_answer_is_worth() -> None:
    payoff: Tree = {"source": "payoff", "wrong": -4.0, "abstain": 0.25, "abstains": "r[23]"}
    # r0 is right; r1 is wrong; r2 and r3 say nothing, and r3 even wins by it: right is right
    assert column(payoff, group([1, 0, 0, 1])) == [1.0, -4.0, 0.25, 1.0]
    # a match somewhere in the text is no abstention
    assert column(payoff | {"abstains": "r"}, group([1, 0])) == [1.0, -4.0]


def test_what_a_critic_says() -> None:
    # criteria are called "0", "1", ...
    failed = critique("r2", 0.9, outcome=CriticOutcome.TIMED_OUT)
    of = group([0] * 4, critiques=[critique("r0", 0.2, 0.6), critique("r1"), failed])
    assert column({"source": "critic"}, of) == [pytest.approx(0.4), None, None, None]
    assert column({"source": "critic", "criterion": "1"}, of) == [0.6, None, None, None]
    assert column({"source": "critic", "criterion": "2"}, of) == [None] * 4
    assert column({"source": "critic"}, of, missing="zero") == [pytest.approx(0.4), 0.0, 0.0, 0.0]


def test_a_calibrated_score_is_one_criterion() -> None:
    calibrated = Critique(
        rollout_id="r0",
        critic="c",
        outcome=CriticOutcome.OK,
        evaluative=(Evaluative(criterion="calibrated", value=0.3),),
    )
    assert column({"source": "critic"}, group([0], critiques=[calibrated])) == [0.3]


# -- a function of the user's ------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Tree]:
    """Writes a module with `def f(task, text)` of the given body; each test has a module of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [str(tmp_path)])

    def write(body: str, function: str = "f") -> Tree:
        name = f"objective_{abs(hash((str(tmp_path), body)))}"
        (tmp_path / f"{name}.py").write_text(f"import math\n\n\ndef f(task, text):\n    {body}\n\n\nlimit = 3\n")
        return {"source": "python", "function": f"{name}:{function}"}

    return write


def test_a_function_sees_task_and_text(own: Callable[[str], Tree]) -> None:
    objective = own("return None if text == 'r2' else len(task.answer) + (text == 'r1')")
    assert column(objective, group([0] * 3)) == [1.0, 2.0, None]


def test_a_declared_range_is_brought_to_the_unit(own: Callable[[str], Tree]) -> None:
    objective = own("return int(text[1]) - 1")
    assert column(objective, group([0] * 3)) == [-1.0, 0.0, 1.0]
    assert column(objective | {"low": -1, "high": 3}, group([0] * 3)) == [0.0, 0.25, 0.5]
    with pytest.raises(DataError, match=r"of\.own for rollout 'r2' of task 't' is 1, and low = -1, high = 0\.5"):
        column(objective | {"low": -1, "high": 0.5}, group([0] * 3))


@pytest.mark.parametrize("value", ["math.nan", "math.inf", "-math.inf", "'1'", "b'1'", "[1]", "10**400", "object()"])
def test_what_is_no_number_stops_with_the_names(own: Callable[[str], Tree], value: str) -> None:
    with pytest.raises(
        DataError, match=r"objectives\.of\.own for rollout 'r1' of task 't' is .*wanted a finite number"
    ):
        column(own(f"return {value} if text == 'r1' else 0"), group([0] * 3))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_verifier_that_gives_no_number_stops_too(value: float) -> None:
    of = group([1, 0])
    of = replace(of, scores=(of.scores[0], Score(reward=value)))
    with pytest.raises(DataError, match=r"objectives\.of\.right for rollout 'r1' of task 't' is (nan|inf)"):
        column({"source": "length", "target_tokens": 1}, of)


def test_numbers_of_other_kinds_are_numbers(own: Callable[[str], Tree]) -> None:
    assert column(own("return True"), group([0])) == [1.0]
    read = reader({"right": RIGHT, "own": own("return task.metadata['x']")})
    of = group([0])
    told = replace(of, task=replace(of.task, metadata={"x": np.float32(0.5)}))  # pyright: ignore[reportArgumentType]
    assert read.read(told) == [[0.0, 0.5]]


def test_a_function_that_raises_is_named(own: Callable[[str], Tree]) -> None:
    with pytest.raises(DataError, match=r"of\.own for rollout 'r0'.*:f raised ZeroDivisionError.*return None"):
        column(own("return 1 / 0"), group([0]))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("no_such_module:f", "cannot be imported: ModuleNotFoundError"),
        ("math:no_such", "no_such is not there; define it in math"),
        ("math:pi", "pi is float, no function"),
        ("math:sqrt", r"cannot be called with \(task, text\)"),
    ],
)
def test_a_function_that_is_not_there(function: str, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"objectives\.of\.own\.function = '{function}'.*{said}"):
        reader({"right": RIGHT, "own": {"source": "python", "function": function}})


def test_a_module_that_breaks_on_import_is_named(tmp_path: Path, own: Callable[[str], Tree]) -> None:
    (tmp_path / "broken_objective.py").write_text("1 / 0\n")
    with pytest.raises(ConfigError, match="cannot be imported: ZeroDivisionError"):
        reader({"right": RIGHT, "own": {"source": "python", "function": "broken_objective:f"}})


# -- conditions --------------------------------------------------------------------------------------------------------


def test_an_easy_objective_counts_where_the_hard_one_is_reached() -> None:
    short: Tree = {"source": "length", "target_tokens": 2, "only_if": "right"}
    # lengths 1, 2, 3, 4; right 1, 0, 1, .5
    assert column(short, group([1, 0, 1, 0.5])) == [1.0, 0.0, 0.0, 0.0]
    assert column(short | {"target_tokens": 9, "threshold": 0.5}, group([1, 0, 1, 0.5])) == [1.0, 0.0, 1.0, 1.0]


def test_a_condition_on_what_is_missing_is_missing(own: Callable[[str], Tree]) -> None:
    of: Tree = {
        "right": RIGHT,
        "sometimes": own("return 1 if text == 'r0' else None"),
        "short": {"source": "length", "target_tokens": 9, "only_if": "sometimes"},
        "never": own("return  None") | {"only_if": "right"},
    }
    assert reader(of).read(group([0, 0])) == [[0.0, 1.0, 1.0, None], [0.0, None, None, None]]
    # with zeros in their place the condition is not reached
    assert reader(of, missing="zero").read(group([0, 0])) == [[0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]


def test_a_threshold_is_on_the_declared_scale(own: Callable[[str], Tree]) -> None:
    of: Tree = {
        "right": RIGHT,
        "own": own("return 10 * int(text[1])") | {"low": 0, "high": 20},
        "short": {"source": "length", "target_tokens": 9, "only_if": "own", "threshold": 0.5},
    }
    assert [row[1:] for row in reader(of).read(group([0] * 3))] == [[0.0, 0.0], [0.5, 1.0], [1.0, 1.0]]
