"""Sampling by all processes of a run, each from its own copy of the weights.

Owns: which rows are sampled together, and in which order their completions are told. Must not know: what a process is,
how weights are shared. A row's draws depend on its place in the whole call alone, so any number of processes
samples the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from critique_rl.types import Completion, TokenIds

Share = TypeVar("Share")
Result = TypeVar("Result")


class RowEngine(Protocol):
    """Samples some rows of a larger call: `indices[i]` is the place of `prompts[i]` in it."""

    def generate_rows(
        self,
        prompts: Sequence[TokenIds],
        indices: Sequence[int],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        stop: Sequence[str] = (),
    ) -> list[Completion]: ...


class Ranks(Protocol):
    """The processes of a run, each with an engine like this one."""

    size: int

    def duty(self, name: str, work: Callable[[Share], Result]) -> Callable[[Sequence[Share]], list[Result]]: ...


class _Rows(NamedTuple):
    indices: list[int]
    prompts: list[TokenIds]
    max_tokens: int
    temperature: float
    seed: int
    stop: tuple[str, ...]


class CrewEngine:
    """`protocols.RolloutEngine` over one engine a rank; `before` makes a rank's weights ready to be read.

    `batch_size`: rows of a rank between two reports; None if the engine itself keeps its machine busy to the end.
    """

    def __init__(
        self, engine: RowEngine, crew: Ranks, *, batch_size: int | None, before: Callable[[], None] = lambda: None
    ) -> None:
        self._engine = engine
        self._size = crew.size
        self._batch_size = batch_size
        self._before = before
        self._sample = crew.duty("generate", self._sample_share)

    def generate(
        self,
        prompts: Sequence[TokenIds],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        on_done: Callable[[int, Completion], None] | None = None,
        stop: Sequence[str] = (),
    ) -> list[Completion]:
        """The completions that one process would sample, told to `on_done` in the order in which it would tell them."""
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
        alone = self._batch_size or max(1, len(order))
        untold = [i for at in range(0, len(order), alone) for i in sorted(order[at : at + alone])]
        done: dict[int, Completion] = {}
        while len(done) < len(order):
            found = self._round(order[len(done) :], prompts, max_tokens, temperature, seed, tuple(stop))
            done |= found
            while on_done is not None and untold and untold[0] in done:
                i = untold.pop(0)
                on_done(i, done[i])
        return [done[i] for i in range(len(prompts))]

    def _round(
        self,
        waiting: Sequence[int],
        prompts: Sequence[TokenIds],
        max_tokens: int,
        temperature: float,
        seed: int,
        stop: tuple[str, ...],
    ) -> dict[int, Completion]:
        """One batch a rank, of neighbours in length, so that no rank waits long for another."""
        count = min(len(waiting), self._size * (self._batch_size or len(waiting)))
        width = -(-count // self._size)
        parts = [list(waiting[:count][rank * width : (rank + 1) * width]) for rank in range(self._size)]
        sampled = self._sample(
            [_Rows(part, [prompts[i] for i in part], max_tokens, temperature, seed, stop) for part in parts]
        )
        return {i: one for part, found in zip(parts, sampled, strict=True) for i, one in zip(part, found, strict=True)}

    def _sample_share(self, rows: _Rows) -> list[Completion]:
        self._before()
        if not rows.prompts:
            return []
        return self._engine.generate_rows(
            rows.prompts,
            rows.indices,
            max_tokens=rows.max_tokens,
            temperature=rows.temperature,
            seed=rows.seed,
            stop=rows.stop,
        )
