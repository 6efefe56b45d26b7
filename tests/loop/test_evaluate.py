"""Held-out success: counts by hand, intervals against the closed form, which tasks are asked; pass@k, votes and
confidences by kind, and the names under which trackers get them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from critique_rl.config.evaluation import EvaluationConfig
from critique_rl.engines.scripted import ScriptedEngine
from critique_rl.loop.evaluate import CONFIDENCE, Rate, Success, evaluate, figures, in_words
from critique_rl.protocols import Reward
from critique_rl.rewards.confidence import OBJECTIVE
from critique_rl.types import Score, ScoreStatus, Task
from tests.loop.fakes import CharPolicy, ExactReward, engine, task


def measured(
    tasks: Sequence[Task], sampler: ScriptedEngine, *, reward: Reward | None = None, **options: object
) -> dict[str, Success]:
    found = evaluate(
        tasks,
        policy=CharPolicy(),
        engine=sampler,
        reward=reward or ExactReward(),
        config=EvaluationConfig.model_validate(options),
        max_tokens=8,
        seed=0,
    )
    return dict(found)


def wilson(k: int, n: int) -> tuple[float, float]:
    z = 1.959963984540054
    middle = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    return middle - half, middle + half


def test_success_is_counted_by_kind() -> None:
    tasks = [task("a", kind="hard"), task("b", kind="easy"), task("c", kind="hard"), task("d")]
    found = measured(tasks, engine("42", "41", "?", "42"))
    assert list(found) == ["hard", "easy", "all"]
    hard = found["hard"]
    assert (hard.kind, hard.successes, hard.trials, hard.success) == ("hard", 1, 2, 0.5)
    assert (hard.low, hard.high) == pytest.approx(wilson(1, 2))
    assert (found["easy"].successes, found["easy"].trials) == (0, 1)


def test_several_samples_of_a_task_follow_each_other() -> None:
    found = measured([task("a", answer="1"), task("b", answer="2")], engine("1", "1", "1", "2"), samples_per_task=2)
    assert (found["all"].successes, found["all"].trials) == (3, 4)


def test_a_verifier_error_is_no_success() -> None:
    assert measured([task()], engine("!"))["all"].successes == 0


def test_fewer_tasks_are_spread_over_all_kinds() -> None:
    tasks = [*(task(f"e{i}", kind="easy") for i in range(6)), *(task(f"h{i}", kind="hard") for i in range(6))]
    found = measured(tasks, engine("42"), max_tasks=4)
    assert {kind: s.trials for kind, s in found.items()} == {"easy": 2, "hard": 2}
    assert sum(s.trials for s in measured(tasks, engine("42"), max_tasks=100).values()) == 12


def test_nothing_held_out_is_nothing_measured() -> None:
    assert measured([], engine("42")) == {}
    assert measured([], engine("42"), max_tasks=3) == {}


def test_one_sample_a_task_has_nothing_more_to_tell() -> None:
    found = measured([task("a"), task("b")], engine("42", "41"))["all"]
    assert found.rates == {} and found.calibration == {}


def test_each_task_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []
    encode = CharPolicy.encode
    monkeypatch.setattr(CharPolicy, "encode", lambda self, m: (encoded.append(m[-1].content), encode(self, m))[1])  # pyright: ignore
    measured([task("a", question="p"), task("b", question="q")], engine("42"), samples_per_task=8)
    assert encoded == ["p", "q"]


# -- several samples of a task -----------------------------------------------------------------------------------------


def test_pass_at_k_by_kind() -> None:
    # hard: 2 and 0 of 4 right; easy: 4 of 4
    tasks = [task("a", kind="hard"), task("b", kind="easy"), task("c", kind="hard")]
    texts = ["42", "1", "42", "2", *["42"] * 4, "1", "2", "3", "!"]
    found = measured(tasks, engine(*texts), samples_per_task=4, pass_at=[4, 1, 2])
    hard, easy = found["hard"].rates, found["easy"].rates
    assert [name for name in hard if name.startswith("pass")] == ["pass@1", "pass@2", "pass^2", "pass@4", "pass^4"]
    # two of four right: C(4, 2) = 6 pairs, one without a right answer, one of two right ones
    assert {name: rate.value for name, rate in hard.items() if name.startswith("pass")} == pytest.approx(
        {"pass@1": 0.25, "pass@2": (5 / 6) / 2, "pass^2": (1 / 6) / 2, "pass@4": 0.5, "pass^4": 0.0}
    )
    assert hard["pass@1"].value == found["hard"].success == 2 / 8
    assert all(rate.value == 1.0 for rate in easy.values())
    assert all(rate.low <= rate.value <= rate.high for rate in (*hard.values(), *easy.values()))
    # one task says little of its kind, however often it was answered
    assert (easy["pass@4"].low, easy["pass@4"].high) == pytest.approx(wilson(1, 1))


def test_more_answers_to_the_same_tasks_are_no_more_evidence_of_other_tasks() -> None:
    # one task always right, one never: of other such tasks 0 to 1 may succeed, not 31 to 69 of 100
    tasks = [task("a"), task("b")]
    found = measured(tasks, engine(*["42"] * 8, *["1"] * 8), samples_per_task=8, pass_at=[1])["all"]
    assert (found.low, found.success, found.high) == (0.0, 0.5, 1.0)
    assert found.rates["pass@1"] == Rate(value=found.success, low=found.low, high=found.high)
    assert wilson(8, 16)[0] > 0.25


class Stated:
    """The text is ANSWER:CONFIDENCE; without a number the confidence is unreadable; "!" is a verifier that failed."""

    def score(self, task: Task, text: str) -> Score:
        answer, _, number = text.partition(":")
        if text == "!":
            return Score(reward=0.0, status=ScoreStatus.ERROR)
        if not number:
            return Score(reward=0.0, status=ScoreStatus.UNPARSED, objectives={"confidence": 0.0})
        return Score(reward=float(answer == task.answer), extracted=answer, confidence=float(number))


def test_votes_by_hand() -> None:
    # a: A .9 against B .3 + .4 and C; b: the sure answer is wrong, the frequent one right; c: nothing to elect
    texts = ["A:.9", "B:.3", "B:.4", "C:.5", "A:.2", "A:.2", "A:.2", "B:.9", "?", "?", "?", "?"]
    tasks = [task(name, answer="A") for name in "abc"]
    rates = measured(tasks, engine(*texts), reward=Stated(), samples_per_task=4)["all"].rates
    won = {name: rate.value for name, rate in rates.items()}
    # majority: B A -; summed: A (.9 > .7) B (.9 > .6) -; surest: A B -
    assert won == pytest.approx({"majority_vote": 1 / 3, "weighted_vote": 1 / 3, "most_confident": 1 / 3})
    assert (rates["majority_vote"].low, rates["majority_vote"].high) == pytest.approx(wilson(1, 3))
    only_a = measured(tasks[:1], engine(*texts), reward=Stated(), samples_per_task=4)["all"].rates
    assert [only_a[name].value for name in ("majority_vote", "weighted_vote", "most_confident")] == [0.0, 1.0, 1.0]
    only_b = measured(tasks[1:2], engine(*texts[4:]), reward=Stated(), samples_per_task=4)["all"].rates
    assert [only_b[name].value for name in ("majority_vote", "weighted_vote", "most_confident")] == [1.0, 0.0, 0.0]


def test_without_confidences_only_numbers_count() -> None:
    rates = measured([task("a")], engine("42", "42", "41", "?"), samples_per_task=4)["all"].rates
    low = rates["majority_vote"].low
    assert rates == {"majority_vote": Rate(value=1.0, low=low, high=1.0)} and low == pytest.approx(wilson(1, 1)[0])
    assert measured([task("a")], engine("?", "!"), samples_per_task=2)["all"].rates == {}


# -- stated confidences ------------------------------------------------------------------------------------------------


def test_the_objective_that_tells_of_confidences_is_the_rewards_own() -> None:
    assert CONFIDENCE == OBJECTIVE


def test_confidences_are_judged_by_kind() -> None:
    tasks = [task("a", answer="A", kind="hard"), task("b", answer="A", kind="easy"), task("c", answer="A", kind="hard")]
    found = measured(tasks, engine("A:.8", "A:1", "B:.6"), reward=Stated())
    hard = found["hard"].calibration
    assert hard["brier"] == pytest.approx((0.2**2 + 0.6**2) / 2)
    assert hard["overconfidence"] == pytest.approx(0.7 - 0.5) and hard["valid"] == hard["auroc"] == 1.0
    assert found["easy"].calibration["brier"] == 0.0 and "auroc" not in found["easy"].calibration


def test_confidences_that_cannot_be_read_are_counted_and_failed_verifiers_are_not() -> None:
    tasks = [task(name, answer="A") for name in "abcd"]
    found = measured(tasks, engine("A:.8", "?", "!", "A"), reward=Stated())["all"].calibration
    assert found["valid"] == pytest.approx(1 / 3) and found["brier"] == pytest.approx(0.04)
    assert measured(tasks, engine("?"), reward=Stated())["all"].calibration == {"valid": 0.0}
    assert measured(tasks, engine("!"), reward=Stated())["all"].calibration == {}


# -- what is told ------------------------------------------------------------------------------------------------------


def test_the_names_that_trackers_get() -> None:
    found = measured(
        [task("a", answer="A", kind="hard")],
        engine("A:.8", "B:.2"),
        reward=Stated(),
        samples_per_task=2,
        pass_at=[1, 2],
    )
    values = figures(found)
    named = [f"eval/hard{name}" for name in ("", "/pass@1", "/pass@2", "/pass^2", "/majority_vote")]
    for name in named:
        assert values[f"{name}/low"] <= values[name] <= values[f"{name}/high"]
    assert (values["eval/hard"], values["eval/hard/pass@2"], values["eval/hard/pass^2"]) == (0.5, 1.0, 0.0)
    assert values["eval/hard/confidence/brier"] == pytest.approx(0.04)
    assert all(isinstance(value, float) for value in values.values())


def test_a_plain_evaluation_has_the_keys_it_always_had() -> None:
    found = measured([task("a", kind="hard"), task("b", kind="easy")], engine("42", "41"))
    assert list(figures(found)) == [f"eval/{kind}{end}" for kind in ("hard", "easy") for end in ("", "/low", "/high")]
    assert in_words(found) == "held-out success: hard 100.0% [20.7%, 100.0%] of 1; easy 0.0% [0.0%, 79.3%] of 1"


def test_a_sentence_names_the_largest_k() -> None:
    found = measured([task("a"), task("b")], engine("42", "41"), samples_per_task=2, pass_at=[2, 1])
    low, high = (f"{bound:.1%}" for bound in wilson(1, 2))  # two tasks, alike
    assert in_words(found).endswith(f"all 50.0% [{low}, {high}] of 4, pass@2 100.0%")
