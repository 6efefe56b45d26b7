"""An answer with the confidence that the completion itself states, each judged: by another reward, by a proper score.

Owns: reading the pair, and what a text without it earns: nothing at all, so that it never beats an honest wrong answer.
Must not know: how the answer is judged, how the two rewards are joined, tokens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import NamedTuple

from critique_rl.errors import ConfigError
from critique_rl.protocols import Reward
from critique_rl.rewards.answer_form import compile_pattern
from critique_rl.stats.scoring import ScoringRule, unit_score
from critique_rl.types import Score, ScoreStatus, Task

OBJECTIVE = "confidence"
"""The name of the proper score in `Score.objectives`."""

_STRICT = re.compile(r"\d+\.?\d*|\.\d+", re.ASCII)
_LENIENT = re.compile(r"(-?)(\d+\.?\d*|\.\d+)\s*(%?)", re.ASCII)


class Stated(NamedTuple):
    """An answer, the probability of being right stated with it, and the character where that statement begins."""

    answer: str
    confidence: float
    start: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceForm:
    """How a pair is read: the last match of `regex`, with groups named answer, confidence and maybe block.

    The number stated is divided by `divide_by`. Strict: it is digits with at most one point, and nothing else, so nan,
    inf, 95%, 1e-1, a sign or a phrase is no confidence. `lenient`, for evaluation: the first number counts, and a
    percentage or a number in (1, 100] is divided by 100. `shown` is the form as a reader is told of it.
    """

    regex: re.Pattern[str]
    shown: str
    divide_by: float = 1.0
    lenient: bool = False

    def read(self, text: str) -> Stated | str:
        """The pair, or in words why there is none."""
        last: re.Match[str] | None = None
        for match in self.regex.finditer(text):
            last = match
        groups: dict[str, str | None] = {} if last is None else last.groupdict()
        answer, stated = groups.get("answer"), groups.get("confidence")
        if last is None or answer is None or stated is None:
            return f"no answer with its confidence in the form {self.shown} found"
        number = _lenient(stated) if self.lenient else _strict(stated)
        if number is None or number > self.divide_by:
            return f"the confidence is not a number from 0 to {self.divide_by:g}"
        block = "block" if groups.get("block") is not None else "confidence"
        return Stated(answer.strip(), number / self.divide_by, last.start(block))


class ConfidenceReward:
    """A `Reward` around `answer`, which judges what stands in the answer group as if it were the whole text.

    A pair that is read: `answer`'s score, with `confidence`, `confidence_start` and `objectives["confidence"]`, the
    `unit_score` of the confidence against right or wrong (partial credit is wrong). No pair, or an answer that
    `answer` cannot read: UNPARSED, reward 0 and confidence score 0, the worst there is. If `answer` fails, the
    confidence is kept and its score is missing. Errors: ConfigError for a pattern; ValueError for a rule.
    """

    def __init__(
        self,
        *,
        answer: Reward,
        pattern: str,
        form: str = "",
        divide_by: float = 1.0,
        lenient: bool = False,
        rule: ScoringRule = "brier",
        eps: float | None = None,
    ) -> None:
        regex = compile_pattern(pattern)
        if not {"answer", "confidence"} <= set(regex.groupindex):
            raise ConfigError(f"pattern {pattern!r} lacks a group named answer or one named confidence; wanted both")
        unit_score(rule, 0.5, True, eps=eps)  # a rule that cannot be used is found before any rollout is paid for
        self._answer = answer
        self._form = ConfidenceForm(regex=regex, shown=form or pattern, divide_by=divide_by, lenient=lenient)
        self._rule: ScoringRule = rule
        self._eps = eps

    def score(self, task: Task, text: str) -> Score:
        """The answer's reward with the confidence and its score; `detail` is the answer's, or why nothing was read."""
        stated = self._form.read(text)
        if isinstance(stated, str):
            return _unparsed(stated)
        judged = self._answer.score(task, stated.answer)
        if judged.status is ScoreStatus.UNPARSED:
            return _unparsed(judged.detail)
        judged = replace(judged, confidence=stated.confidence, confidence_start=stated.start)
        if judged.status is ScoreStatus.ERROR:
            return judged
        earned = unit_score(self._rule, stated.confidence, judged.correct, eps=self._eps)
        return replace(judged, objectives={**judged.objectives, OBJECTIVE: earned})


def _unparsed(detail: str) -> Score:
    return Score(reward=0.0, status=ScoreStatus.UNPARSED, detail=detail, objectives={OBJECTIVE: 0.0})


def _strict(text: str) -> float | None:
    text = text.strip()
    return float(text) if _STRICT.fullmatch(text) else None


def _lenient(text: str) -> float | None:
    found = _LENIENT.search(text)
    if found is None or found.group(1):
        return None
    number = float(found.group(2))
    return number / 100 if found.group(3) or 1 < number <= 100 else number
