"""A control for critics: the words of another critic, each given to the wrong attempt.

Owns: which words go where. Must not know: what the words mean, who said them.
If a run learns as much from these as from the critic's own, it is not the critique that helps. Tasks of one kind often
want the same advice, so that a random exchange would be right by accident: each attempt gets the words that have the
least in common with its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from critique_rl.protocols import Critic
from critique_rl.types import CriticOutcome, CriticRequest, Critique


class ShuffledCritic:
    """Reviews by another critic, then hands each attempt the directives of an attempt at another task.

    Of all that there are, those that share the smallest part of their words with the attempt's own (Jaccard index).
    Scores, verdicts and costs stay where they belong: only the directive channel is a placebo. Where all requests are
    about one task, those of an earlier call are handed on; before there is any, an attempt gets none.
    """

    def __init__(self, critic: Critic) -> None:
        self.name = f"shuffled {critic.name}"
        self._critic = critic
        self._left: list[tuple[str, Critique]] = []

    def review(self, requests: Sequence[CriticRequest]) -> list[Critique]:
        """One critique a request; the same requests in the same order get the same ones."""
        own = self._critic.review(requests)
        pool = [*self._left, *((r.task.id, c) for r, c in zip(requests, own, strict=True) if c.directives)]
        start = len(self._left)
        given: list[Critique] = []
        for n, (request, critique) in enumerate(zip(requests, own, strict=True)):
            # Half the pool away, so that equally foreign words do not all come from one attempt.
            turns = [pool[(start + n + len(pool) // 2 + k) % len(pool)] for k in range(len(pool))]
            others = [c for task_id, c in turns if task_id != request.task.id]
            mine = _words(critique)
            other = min(others, key=lambda c: _in_common(mine, _words(c)), default=None)
            given.append(self._with_words_of(other, critique))
        self._left = pool[-len(requests) :] if requests else self._left
        return given

    def close(self) -> None:
        """Close the critic behind it."""
        self._critic.close()

    def _with_words_of(self, other: Critique | None, critique: Critique) -> Critique:
        if critique.outcome is not CriticOutcome.OK:
            return replace(critique, critic=self.name)
        words = () if other is None else tuple(replace(d, quote=None, span=None) for d in other.directives)
        return replace(critique, critic=self.name, directives=words)


def _words(critique: Critique) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", critique.directive_text.casefold()))


def _in_common(mine: frozenset[str], others: frozenset[str]) -> float:
    return len(mine & others) / max(1, len(mine | others))
