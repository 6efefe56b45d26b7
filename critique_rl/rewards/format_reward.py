"""1 if a pattern occurs in the text, else 0; whether the answer is right is not looked at."""

from __future__ import annotations

from critique_rl.rewards.answer_form import compile_pattern
from critique_rl.types import Score, Task


class FormatReward:
    """A `Reward` for the shape of a completion. A text without the shape is judged (OK, 0), not unparsed.

    `form` is what the pattern looks like to a reader. Errors: ConfigError for a pattern.
    """

    def __init__(self, *, pattern: str, form: str = "") -> None:
        self._regex = compile_pattern(pattern)
        self._shown = form or pattern

    def score(self, task: Task, text: str) -> Score:
        """1 or 0 by `re.search`."""
        match = self._regex.search(text)
        if match is None:
            return Score(reward=0.0, detail=f"the text does not have the form {self._shown}")
        return Score(reward=1.0, extracted=match.group(0), detail=f"the text has the form {self._shown}")
