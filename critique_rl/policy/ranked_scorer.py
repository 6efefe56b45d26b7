"""Re-scoring by all ranks: each takes some of the rows, and the results come back in the caller's order.

Must not know: whose weights score, or why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from critique_rl.policy.sharding import RankedHead
from critique_rl.policy.teacher import TargetScorer
from critique_rl.types import Array, TeacherTargets, TokenIds


class WholeScorer(TargetScorer, Protocol):
    """Scores on one process, without any other."""

    def logprobs(self, contexts: Sequence[TokenIds], completions: Sequence[TokenIds]) -> list[Array]: ...


class _Row(NamedTuple):
    context: TokenIds
    completion: TokenIds
    support: TeacherTargets | None


class RankedScorer:
    """A `WholeScorer` that shares its rows out; every rank makes one of the same `name` over the same weights."""

    def __init__(self, name: str, scorer: WholeScorer, ranked: RankedHead) -> None:
        self._scorer = scorer
        self._ranked = ranked
        self._logprobs = ranked.crew.row_duty(f"{name}/logprobs", self._score)
        self._topk = ranked.crew.row_duty(f"{name}/topk", self._score_topk)

    def logprobs(self, contexts: Sequence[TokenIds], completions: Sequence[TokenIds]) -> list[Array]:
        """Log-probs [T] of each completion's own tokens."""
        rows = [_Row(*pair, None) for pair in zip(contexts, completions, strict=True)]
        return self._logprobs(None, rows, _costs(rows))

    def topk(
        self,
        contexts: Sequence[TokenIds],
        completions: Sequence[TokenIds],
        *,
        k: int,
        support: Sequence[TeacherTargets] | None,
    ) -> list[TeacherTargets]:
        """Log-probs at the ids of `support`, or at the model's own top-K, for every completion token."""
        held = [None] * len(completions) if support is None else support
        rows = [_Row(*row) for row in zip(contexts, completions, held, strict=True)]
        return self._topk(k, rows, _costs(rows))

    def _score(self, _: None, rows: list[_Row]) -> list[Array]:
        self._ranked.whole()
        return self._scorer.logprobs([row.context for row in rows], [row.completion for row in rows])

    def _score_topk(self, k: int, rows: list[_Row]) -> list[TeacherTargets]:
        self._ranked.whole()
        held = [row.support for row in rows if row.support is not None]
        return self._scorer.topk(
            [row.context for row in rows], [row.completion for row in rows], k=k, support=held if held else None
        )


def _costs(rows: Sequence[_Row]) -> list[int]:
    return [len(row.context) + len(row.completion) for row in rows]
