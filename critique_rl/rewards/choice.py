"""1 if the answer names the right one of the candidates that the prompt showed, else 0.

Owns: which candidate an answer names. Must not know: how candidates were chosen: they are the task's own data.
"""

from __future__ import annotations

import json
import re
from string import ascii_uppercase
from typing import cast

from critique_rl.errors import DataError
from critique_rl.rewards.answer_form import AnswerForm
from critique_rl.types import Score, ScoreStatus, Task

CHOICES = "choices"
"""The metadata key that holds the candidates as a JSON list of texts, in the order of their letters."""

_LETTERED = re.compile(r"\(?([A-Za-z])(?:[).:]\s*(.*)|\s*)", re.DOTALL)


class ChoiceReward:
    """A `Reward` over tasks with `metadata["choices"]`: the right one is `answer`, by its letter or its text.

    An answer is a letter ("B", "(b)", "B."), a candidate's text, or both; one that names no candidate, or a letter with
    another one's text, is UNPARSED. With distractors among the candidates a guess is worth 1 / their number only.
    Errors: ConfigError for a pattern, DataError for a task without candidates or whose answer is none of them.
    """

    def __init__(self, *, pattern: str | None = None, form: str = "") -> None:
        self._form = AnswerForm.of(pattern, form)

    def score(self, task: Task, text: str) -> Score:
        """1 or 0; `extracted` is the letter, and `detail` never names the right one."""
        choices = _choices(task)
        right = _named(task.answer, choices)
        if right is None:
            raise DataError(
                f"task {task.id!r}: answer {task.answer!r:.60} is none of its {len(choices)} choices; wanted a letter "
                f"from A to {ascii_uppercase[len(choices) - 1]} or a choice's text"
            )
        answer = self._form.read(text)
        if answer is None:
            return Score(reward=0.0, status=ScoreStatus.UNPARSED, detail=self._form.missing)
        chosen = _named(answer, choices)
        if chosen is None:
            told = f"the answer names none of the {len(choices)} candidates"
            return Score(reward=0.0, status=ScoreStatus.UNPARSED, detail=told)
        if chosen == right:
            return Score(reward=1.0, extracted=ascii_uppercase[chosen], detail="the choice is correct")
        return Score(reward=0.0, extracted=ascii_uppercase[chosen], detail="a choice was made, and it is not correct")


def _choices(task: Task) -> list[str]:
    where = f"task {task.id!r}: metadata.{CHOICES}"
    try:
        found: object = json.loads(task.metadata[CHOICES])
    except KeyError:
        raise DataError(f"{where} is missing; wanted the candidates as a JSON list of texts") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is no JSON ({error.msg}); wanted a list of texts") from None
    items = cast("list[object]", found) if isinstance(found, list) else []
    choices = [_plain(item) for item in items if isinstance(item, str)]
    if not 2 <= len(choices) <= len(ascii_uppercase) or len(choices) < len(items) or "" in choices:
        raise DataError(f"{where} is {found!r:.80}; wanted a list of 2 to {len(ascii_uppercase)} texts")
    letters = {letter.casefold(): n for n, letter in enumerate(ascii_uppercase[: len(choices)])}
    if len(set(choices)) < len(choices) or any(letters.get(text, n) != n for n, text in enumerate(choices)):
        raise DataError(f"{where}: two candidates could not be told apart, or one is another one's letter; rename them")
    return choices


def _named(answer: str, choices: list[str]) -> int | None:
    said = _plain(answer)
    if said in choices:
        return choices.index(said)
    match = _LETTERED.fullmatch(said)
    if match is None:
        return None
    n, text = ascii_uppercase.index(match[1].upper()), match[2]
    return n if n < len(choices) and (not text or text == choices[n]) else None


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
