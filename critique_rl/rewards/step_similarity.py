"""How near one step comes to an expert's next step, as SRL rewards it (arXiv 2510.25992).

    r = 2 M / T if the form is valid, else -1;  T elements in both texts, M of them in matching blocks (difflib's ratio)

Owns: what of a completion is compared, and the empty-step rule. Must not know: how instances are made of solutions.
Deviations: 1. difflib's autojunk is off, since with it rewards jump at 200 elements: an expert step of 200 characters
and more ignores its frequent ones; 2. an empty step, generated or expert, is a format error, where difflib says 1;
3. white space at the ends of both texts is left out. Weak in the source: the elements (replications compare
characters). The measure cannot see meaning: "x = 3" is 0.8 like "x = 2"; `numbers` is ours against that.
"""

from __future__ import annotations

import re
from collections import Counter
from decimal import Decimal
from difflib import SequenceMatcher
from typing import Literal

from critique_rl.errors import ConfigError
from critique_rl.rewards.answer_form import compile_pattern
from critique_rl.types import Score, ScoreStatus, Task

FORMAT_ERROR = -1.0
"""The reward of a completion that has no step in the form."""

FORMAT, SIMILARITY = "step_format", "step_similarity"
"""Names in `Score.objectives`: 1 or 0 for a step that could be read or not, and the plain similarity of one."""

Unit = Literal["char", "word"]
Symmetric = Literal["none", "max", "mean"]
Numbers = Literal["as_text", "agree"]
_NUMBER = re.compile(r"\d+(?:\.\d+)?", re.ASCII)


def similarity(
    generated: str,
    expert: str,
    *,
    unit: Unit = "char",
    symmetric: Symmetric = "none",
    autojunk: bool = False,
) -> float:
    """2 M / T in [0, 1] of two texts' characters or words, 1 for two empty texts.

    M depends on the order of the two: "none" takes (generated, expert), "max" and "mean" join both orders.
    """
    a, b = (generated, expert) if unit == "char" else (generated.split(), expert.split())
    forth = SequenceMatcher(None, a, b, autojunk).ratio()
    if symmetric == "none":
        return forth
    back = SequenceMatcher(None, b, a, autojunk).ratio()
    return max(forth, back) if symmetric == "max" else (forth + back) / 2


def numbers_agree(generated: str, expert: str) -> float:
    """The share of numbers in common, in [0, 1]: those of both texts over those of the one with more; 1 without any.

    By value (2.0 is 2), each as often as it stands there, signs left out.
    """
    ours, theirs = (Counter(Decimal(n).normalize() for n in _NUMBER.findall(text)) for text in (generated, expert))
    most = max(ours.total(), theirs.total())
    return (ours & theirs).total() / most if most else 1.0


class StepSimilarityReward:
    """A `Reward` that compares the step in a completion with the task's answer, the expert's step.

    `pattern` matches a whole completion and has a group named action, which alone is compared; what stands outside of
    it, such as a monologue in think tags, is free. With numbers = "agree" the similarity is multiplied by
    `numbers_agree`. No match, or nothing in one of the two steps: UNPARSED with reward -1. Errors: ConfigError.
    """

    def __init__(
        self,
        *,
        pattern: str,
        form: str = "",
        unit: Unit = "char",
        symmetric: Symmetric = "none",
        autojunk: bool = False,
        numbers: Numbers = "as_text",
    ) -> None:
        self._regex = compile_pattern(pattern)
        if "action" not in self._regex.groupindex:
            raise ConfigError(f"pattern {pattern!r} has no group named action; wanted (?P<action>...) round the step")
        self._shown = form or pattern
        self._unit: Unit = unit
        self._symmetric: Symmetric = symmetric
        self._autojunk = autojunk
        self._numbers = numbers

    def score(self, task: Task, text: str) -> Score:
        """-1, or the similarity in [0, 1]; `detail` never quotes the expert's step."""
        found = self._regex.fullmatch(text)
        action = (found.group("action") or "").strip() if found is not None else ""
        expert = task.answer.strip()
        if found is None:
            return _format_error(f"no step in the form {self._shown} found")
        if not action or not expert:
            return _format_error("the step is empty" if expert else "the expert's step is empty")
        near = similarity(action, expert, unit=self._unit, symmetric=self._symmetric, autojunk=self._autojunk)
        reward = near * numbers_agree(action, expert) if self._numbers == "agree" else near
        return Score(
            reward=reward,
            extracted=action,
            detail=f"the step is {near:.0%} like the expert's"
            + ("" if reward == near else f", its numbers {reward:.0%}"),
            objectives={FORMAT: 1.0, SIMILARITY: near},
        )


def _format_error(detail: str) -> Score:
    return Score(reward=FORMAT_ERROR, status=ScoreStatus.UNPARSED, detail=detail, objectives={FORMAT: 0.0})
