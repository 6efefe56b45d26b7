"""Attention over a paged key-value cache, of each sequence to its own pages only, on any device.

Owns: in which order a step reads the cache, and the attention function that is registered with transformers. Must not
know: scheduling, sampling. transformers' own path without flash attention lets every query look at every sequence's
pages through a mask, whose cost grows with the square of the sequences.
Legend: Q query tokens of a step, K cache entries read, N sequences with one query token, L longest of their pasts,
H heads, G heads per key-value head, D head size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from critique_rl.errors import ModelError

PAGES = "critique_rl_pages"
"""The name under which transformers knows `attend`."""
_UNKNOWN = ("softcap", "position_bias", "s_aux", "sinks", "sliding_window")


class Span(NamedTuple):
    """A sequence with several query tokens: where they start, how many, and the same of the keys it reads."""

    query: int
    queries: int
    key: int
    keys: int


class Reads(NamedTuple):
    """What a step reads: `slots_K` are cache entries, those of `rows_N` first, each padded to L under `mask_NL`.

    Empty `slots_K`: no sequence has a past, and keys lie as queries do.
    """

    slots_K: torch.Tensor
    rows_N: torch.Tensor
    mask_NL: torch.Tensor
    spans: list[Span]


class PagedCache(Protocol):
    """What is asked of transformers' `PagedAttentionCache`."""

    dtype: torch.dtype

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, kwargs: dict[str, object]
    ) -> tuple[torch.Tensor, torch.Tensor]: ...


def plan_reads(query_lengths: Sequence[int], key_lengths: Sequence[int], slots_K: torch.Tensor) -> Reads:
    """Regroup a step's reads; `slots_K` holds the cache entries of sequence after sequence, or nothing."""
    query_starts = np.cumsum([0, *query_lengths])
    key_starts = np.cumsum([0, *key_lengths])
    past = slots_K.numel() > 0
    single = [i for i, length in enumerate(query_lengths) if past and length == 1]
    lengths_N1 = np.array([key_lengths[i] for i in single], dtype=np.int64)[:, None]
    steps_L = np.arange(lengths_N1.max(initial=0))
    order = [(key_starts[single][:, None] + np.minimum(steps_L, lengths_N1 - 1)).ravel()]
    at = order[0].size
    spans: list[Span] = []
    for i in sorted(set(range(len(query_lengths))) - set(single)):
        spans.append(Span(int(query_starts[i]), query_lengths[i], at, key_lengths[i]))
        order.append(np.arange(key_starts[i], key_starts[i + 1]))
        at += key_lengths[i]
    device = slots_K.device
    order_K = torch.from_numpy(np.concatenate(order)).to(device)
    return Reads(
        slots_K=slots_K[order_K] if past else slots_K,
        rows_N=torch.from_numpy(query_starts[single]).to(device),
        mask_NL=torch.from_numpy(steps_L < lengths_N1).to(device),
        spans=spans,
    )


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    cache: PagedCache | None = None,
    reads: Reads | None = None,
    layer: Mapping[str, object] | None = None,
    **others: object,
) -> tuple[torch.Tensor, None]:
    """transformers' attention signature: `query` [1, H, Q, D], `key` and `value` [1, H / G, Q, D] -> [1, Q, H, D].

    `layer` is what `PagedAttentionCache.update` reads. Raises ModelError for what would change the attention weights.
    """
    assert cache is not None and reads is not None and layer is not None, f"{PAGES!r} is for ContinuousEngine alone"
    unknown = [name for name in _UNKNOWN if others.get(name) is not None or getattr(module, name, None) is not None]
    if unknown:
        raise ModelError(
            f"engine.kind = 'continuous' samples from models with plain attention, and this one's has "
            f"{', '.join(unknown)}; set engine.kind = 'hf'"
        )
    # Under autocast rotary keys come out wider than values; the cache holds the master weights' type.
    key, value = cache.update(key.to(cache.dtype), value.to(cache.dtype), _layer_of(module), dict(layer))
    heads = key.shape[1]
    count, longest = reads.mask_NL.shape
    parts: list[torch.Tensor] = []
    places: list[torch.Tensor] = []
    if count:
        padded = [x[0, :, : count * longest].unflatten(1, (count, longest)).transpose(0, 1) for x in (key, value)]
        # One query token per sequence: the heads that share a key take the place of query positions.
        rows = query[0, :, reads.rows_N].transpose(0, 1).unflatten(1, (heads, -1))
        mask = reads.mask_NL[:, None, None, :]
        found = scaled_dot_product_attention(rows, *padded, attn_mask=mask, scale=scaling)
        parts.append(found.flatten(1, 2))
        places.append(reads.rows_N)
    for span in reads.spans:
        end = span.query + span.queries
        found = _attend_span(query[:, :, span.query : end], key, value, span, scaling)
        parts.append(found[0].transpose(0, 1))
        places.append(torch.arange(span.query, end, device=query.device))
    out_QHD = torch.empty_like(torch.cat(parts))
    out_QHD[torch.cat(places)] = torch.cat(parts)
    return out_QHD[None], None


def _attend_span(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, span: Span, scaling: float | None
) -> torch.Tensor:
    groups = query.shape[1] // key.shape[1]
    own = slice(span.key, span.key + span.keys)
    keys, values = (x[:, :, own].repeat_interleave(groups, dim=1) for x in (key, value))
    if span.queries == span.keys:
        return scaled_dot_product_attention(query, keys, values, is_causal=True, scale=scaling)
    # The rest of a prompt that was read in pieces: `is_causal` would align the triangle at the wrong end.
    seen = torch.ones(span.queries, span.keys, dtype=torch.bool, device=query.device)
    seen = seen.tril(diagonal=span.keys - span.queries)
    return scaled_dot_product_attention(query, keys, values, attn_mask=seen, scale=scaling)


def _layer_of(module: torch.nn.Module) -> int:
    layer_idx = getattr(module, "layer_idx", None)
    assert isinstance(layer_idx, int)
    return layer_idx


AttentionInterface.register(PAGES, attend)
