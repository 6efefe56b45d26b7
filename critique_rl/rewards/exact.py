"""1 if the answer read from the text is (or contains) the task's answer, else 0."""

from __future__ import annotations

import re
from typing import Literal

from critique_rl.rewards.answer_form import AnswerForm
from critique_rl.types import Score, ScoreStatus, Task


class ExactReward:
    """A `Reward` by comparison of texts, both stripped.

    `pattern` has one group, the answer; its last match counts, and no match is UNPARSED. Without it the whole text is
    the answer. `form` is what the pattern looks like to a reader. With `match="contains"` the task's answer has to
    occur in it as whole words. Errors: ConfigError for a pattern.
    """

    def __init__(
        self,
        *,
        pattern: str | None = None,
        form: str = "",
        casefold: bool = False,
        collapse_whitespace: bool = False,
        match: Literal["equal", "contains"] = "equal",
    ) -> None:
        self._match = match
        self._form = AnswerForm.of(pattern, form)
        self._casefold = casefold
        self._collapse_whitespace = collapse_whitespace

    def score(self, task: Task, text: str) -> Score:
        """1 or 0; `detail` never quotes the reference."""
        answer = self._form.read(text)
        if answer is None:
            return Score(reward=0.0, status=ScoreStatus.UNPARSED, detail=self._form.missing)
        if self._agrees(self._normalised(answer), self._normalised(task.answer)):
            return Score(reward=1.0, extracted=answer, detail="the answer is correct")
        return Score(reward=0.0, extracted=answer, detail="an answer was given, and it is not correct")

    def _agrees(self, answer: str, wanted: str) -> bool:
        if self._match == "equal":
            return answer == wanted
        return re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", answer) is not None

    def _normalised(self, text: str) -> str:
        text = " ".join(text.split()) if self._collapse_whitespace else text.strip()
        return text.casefold() if self._casefold else text
