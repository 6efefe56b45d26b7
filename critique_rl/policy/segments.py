"""Sequences that lie end to end in one row: their bounds, and the plain form of attention that keeps them apart.

Owns: which token attends to which. Must not know: transformers, kernels, batching.
Legend: T tokens of the row, S segments, Q and K tokens of one segment and of what it attends to, H heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


class Span(NamedTuple):
    """One part of a row: its tokens, the position of the first, and the earlier span that it goes on from."""

    length: int
    start: int = 0
    after: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Segments:
    """Segment s has `lengths[s]` tokens; each attends to its own segment's past and to all of segment `after[s]`.

    `positions_1T` are the tokens' positions in their own sequence. The rest says the same to a kernel: where queries
    and keys of each segment begin [S + 1], and which tokens are the keys (None: the row's own). `read_by` collects the
    layers whose attention has read this record, as proof that they did.
    """

    lengths: tuple[int, ...]
    after: tuple[int | None, ...]
    positions_1T: Tensor
    query_starts: Tensor
    key_starts: Tensor
    longest_query: int
    longest_key: int
    keys_K: Tensor | None
    read_by: set[int] = field(default_factory=set[int])


def segments_of(spans: Sequence[Span], device: torch.device) -> Segments:
    """Spans in the order of the row -> segments. Errors: ValueError for a span without a token."""
    lengths = tuple(span.length for span in spans)
    if not lengths or min(lengths) < 1:
        raise ValueError(f"spans have the lengths {list(lengths)}; wanted at least one span, and a token in each")
    starts = [0, *accumulate(lengths)]
    keys = [
        torch.cat([torch.arange(starts[part], starts[part + 1]) for part in (span.after, s) if part is not None])
        for s, span in enumerate(spans)
    ]
    key_lengths = [len(found) for found in keys]
    shared = any(span.after is not None for span in spans)
    return Segments(
        lengths=lengths,
        after=tuple(span.after for span in spans),
        positions_1T=torch.cat([torch.arange(s.start, s.start + s.length) for s in spans])[None].to(device),
        query_starts=torch.tensor(starts, dtype=torch.int32, device=device),
        key_starts=torch.tensor([0, *accumulate(key_lengths)], dtype=torch.int32, device=device),
        longest_query=max(lengths),
        longest_key=max(key_lengths),
        keys_K=torch.cat(keys).to(device) if shared else None,
    )


def attend_by_segment(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    *,
    scale: float,
    window: int | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """softmax(scale q k^T) v inside each segment and what it goes on from: [1, H, T, D] -> [1, H, T, D].

    Keys and values may have fewer heads, a divisor of H. With a `window` W a token attends to the last W tokens, itself
    included. Segments of equal shape share a call; no [T, T] tensor exists.
    """
    queries, keys, values = (x.split(list(segments.lengths), dim=2) for x in (query, key, value))
    shapes: dict[tuple[int, int], list[int]] = {}
    for s, (length, before) in enumerate(zip(segments.lengths, segments.after, strict=True)):
        shapes.setdefault((length, 0 if before is None else segments.lengths[before]), []).append(s)
    parts: dict[int, Tensor] = {}
    for (length, earlier), members in shapes.items():
        mask_QK = _mask(length, earlier, window, query.device)
        key_SHKD, value_SHKD = (_joined([_seen(x, s, segments.after[s]) for s in members]) for x in (keys, values))
        groups = query.shape[1] // key.shape[1]
        # Fast kernels take a mask or fewer heads, not both; those on CUDA for 32 bits do not take fewer at all.
        if groups > 1 and (mask_QK is not None or query.device.type == "cuda"):
            key_SHKD, value_SHKD = (x.repeat_interleave(groups, dim=1) for x in (key_SHKD, value_SHKD))
        attended_SHQD = scaled_dot_product_attention(
            _joined([queries[s] for s in members]),
            key_SHKD,
            value_SHKD,
            attn_mask=mask_QK,
            dropout_p=dropout,
            is_causal=mask_QK is None and length > 1,
            scale=scale,
            enable_gqa=query.shape[1] != key_SHKD.shape[1],
        )
        parts.update(zip(members, attended_SHQD.split(1), strict=True))
    return torch.cat([parts[s] for s in range(len(queries))], dim=2)


def _mask(length: int, earlier: int, window: int | None, device: torch.device) -> Tensor | None:
    """True where query i, which is token earlier + i, sees key j; None for plain causality (is_causal counts keys from
    the first query, so what comes earlier needs a mask)."""
    if window is not None and earlier + length <= window:
        window = None
    if window is None and (earlier == 0 or length == 1):
        return None
    full_QK = torch.ones(length, earlier + length, dtype=torch.bool, device=device).tril(earlier)
    return full_QK if window is None else full_QK.triu(earlier - window + 1)


def _seen(parts: Sequence[Tensor], s: int, before: int | None) -> Tensor:
    return parts[s] if before is None else torch.cat([parts[before], parts[s]], dim=2)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
