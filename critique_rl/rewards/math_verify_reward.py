"""1 if math-verify finds the answer in the text equal to the task's answer, else 0.

Owns: telling a wrong answer from an unreadable one and from a comparison that failed. math-verify keeps its deadlines
with SIGALRM, so this reward works in the main thread only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import product
from typing import cast

from critique_rl.errors import MissingExtraError
from critique_rl.types import Score, ScoreStatus, Task

Parse = Callable[..., list[object]]
Verify = Callable[..., bool]


class MathVerifyReward:
    """A `Reward` by mathematical equality (1/2 = 0.5 = \\frac{2}{4}).

    `timeout_s` bounds each parse and each comparison; running out of it is an ERROR, not a wrong answer. Errors:
    MissingExtraError without math-verify; RuntimeError outside the main thread.
    """

    def __init__(self, *, timeout_s: int) -> None:
        try:
            from math_verify import parse, verify
            from math_verify.errors import TimeoutException
        except ImportError:
            raise MissingExtraError("math-verify", "math", 'rewards kind = "math_verify"') from None
        self._parse = cast(Parse, parse)
        self._verify = cast(Verify, verify)
        self._timed_out: type[BaseException] = TimeoutException
        self._timeout_s = timeout_s
        self._references: dict[str, list[object]] = {}

    def score(self, task: Task, text: str) -> Score:
        """1 or 0; `detail` never quotes the reference."""
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("MathVerifyReward works in the main thread only: math-verify's deadlines use SIGALRM")
        reference = self._reference(task.answer)
        if not reference:
            return _failed("math-verify could not read the reference, so nothing was judged")
        try:
            answers = self._parse(text, parsing_timeout=self._timeout_s, raise_on_error=True)
        except self._timed_out:
            return _failed(f"math-verify could not read the answer within {self._timeout_s} s")
        except Exception:  # whatever a parser raises on a model's text means: not readable
            answers = []
        if not answers:
            return Score(reward=0.0, status=ScoreStatus.UNPARSED, detail="no mathematical answer could be read")
        return self._compare(reference, answers)

    def _reference(self, answer: str) -> list[object]:
        if answer not in self._references:
            latex = answer if "$" in answer or "\\boxed" in answer else f"\\boxed{{{answer}}}"
            try:
                self._references[answer] = self._parse(latex, parsing_timeout=self._timeout_s, raise_on_error=True)
            except self._timed_out:
                return []
            except Exception:  # as above: not readable
                self._references[answer] = []
        return self._references[answer]

    def _compare(self, reference: list[object], answers: list[object]) -> Score:
        # Only math-verify's own text of the answer: printing a sympy object can hang.
        extracted = next((answer for answer in answers if isinstance(answer, str)), None)
        failure = ""
        for expected, given in product(reference, answers):
            try:
                if self._verify(expected, given, timeout_seconds=self._timeout_s, raise_on_error=True):
                    return Score(reward=1.0, extracted=extracted, detail="the answer is correct")
            except self._timed_out:
                failure = f"math-verify could not compare the answer within {self._timeout_s} s"
            except Exception as error:  # sympy raises almost anything; one bad pair must not hide a match
                failure = f"math-verify could not compare the answer ({type(error).__name__})"
        if failure:
            return _failed(failure, extracted)
        return Score(reward=0.0, extracted=extracted, detail="an answer was given, and it is not correct")


def _failed(detail: str, extracted: str | None = None) -> Score:
    return Score(reward=0.0, status=ScoreStatus.ERROR, extracted=extracted, detail=detail)
