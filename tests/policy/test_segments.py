"""Attention over sequences in one row: against a softmax over a whole mask, and no sequence sees another."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from critique_rl.policy.segments import Segments, Span, attend_by_segment, segments_of

CPU = torch.device("cpu")
LAYOUTS = {
    "one": [Span(6)],
    "apart": [Span(3), Span(1), Span(5), Span(3)],
    "shared": [Span(5), Span(4, 5, 0), Span(1, 5, 0), Span(4, 5, 0), Span(2), Span(3), Span(3, 3, 5)],
}


def visible(segments: Segments, window: int | None) -> Tensor:
    """[T, T], token by token."""
    starts = [sum(segments.lengths[:s]) for s in range(len(segments.lengths))]
    seen_TT = torch.zeros(sum(segments.lengths), sum(segments.lengths), dtype=torch.bool)
    for s, (start, length) in enumerate(zip(starts, segments.lengths, strict=True)):
        before = segments.after[s]
        past = [] if before is None else [starts[before] + j for j in range(segments.lengths[before])]
        for i in range(length):
            past.append(start + i)
            seen_TT[start + i, past if window is None else past[-window:]] = True
    return seen_TT


def random_qkv(tokens: int, heads: int = 4, key_heads: int = 2) -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    sizes = [(1, heads, tokens, 8), (1, key_heads, tokens, 8), (1, key_heads, tokens, 8)]
    return [torch.randn(size, generator=draw, dtype=torch.float64).requires_grad_() for size in sizes]


def test_bounds_by_hand() -> None:
    segments = segments_of([Span(2), Span(1, 2, 0), Span(3)], CPU)
    assert segments.positions_1T.tolist() == [[0, 1, 2, 0, 1, 2]]
    assert segments.query_starts.tolist() == [0, 2, 3, 6]
    assert segments.key_starts.tolist() == [0, 2, 5, 8]  # the second sees the first's two tokens and its own
    assert segments.keys_K is not None
    assert segments.keys_K.tolist() == [0, 1, 0, 1, 2, 3, 4, 5]
    assert (segments.longest_query, segments.longest_key) == (3, 3)
    assert segments_of([Span(2), Span(3)], CPU).keys_K is None


@pytest.mark.parametrize("spans", [[], [Span(2), Span(0)]])
def test_a_span_without_tokens_is_refused(spans: list[Span]) -> None:
    with pytest.raises(ValueError, match="a token in each"):
        segments_of(spans, CPU)


@pytest.mark.parametrize("window", [None, 1, 3, 6, 50])
@pytest.mark.parametrize("spans", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_outputs_and_gradients_are_those_of_a_whole_mask(spans: list[Span], window: int | None, key_heads: int) -> None:
    segments = segments_of(spans, CPU)
    query, key, value = qkv = random_qkv(sum(segments.lengths), key_heads=key_heads)
    wide_key, wide_value = (x.repeat_interleave(4 // key_heads, dim=1) for x in (key, value))
    scores = 0.3 * query @ wide_key.transpose(-1, -2)
    wanted = scores.masked_fill(~visible(segments, window), -torch.inf).softmax(-1) @ wide_value
    found = attend_by_segment(query, key, value, segments, scale=0.3, window=window)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13)
    upstream = torch.randn_like(found)
    for a, b in zip(torch.autograd.grad(found, qkv, upstream), torch.autograd.grad(wanted, qkv, upstream), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_another_sequences_tokens_change_no_bit() -> None:
    segments = segments_of(LAYOUTS["shared"], CPU)
    query, key, value = random_qkv(sum(segments.lengths))
    before = attend_by_segment(query, key, value, segments, scale=0.3)
    with torch.no_grad():
        for x in (query, key, value):
            x[:, :, 5:9] += 1  # the second span: only it and nothing after it may move
    after = attend_by_segment(query, key, value, segments, scale=0.3)
    assert not torch.equal(before[:, :, 5:9], after[:, :, 5:9])
    assert torch.equal(before[:, :, :5], after[:, :, :5])
    assert torch.equal(before[:, :, 9:], after[:, :, 9:])
