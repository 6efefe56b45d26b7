"""Attempts become drafts of skills: by critiques that are already paid for, by a critic asked anew, or as they are.

Owns: what each source makes of failures and successes, and that no draft states its task's answer. Must not know: which
critic answers, what the bank holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from critique_rl.feedback.leak import leaks
from critique_rl.memory.episodes import Episode
from critique_rl.memory.retrieval import category_of
from critique_rl.memory.skill import Form, title_of
from critique_rl.prompting.fence import disarm
from critique_rl.protocols import Critic
from critique_rl.types import CriticOutcome, CriticRequest, Usage

OUTCOMES = {True: "right", False: "wrong"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """Words that may become a skill, and the attempt that they come from."""

    principle: str
    form: Form
    episode: Episode

    @property
    def title(self) -> str:
        return title_of(self.principle)

    @property
    def category(self) -> str:
        return category_of(self.episode.task)


class Written:
    """What a writer made, and what it used."""

    def __init__(self, drafts: Sequence[Draft], *, leaked: int = 0, calls: int = 0, usage: Usage | None = None) -> None:
        self.drafts = tuple(drafts)
        self.leaked = leaked
        self.calls = calls
        self.usage = usage or Usage()


class Writer(Protocol):
    """Makes drafts of failures and successes."""

    def write(self, failures: Sequence[Episode], successes: Sequence[Episode]) -> Written: ...

    def close(self) -> None: ...


class DirectivesWriter:
    """Lessons are what critics said in training; a short success is kept as a demonstration. Asks nobody."""

    def __init__(self, *, demonstration_chars: int) -> None:
        self._chars = demonstration_chars

    def write(self, failures: Sequence[Episode], successes: Sequence[Episode]) -> Written:
        """A draft per directive, and one per success that is short enough."""
        lessons = [Draft(principle=text, form="lesson", episode=e) for e in failures for text in e.said]
        return _checked([*lessons, *_demonstrations(successes, self._chars)])

    def close(self) -> None:
        """Nothing to release."""


class CriticWriter:
    """Asks a critic about failures, and one with a prompt of its own (or the same) about successes.

    A critic that only finds faults has nothing to say of a success: it is then kept as it is, if it is short.
    """

    def __init__(self, lessons: Critic, patterns: Critic | None = None, *, demonstration_chars: int) -> None:
        self._lessons = lessons
        self._patterns = patterns
        self._chars = demonstration_chars

    def write(self, failures: Sequence[Episode], successes: Sequence[Episode]) -> Written:
        """A draft per directive of each reply that came. Raises CriticSetupError."""
        asked = [(self._lessons, failures, "lesson")]
        if self._patterns is not None:
            asked.append((self._patterns, successes, "pattern"))
        drafts: list[Draft] = []
        calls = prompt_tokens = completion_tokens = 0
        for critic, episodes, form in asked:
            if not episodes:
                continue
            requests = [CriticRequest(rollout_id=e.id, task=e.task, attempt=e.attempt, score=e.score) for e in episodes]
            for episode, critique in zip(episodes, critic.review(requests), strict=True):
                calls += 1
                prompt_tokens += critique.usage.prompt_tokens
                completion_tokens += critique.usage.completion_tokens
                said = critique.directives if critique.outcome is CriticOutcome.OK else ()
                kind: Form = "lesson" if form == "lesson" else "pattern"
                drafts += [Draft(principle=d.text, form=kind, episode=episode) for d in said]
        if self._patterns is None:
            drafts += _demonstrations(successes, self._chars)
        written = _checked(drafts)
        usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
        return Written(written.drafts, leaked=written.leaked, calls=calls, usage=usage)

    def close(self) -> None:
        """Close its critics."""
        for critic in (self._lessons, self._patterns):
            if critic is not None:
                critic.close()


class AttemptsWriter:
    """Whole attempts with their outcome, right and wrong ones: the control that skills are compared with."""

    def write(self, failures: Sequence[Episode], successes: Sequence[Episode]) -> Written:
        """A draft per attempt."""
        return Written([Draft(principle=_told(e), form="attempt", episode=e) for e in (*failures, *successes)])

    def close(self) -> None:
        """Nothing to release."""


def _told(episode: Episode) -> str:
    text = disarm(episode.attempt).text
    return f"{episode.task.question} {text} ({OUTCOMES[episode.correct]})"


def _demonstrations(successes: Sequence[Episode], max_chars: int) -> list[Draft]:
    return [
        Draft(principle=f"{e.task.question} {disarm(e.attempt).text}", form="demonstration", episode=e)
        for e in successes
        if len(e.attempt) <= max_chars
    ]


def _checked(drafts: Sequence[Draft]) -> Written:
    """Without lessons and patterns that state the answer of their task. A demonstration does so by its nature: it is
    never shown to a task whose answer it states, which retrieval sees to."""
    kept = [
        d
        for d in drafts
        if d.form == "demonstration" or not leaks(d.principle, d.episode.task.answer, question=d.episode.task.question)
    ]
    return Written(kept, leaked=len(drafts) - len(kept))
