"""Sampling by several engines: each row once, with its own place, told as one process would tell it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from critique_rl.engines.crewed import CrewEngine
from critique_rl.types import Completion, TokenIds
from tests.tiny import EOS, tiny_engine, tiny_policy

PROMPTS: list[TokenIds] = [(4, 5), (6,), (7, 8, 9), (10, 11), (12,), (13, 14, 15, 16), (17,)]


class InTurn:
    """Ranks that work one after the other, in this process."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.shares: list[Sequence[Any]] = []

    def duty(self, name: str, work: Callable[[Any], Any]) -> Callable[[Sequence[Any]], list[Any]]:
        def call(shares: Sequence[Any]) -> list[Any]:
            assert len(shares) == self.size
            self.shares.append([share.indices for share in shares])
            return [work(share) for share in shares]

        return call


class Echo:
    """Answers each row with its place and prompt; remembers what it was to stop at."""

    def __init__(self) -> None:
        self.stops: list[Sequence[str]] = []

    def generate_rows(
        self,
        prompts: Sequence[TokenIds],
        indices: Sequence[int],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        stop: Sequence[str] = (),
    ) -> list[Completion]:
        self.stops.append(stop)
        return [
            Completion(
                completion_ids=(i, *prompt), behaviour_logprobs=(0.0,) * (len(prompt) + 1), text="", finished=True
            )
            for i, prompt in zip(indices, prompts, strict=True)
        ]


def sample(
    engine: Any, on_done: Callable[[int, Completion], None] | None = None, stop: Sequence[str] = ()
) -> list[Completion]:
    return engine.generate(PROMPTS, max_tokens=5, temperature=1.0, seed=7, on_done=on_done, stop=stop)


def test_neighbours_in_length_are_sampled_together_in_rounds() -> None:
    ranks = InTurn(2)
    found = sample(CrewEngine(Echo(), ranks, batch_size=2))
    assert [one.completion_ids for one in found] == [(i, *prompt) for i, prompt in enumerate(PROMPTS)]
    # by length: 1, 4, 6 | 0, 3 | 2 | 5
    assert ranks.shares == [[[1, 4], [6, 0]], [[3, 2], [5]]]


def test_an_engine_that_keeps_busy_gets_its_whole_share_at_once() -> None:
    ranks = InTurn(3)
    sample(CrewEngine(Echo(), ranks, batch_size=None))
    assert ranks.shares == [[[1, 4, 6], [0, 3, 2], [5]]]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("stop", [(), ("3", "w2")])
def test_completions_and_their_order_are_those_of_one_engine(size: int, batch_size: int, stop: tuple[str, ...]) -> None:
    policy = tiny_policy()
    alone = tiny_engine(policy, batch_size=batch_size)
    told: dict[str, list[int]] = {"alone": [], "crew": []}
    expected = sample(alone, lambda i, _: told["alone"].append(i), stop)
    assert bool(stop) == any(one.finished and EOS not in one.completion_ids for one in expected)
    together = CrewEngine(tiny_engine(policy, batch_size=batch_size), InTurn(size), batch_size=batch_size)
    found = sample(together, lambda i, one: told["crew"].append(i) if one.completion_ids else None, stop)
    assert [(one.completion_ids, one.finished) for one in found] == [
        (one.completion_ids, one.finished) for one in expected
    ]
    for one, other in zip(found, expected, strict=True):
        assert one.behaviour_logprobs == pytest.approx(other.behaviour_logprobs, abs=1e-12)
    assert told["crew"] == told["alone"]


def test_every_share_is_told_what_to_stop_at() -> None:
    engine = Echo()
    sample(CrewEngine(engine, InTurn(3), batch_size=None), stop=["a", "b"])
    assert engine.stops == [("a", "b")] * 3


def test_no_prompts_give_no_completions() -> None:
    ranks = InTurn(2)
    engine = CrewEngine(Echo(), ranks, batch_size=2)
    assert engine.generate([], max_tokens=5, temperature=1.0, seed=7) == []
    assert ranks.shares == []


def test_weights_are_made_ready_on_every_rank_even_without_rows() -> None:
    ready: list[int] = []
    engine = CrewEngine(Echo(), InTurn(3), batch_size=8, before=lambda: ready.append(1))
    engine.generate(PROMPTS[:1], max_tokens=5, temperature=1.0, seed=7)
    assert len(ready) == 3
