"""Mathematical equality, and the three ways not to be right: wrong, unreadable, not judged."""

from __future__ import annotations

import sys
import threading

import pytest

from critique_rl.errors import MissingExtraError
from critique_rl.rewards.math_verify_reward import MathVerifyReward
from critique_rl.types import Message, ScoreStatus, Task

pytest.importorskip("math_verify")


def task(answer: str) -> Task:
    return Task(id="t", messages=(Message(role="user", content="?"),), answer=answer, verifier="math_verify")


@pytest.mark.parametrize(
    ("answer", "text", "reward"),
    [
        ("1/2", "so it is \\boxed{0.5}", 1.0),
        ("\\frac{1}{2}", "the answer is $\\frac{2}{4}$", 1.0),
        ("$3$", "3", 1.0),
        ("x^2 + 1", "\\boxed{1 + x^2}", 1.0),
        ("42", "I get 41", 0.0),
        ("42", "\\boxed{41}", 0.0),
    ],
)
def test_equality(answer: str, text: str, reward: float) -> None:
    score = MathVerifyReward(timeout_s=5).score(task(answer), text)
    assert (score.reward, score.status) == (reward, ScoreStatus.OK)
    assert answer not in score.detail


@pytest.mark.parametrize("text", ["", "I do not know."])
def test_a_text_without_a_number_is_unparsed(text: str) -> None:
    score = MathVerifyReward(timeout_s=5).score(task("42"), text)
    assert (score.reward, score.status) == (0.0, ScoreStatus.UNPARSED)


def test_a_reference_that_cannot_be_read_is_an_error_not_a_wrong_answer() -> None:
    score = MathVerifyReward(timeout_s=5).score(task(""), "42")
    assert (score.reward, score.status) == (0.0, ScoreStatus.ERROR)


class Scripted:
    """A reward whose math-verify is replaced: the one faked seam."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failing: str, error: BaseException | None) -> None:
        self.reward = MathVerifyReward(timeout_s=1)
        self.calls = 0
        self._error = error
        monkeypatch.setattr(self.reward, failing, self._answer)

    def _answer(self, *_: object, **__: object) -> bool:
        self.calls += 1
        if self.calls == 1 and self._error is not None:
            raise self._error
        return True


def timed_out() -> BaseException:
    from math_verify.errors import TimeoutException

    return TimeoutException("late")


def test_a_comparison_that_runs_out_of_time_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    reward = MathVerifyReward(timeout_s=1)

    def late(*_: object, **__: object) -> bool:
        raise timed_out()

    monkeypatch.setattr(reward, "_verify", late)
    score = reward.score(task("42"), "42")
    assert (score.reward, score.status) == (0.0, ScoreStatus.ERROR)
    assert "within 1 s" in score.detail


@pytest.mark.parametrize("error", [timed_out(), ZeroDivisionError()], ids=["late", "raises"])
def test_one_failed_pair_does_not_hide_a_match(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    scripted = Scripted(monkeypatch, "_verify", error)
    assert scripted.reward.score(task("42"), "42").correct
    assert scripted.calls == 2


def test_reading_that_runs_out_of_time_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    reward = MathVerifyReward(timeout_s=1)
    assert reward.score(task("42"), "42").correct  # reads the reference once
    scripted = Scripted(monkeypatch, "_verify", None)
    monkeypatch.setattr(scripted.reward, "_references", {"42": [42]})

    def late(*_: object, **__: object) -> list[object]:
        raise timed_out()

    monkeypatch.setattr(scripted.reward, "_parse", late)
    assert scripted.reward.score(task("42"), "42").status is ScoreStatus.ERROR


def test_outside_the_main_thread_it_says_so() -> None:
    errors: list[str] = []

    def score() -> None:
        try:
            MathVerifyReward(timeout_s=1).score(task("42"), "42")
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=score)
    thread.start()
    thread.join()
    assert "main thread" in errors[0]


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'critique-rl\[math\]'"):
        MathVerifyReward(timeout_s=5)
