"""Attention over pages: every query sees its own sequence's keys up to itself, wherever they lie in the cache."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
import torch

from critique_rl.engines.pages import PagedCache, Reads, Span, attend, plan_reads
from critique_rl.errors import ModelError

H, G, D = 4, 2, 8


class Cache:
    """Entries of one layer that are read by their number; what is written is written already."""

    dtype = torch.float64

    def __init__(self, keys_SHD: torch.Tensor, values_SHD: torch.Tensor) -> None:
        self.keys, self.values = keys_SHD, values_SHD

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, kwargs: dict[str, object]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        slots_K = cast("list[torch.Tensor]", kwargs["read_index"])[0]
        if slots_K.numel() == 0:
            return key_states, value_states
        return self.keys[slots_K].transpose(0, 1)[None], self.values[slots_K].transpose(0, 1)[None]


class Layer(torch.nn.Module):
    layer_idx = 0


def run(query_lengths: list[int], key_lengths: list[int], *, past: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """What `attend` gives, and what a loop over single queries gives: [Q, H, D] each."""
    generator = torch.Generator().manual_seed(len(query_lengths))
    total, slots = sum(query_lengths), sum(key_lengths) + 7

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    query = randn(1, H, total, D)
    cache = Cache(randn(slots, H // G, D), randn(slots, H // G, D))
    held = torch.randperm(slots, generator=generator)[: sum(key_lengths)]
    slots_K = held if past else held[:0]
    keys_KHD, values_KHD = cache.keys[held], cache.values[held]
    found, _ = attend(
        Layer(),
        query,
        keys_KHD.transpose(0, 1)[None] if not past else randn(1, H // G, total, D),
        values_KHD.transpose(0, 1)[None] if not past else randn(1, H // G, total, D),
        None,
        scaling=0.3,
        cache=cast(PagedCache, cache),
        reads=(reads := plan_reads(query_lengths, key_lengths, slots_K)),
        layer={"read_index": [reads.slots_K]},
    )
    expected: list[torch.Tensor] = []
    at = start = 0
    for queries, keys in zip(query_lengths, key_lengths, strict=True):
        for q in range(queries):
            seen = slice(start, start + keys - queries + q + 1)
            for head in range(H):
                k, v = keys_KHD[seen, head // G], values_KHD[seen, head // G]
                weights = (k @ query[0, head, at + q] * 0.3).softmax(-1)
                expected.append(weights @ v)
        at, start = at + queries, start + keys
    return found[0], torch.stack(expected).view(total, H, D)


@pytest.mark.parametrize(
    ("query_lengths", "key_lengths", "past"),
    [
        ([3, 1, 5], [3, 1, 5], False),  # prompts alone
        ([1, 1, 1], [4, 9, 2], True),  # one token each
        ([1, 4, 1, 2], [6, 4, 3, 5], True),  # a new prompt and the rest of another among them
        ([1, 1], [1, 8], True),  # a prompt of one token
        ([1], [1], False),
    ],
)
def test_against_a_plain_loop(query_lengths: list[int], key_lengths: list[int], past: bool) -> None:
    found, expected = run(query_lengths, key_lengths, past=past)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_single_tokens_are_read_first_and_padded_with_their_own_last_entry() -> None:
    # sequences of 2, 3 and 1 entries; the second has two queries
    reads = plan_reads([1, 2, 1], [2, 3, 1], torch.tensor([10, 11, 20, 21, 22, 30]))
    assert reads.slots_K.tolist() == [10, 11, 30, 30, 20, 21, 22]
    assert reads.rows_N.tolist() == [0, 3]
    assert reads.mask_NL.tolist() == [[True, True], [True, False]]
    assert reads.spans == [Span(query=1, queries=2, key=4, keys=3)]


def test_without_a_past_keys_lie_as_queries_do() -> None:
    reads = plan_reads([1, 3], [1, 3], torch.tensor([], dtype=torch.long))
    assert reads.slots_K.numel() == reads.rows_N.numel() == reads.mask_NL.numel() == 0
    assert reads.spans == [Span(0, 1, 0, 1), Span(1, 3, 1, 3)]


@pytest.mark.parametrize("what", ["softcap", "sliding_window", "s_aux"])
def test_attention_that_is_more_than_plain_is_refused(what: str) -> None:
    nothing = torch.zeros(1, 1, 1, 1)
    reads = Reads(nothing, nothing, nothing, [])
    cache = cast(PagedCache, SimpleNamespace())
    with pytest.raises(ModelError, match=rf"this one's has {what}; set engine\.kind = 'hf'"):
        attend(Layer(), nothing, nothing, nothing, None, cache=cache, reads=reads, layer={}, **{what: 2.0})
