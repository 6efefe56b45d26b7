"""Judges answers of all kinds of the school world: exactly, for lines by a rule.

Owns: how each kind's answer is read and scored. Must not know: models, the loop.
"""

from __future__ import annotations

import re

from critique_rl.errors import DataError
from critique_rl.lab.school.problems import FORMAT_ACCURACY, LINE_WORDS, Write
from critique_rl.lab.school.splits import hash_of
from critique_rl.types import Score, ScoreStatus, Task

FORMAT_PATTERNS = {"equals": "=([0-9]{2})", "angle": "<([0-9]{2})>", "word": "sum ([0-9]{2})"}
_FORMS = {
    # A bare answer is read as well: it is what a verifier is checked with, and nothing that the policy writes.
    "chain": (r"at once: ([0-9])|.* so ([0-9])|([0-9])", "step by step: ... so 7"),
    "sum": ("|".join((*FORMAT_PATTERNS.values(), "([0-9]{2})")), "=35, <35> or sum 35"),
    "sort": ("([0-9]{4})", "1247"),
    "recall": ("([0-9]{2})", "72"),
    "write": ("([a-z]+(?: [a-z]+)*)", "words with a blank between them"),
}


class SchoolReward:
    """A `Reward` for `tasks.kind = "lab_school"`: 1 or 0, or the share of a perfect line.

    With `fixed_accuracy` the digits of a sum are not looked at: whether a format is right is drawn by a hash of the
    problem, with the probability FORMAT_ACCURACY.
    """

    def __init__(self, *, fixed_accuracy: bool = False) -> None:
        self._fixed_accuracy = fixed_accuracy

    def score(self, task: Task, text: str) -> Score:
        """The task's metadata says what was asked, so that its prompt may be dressed. Errors: DataError."""
        kind, question = task.metadata.get("school", ""), task.metadata.get("question", "")
        if kind not in _FORMS:
            raise DataError(
                f"task {task.id!r}: its metadata has school = {kind!r}, wanted one of {', '.join(_FORMS)}; this reward "
                'is for tasks of kind "lab_school" only'
            )
        pattern, form = _FORMS[kind]
        match = re.fullmatch(pattern, text.strip())
        if match is None:
            detail = f"no answer could be read; wanted the form: {form}"
            return Score(reward=0.0, status=ScoreStatus.UNPARSED, detail=detail)
        answer = next(group for group in match.groups() if group is not None)
        if kind == "write":
            reward = line_score(Write.parse(question), answer)
            return Score(reward=reward, extracted=answer, detail=f"{reward:.0%} of a perfect line")
        formats = [name for name, pattern in FORMAT_PATTERNS.items() if re.fullmatch(pattern, text.strip())]
        if kind == "sum" and self._fixed_accuracy and formats:
            drawn = hash_of(f"fixed {formats[0]}", question) / 2**64 < FORMAT_ACCURACY[formats[0]]
            return Score(reward=float(drawn), extracted=answer, detail="the format was judged, not the digits")
        right = answer == task.answer
        detail = "the answer is correct" if right else "an answer was given, and it is not correct"
        return Score(reward=float(right), extracted=answer, detail=detail)


def line_score(problem: Write, line: str) -> float:
    """The number of different fitting words among the first LINE_WORDS, divided by LINE_WORDS."""
    return len(set(line.split(" ")[:LINE_WORDS]) & set(problem.fitting)) / LINE_WORDS
