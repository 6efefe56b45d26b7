"""Log-probabilities from logits, always normalised over the full vocabulary.

Owns: temperature, float32-or-wider normalisation, top-k supports.
Must not know: models, batches, masks. Shape legend: N rows (tokens), V vocabulary, K support.
The identity log p_v = z_v - logsumexp(z) is used throughout, so that no second [N, V] tensor is kept for a gather.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from critique_rl.ops.precision import at_least_float32


class TopK(NamedTuple):
    """The K most likely ids of each row, most likely first, and their log-probs (nats, full-vocabulary normalised)."""

    ids_NK: Tensor
    logprobs_NK: Tensor


def token_logprobs(logits_NV: Tensor, ids_N: Tensor, *, temperature: float = 1.0) -> Tensor:
    """log p(id) of one id per row: z_id / tau - logsumexp(z / tau).

    `logits_NV` [N, V], `ids_N` [N] int64 -> [N], float32 or wider. Raises ValueError for a bad shape or temperature.
    """
    if ids_N.ndim != 1:
        raise ValueError(f"ids_N has shape {list(ids_N.shape)}; wanted [N], one id per row of logits_NV")
    return gather_logprobs(logits_NV, ids_N.unsqueeze(-1), temperature=temperature).squeeze(-1)


def gather_logprobs(logits_NV: Tensor, ids_NK: Tensor, *, temperature: float = 1.0) -> Tensor:
    """log p(v) at K given ids per row, normalised over all V ids (not over the K).

    `logits_NV` [N, V], `ids_NK` [N, K] int64 -> [N, K], float32 or wider. Raises ValueError for a bad shape or
    temperature.
    """
    if ids_NK.ndim != 2 or ids_NK.shape[0] != logits_NV.shape[0]:
        raise ValueError(
            f"ids has shape {list(ids_NK.shape)} for logits {list(logits_NV.shape)}; wanted one row of ids per row"
        )
    scaled_NV = _scaled(logits_NV, temperature)
    return scaled_NV.gather(-1, ids_NK) - scaled_NV.logsumexp(dim=-1, keepdim=True)


def topk_logprobs(logits_NV: Tensor, k: int, *, temperature: float = 1.0) -> TopK:
    """The k most likely ids of each row with their full-vocabulary log-probs; k above V means V.

    `logits_NV` [N, V] -> ids [N, K] int64, log-probs [N, K] float32 or wider. Raises ValueError if k < 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}; wanted at least 1 (k above the vocabulary size is allowed and means all ids)")
    scaled_NV = _scaled(logits_NV, temperature)
    top = scaled_NV.topk(min(k, scaled_NV.shape[-1]), dim=-1)
    return TopK(top.indices, top.values - scaled_NV.logsumexp(dim=-1, keepdim=True))


def entropy(logits_NV: Tensor, *, temperature: float = 1.0) -> Tensor:
    """H = -sum_v p_v log p_v per row, in nats; ids with logit -inf contribute 0.

    `logits_NV` [N, V] -> [N], float32 or wider.
    """
    logprobs_NV = _scaled(logits_NV, temperature).log_softmax(dim=-1)
    # 0 * -inf is NaN, so an impossible id gets a finite stand-in before the product.
    finite_NV = logprobs_NV.masked_fill(torch.isneginf(logprobs_NV), 0.0)
    return -(logprobs_NV.exp() * finite_NV).sum(dim=-1)


def _scaled(logits_NV: Tensor, temperature: float) -> Tensor:
    if logits_NV.ndim != 2:
        raise ValueError(f"logits_NV has shape {list(logits_NV.shape)}; wanted [N, V]: flatten batch and time first")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; wanted a number above 0")
    wide_NV = at_least_float32(logits_NV)
    return wide_NV if temperature == 1.0 else wide_NV / temperature
