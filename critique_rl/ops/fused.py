"""What the losses read of the LM head, in one sweep over chunks of rows: no [N, V] tensor exists.

Owns: the sampled, support and top-K log-probs and the entropy from hidden states, and the dense version of the same.
Must not know: models, batches, losses. Any loss on the returned [N] and [M, K] is plain autograd.
Shape legend: N rows (tokens), H hidden, V vocabulary, M rows with a support, K support ids, C rows of one chunk.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor

from critique_rl.ops.head_sweep import Plan, TermsSweep, chunk_logits, chunks, log_sum
from critique_rl.ops.logprobs import entropy as dense_entropy
from critique_rl.ops.logprobs import gather_logprobs, token_logprobs, topk_logprobs

_MIB = 1024 * 1024


class HeadTerms(NamedTuple):
    """What the losses read of the next-token distributions; log-probs in nats, normalised over all V ids.

    `logprobs_N` at the response's ids, `support_MK` at the extra ids of the rows that have some, `entropy_N` exact or
    None if it was not asked for, `vocabulary` V.
    """

    logprobs_N: Tensor
    support_MK: Tensor
    entropy_N: Tensor | None
    vocabulary: int


class HeadTop(NamedTuple):
    """Log-probs at the response's ids, and each row's K most likely ids with theirs, most likely first."""

    logprobs_N: Tensor
    ids_NK: Tensor
    topk_NK: Tensor


def head_terms(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    ids_N: Tensor,
    *,
    bias_V: Tensor | None = None,
    temperature: float = 1.0,
    rows_M: Tensor | None = None,
    ids_MK: Tensor | None = None,
    entropy: bool = False,
    chunk_bytes: int | None = None,
) -> HeadTerms:
    """log softmax(z / tau) of z = h W^T + b at the ids asked for, differentiable in h, W and b.

    For upstream g, per row: dz = (sum_j g_j (onehot_j - p) - g_H p (log p + H)) / tau, over the sampled id and the K
    support ids alike; dh = dz W, dW = dz^T h summed over chunks in float32 or wider. Rows without any upstream gradient
    are not recomputed.

    `hidden_NH` [N, H], `weight_VH` [V, H], `ids_N` [N] int64; `rows_M` [M] int64, ascending (a row may occur twice),
    with `ids_MK` [M, K]. Matmuls run in the type of autocast where it is on, else of the inputs; the rest in float32 or
    wider. `chunk_bytes` bounds one such [C, V] tensor, of which two or three live at a time (None: 64 MiB on a CPU, 512
    MiB elsewhere; a chunk holds one row at the least). Raises ValueError for a bad shape, order or number.
    """
    rows_M, ids_MK = _support(rows_M, ids_MK, ids_N)
    plan = _plan(hidden_NH, weight_VH, ids_N, temperature, chunk_bytes, entropy=entropy)
    logprobs_N, support_MK, entropy_N = cast(
        tuple[Tensor, Tensor, Tensor | None],
        TermsSweep.apply(hidden_NH, weight_VH, bias_V, ids_N, rows_M, ids_MK, plan),  # pyright: ignore[reportUnknownMemberType]
    )
    return HeadTerms(logprobs_N, support_MK, entropy_N, weight_VH.shape[0])


@torch.no_grad()
def head_topk(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    ids_N: Tensor,
    k: int,
    *,
    bias_V: Tensor | None = None,
    temperature: float = 1.0,
    chunk_bytes: int | None = None,
) -> HeadTop:
    """The k most likely ids of each row, without gradient; arguments as `head_terms`, k above V means V."""
    plan = _plan(hidden_NH, weight_VH, ids_N, temperature, chunk_bytes, entropy=False)
    if k < 1:
        raise ValueError(f"k is {k}; wanted at least 1 (k above the vocabulary size is allowed and means all ids)")
    n, k = hidden_NH.shape[0], min(k, weight_VH.shape[0])
    logprobs_N, topk_NK = hidden_NH.new_empty(n, dtype=plan.wide), hidden_NH.new_empty(n, k, dtype=plan.wide)
    ids_NK = ids_N.new_empty(n, k)
    with torch.autocast(hidden_NH.device.type, enabled=False):
        narrow_NH, head_VH = hidden_NH.to(plan.compute), weight_VH.to(plan.compute)
        for chunk in chunks(n, None, plan):
            z_CV = chunk_logits(narrow_NH[chunk.rows], head_VH, bias_V, plan)
            z_CV.sub_(z_CV.amax(dim=-1, keepdim=True))
            sampled_C1 = z_CV.gather(-1, ids_N[chunk.rows, None])
            top = z_CV.topk(k, dim=-1)
            log_sum_C1 = log_sum(z_CV, None)
            logprobs_N[chunk.rows] = (sampled_C1 - log_sum_C1).squeeze(-1)
            ids_NK[chunk.rows], topk_NK[chunk.rows] = top.indices, top.values - log_sum_C1
            del z_CV
    return HeadTop(logprobs_N, ids_NK, topk_NK)


def dense_terms(
    logits_NV: Tensor,
    ids_N: Tensor,
    *,
    temperature: float = 1.0,
    rows_M: Tensor | None = None,
    ids_MK: Tensor | None = None,
    entropy: bool = False,
) -> HeadTerms:
    """`head_terms` from whole logits [N, V]: the reference, and the way for models whose head is not one matmul."""
    rows_M, ids_MK = _support(rows_M, ids_MK, ids_N)
    return HeadTerms(
        token_logprobs(logits_NV, ids_N, temperature=temperature),
        gather_logprobs(logits_NV[rows_M], ids_MK, temperature=temperature),
        dense_entropy(logits_NV, temperature=temperature) if entropy else None,
        logits_NV.shape[-1],
    )


def dense_topk(logits_NV: Tensor, ids_N: Tensor, k: int, *, temperature: float = 1.0) -> HeadTop:
    """`head_topk` from whole logits [N, V]."""
    return HeadTop(
        token_logprobs(logits_NV, ids_N, temperature=temperature), *topk_logprobs(logits_NV, k, temperature=temperature)
    )


def _support(rows_M: Tensor | None, ids_MK: Tensor | None, ids_N: Tensor) -> tuple[Tensor, Tensor]:
    if rows_M is None or ids_MK is None:
        if rows_M is not ids_MK:
            raise ValueError("only one of rows_M and ids_MK is given; wanted both, or neither")
        return ids_N.new_empty(0), ids_N.new_empty(0, 0)
    if rows_M.ndim != 1 or ids_MK.ndim != 2 or ids_MK.shape[0] != rows_M.shape[0]:
        raise ValueError(
            f"rows_M has shape {list(rows_M.shape)}, ids_MK {list(ids_MK.shape)}; wanted [M] and [M, K]: one row of "
            "ids per entry of rows_M"
        )
    if bool((rows_M[1:] < rows_M[:-1]).any()):
        raise ValueError(f"rows_M is {rows_M.tolist()}; wanted ascending row numbers: sort it, and ids_MK alike")
    return rows_M, ids_MK


def _plan(
    hidden_NH: Tensor, weight_VH: Tensor, ids_N: Tensor, temperature: float, chunk_bytes: int | None, *, entropy: bool
) -> Plan:
    if hidden_NH.ndim != 2 or weight_VH.ndim != 2 or hidden_NH.shape[1] != weight_VH.shape[1]:
        raise ValueError(
            f"hidden_NH has shape {list(hidden_NH.shape)}, weight_VH {list(weight_VH.shape)}; wanted [N, H] and [V, H]"
        )
    if ids_N.shape != hidden_NH.shape[:1]:
        raise ValueError(f"ids_N has shape {list(ids_N.shape)}; wanted [N], one id per row of hidden_NH")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; wanted a number above 0")
    device = hidden_NH.device.type
    budget = chunk_bytes if chunk_bytes is not None else (64 if device == "cpu" else 512) * _MIB
    if budget < 1:
        raise ValueError(f"chunk_bytes is {budget}; wanted at least 1 (a chunk holds one row at the least)")
    compute = torch.promote_types(hidden_NH.dtype, weight_VH.dtype)
    # Autocast leaves float64 alone.
    if compute != torch.float64 and torch.is_autocast_enabled(device):
        compute = torch.get_autocast_dtype(device)
    wide = torch.promote_types(compute, torch.float32)
    rows = max(1, budget // (wide.itemsize * max(1, weight_VH.shape[0])))
    return Plan(compute, wide, temperature, entropy, rows, budget)
