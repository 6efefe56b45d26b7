"""The sweep behind `ops.fused`: each chunk's logits are made, read and dropped, and made again for the backward.

Owns: the chunks, the numerics of one chunk, and the closed-form gradient.
Must not know: what the log-probs are for. Legend as in `ops.fused`; L rows with an upstream gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Here p is 0 in float64 already; unlike -inf it survives a multiplication by 0.
_NOTHING = -1e4


class Plan(NamedTuple):
    """`compute`: type of the matmuls; `wide`: type of all after them; `rows`: rows of a full chunk of `chunk_bytes`."""

    compute: torch.dtype
    wide: torch.dtype
    temperature: float
    entropy: bool
    rows: int
    chunk_bytes: int


class _Chunk(NamedTuple):
    """`rows` of N from `start` on, and the entries of M that belong to them."""

    start: int
    rows: slice
    support: slice


class _Pull(NamedTuple):
    """The rows with an upstream gradient, L of N, and all that their dz is made of; gradients already over tau."""

    live_L: Tensor
    ids_L: Tensor
    log_z_L: Tensor
    g_L: Tensor
    rows_M: Tensor
    ids_MK: Tensor
    g_MK: Tensor
    entropy_L: Tensor | None
    g_entropy_L: Tensor | None


class _Context(Protocol):
    plan: Plan
    hidden_type: torch.dtype
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...

    def set_materialize_grads(self, value: bool) -> None: ...

    @property
    def saved_tensors(self) -> tuple[Tensor, ...]: ...


class TermsSweep(torch.autograd.Function):
    """(logprobs_N, support_MK, entropy_N or None) of `ops.fused.head_terms`, from arguments that it has checked."""

    @staticmethod
    def forward(
        ctx: _Context,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        ids_N: Tensor,
        rows_M: Tensor,
        ids_MK: Tensor,
        plan: Plan,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        n = hidden_NH.shape[0]
        logprobs_N, log_z_N = (hidden_NH.new_empty(n, dtype=plan.wide) for _ in range(2))
        entropy_N = hidden_NH.new_empty(n, dtype=plan.wide) if plan.entropy else None
        support_MK = hidden_NH.new_empty(ids_MK.shape, dtype=plan.wide)
        with torch.autocast(hidden_NH.device.type, enabled=False):
            narrow_NH, head_VH = hidden_NH.to(plan.compute), weight_VH.to(plan.compute)
            for chunk in chunks(n, rows_M, plan):
                z_CV = chunk_logits(narrow_NH[chunk.rows], head_VH, bias_V, plan)
                peak_C1 = z_CV.amax(dim=-1, keepdim=True)
                z_CV.sub_(peak_C1)
                at_M = rows_M[chunk.support] - chunk.start
                sampled_C1 = z_CV.gather(-1, ids_N[chunk.rows, None])
                support = z_CV[at_M[:, None], ids_MK[chunk.support]]
                log_sum_C1 = log_sum(z_CV, None if entropy_N is None else entropy_N[chunk.rows])
                logprobs_N[chunk.rows] = (sampled_C1 - log_sum_C1).squeeze(-1)
                support_MK[chunk.support] = support - log_sum_C1[at_M]
                log_z_N[chunk.rows] = (peak_C1 + log_sum_C1).squeeze(-1)
                del z_CV
        ctx.plan, ctx.hidden_type = plan, hidden_NH.dtype
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(narrow_NH, weight_VH, bias_V, ids_N, rows_M, ids_MK, log_z_N, entropy_N)
        return logprobs_N, support_MK, entropy_N

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: _Context, g_logprobs_N: Tensor | None, g_support_MK: Tensor | None, g_entropy_N: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        hidden_NH, weight_VH, bias_V, ids_N, rows_M, ids_MK, log_z_N, entropy_N = ctx.saved_tensors
        plan, needs = ctx.plan, ctx.needs_input_grad
        d_hidden = torch.zeros_like(hidden_NH) if needs[0] else None
        d_weight = torch.zeros_like(weight_VH, dtype=plan.wide) if needs[1] else None
        d_bias = torch.zeros_like(bias_V, dtype=plan.wide) if needs[2] else None
        with torch.autocast(hidden_NH.device.type, enabled=False):
            pull = _pull(
                ids_N, rows_M, ids_MK, log_z_N, entropy_N, g_logprobs_N, g_support_MK, g_entropy_N, plan.temperature
            )
            live_LH, head_VH = hidden_NH[pull.live_L], weight_VH.to(plan.compute)
            for chunk in chunks(live_LH.shape[0], pull.rows_M, plan):
                dz_CV = chunk_logits(live_LH[chunk.rows], head_VH, bias_V, plan)
                _turn_into_gradient(dz_CV, pull, chunk)
                if d_bias is not None:
                    d_bias += dz_CV.sum(dim=0)
                narrow_CV = dz_CV.to(plan.compute)
                del dz_CV
                if d_hidden is not None:
                    d_hidden[pull.live_L[chunk.rows]] = narrow_CV @ head_VH
                if d_weight is not None:
                    _add_outer(d_weight, narrow_CV, live_LH[chunk.rows], plan)
                del narrow_CV
        return (
            None if d_hidden is None else d_hidden.to(ctx.hidden_type),
            None if d_weight is None else d_weight.to(weight_VH.dtype),
            None if d_bias is None else d_bias.to(bias_V.dtype),
            *(None,) * 4,
        )


def chunk_logits(hidden_CH: Tensor, head_VH: Tensor, bias_V: Tensor | None, plan: Plan) -> Tensor:
    """z / tau of one chunk in the wide type, free to be overwritten."""
    bias = None if bias_V is None else bias_V.to(plan.compute)
    z_CV = torch.nn.functional.linear(hidden_CH, head_VH, bias).to(plan.wide)
    return z_CV if plan.temperature == 1.0 else z_CV.div_(plan.temperature)


def log_sum(z_CV: Tensor, entropy_C: Tensor | None) -> Tensor:
    """log sum_v exp z_v [C, 1] of rows whose largest entry is 0, and into `entropy_C` H; `z_CV` is overwritten."""
    if entropy_C is None:
        return z_CV.exp_().sum(dim=-1, keepdim=True).log_()
    e_CV = z_CV.exp()
    sum_C1 = e_CV.sum(dim=-1, keepdim=True)
    mean_C = e_CV.mul_(z_CV.clamp_(min=_NOTHING)).sum(dim=-1) / sum_C1.squeeze(-1)
    log_sum_C1 = sum_C1.log_()
    entropy_C.copy_(log_sum_C1.squeeze(-1) - mean_C)
    return log_sum_C1


def _turn_into_gradient(z_CV: Tensor, pull: _Pull, chunk: _Chunk) -> None:
    """Logits over tau -> dz, in place."""
    at_C = torch.arange(z_CV.shape[0], device=z_CV.device)
    at_M, g_MK = pull.rows_M[chunk.support] - chunk.start, pull.g_MK[chunk.support]
    g_C = pull.g_L[chunk.rows]
    force_C = g_C.index_add(0, at_M, g_MK.sum(dim=-1)).neg_()
    z_CV.sub_(pull.log_z_L[chunk.rows, None])
    if pull.g_entropy_L is None or pull.entropy_L is None:
        z_CV.exp_().mul_(force_C[:, None])
    else:
        g_entropy_C = pull.g_entropy_L[chunk.rows]
        p_CV = z_CV.exp()
        z_CV.clamp_(min=_NOTHING).add_(pull.entropy_L[chunk.rows, None]).mul_(-g_entropy_C[:, None])
        z_CV.add_(force_C[:, None]).mul_(p_CV)
    z_CV.index_put_((at_C, pull.ids_L[chunk.rows]), g_C, accumulate=True)
    z_CV.index_put_((at_M[:, None], pull.ids_MK[chunk.support]), g_MK, accumulate=True)


def _pull(
    ids_N: Tensor,
    rows_M: Tensor,
    ids_MK: Tensor,
    log_z_N: Tensor,
    entropy_N: Tensor | None,
    g_logprobs_N: Tensor | None,
    g_support_MK: Tensor | None,
    g_entropy_N: Tensor | None,
    temperature: float,
) -> _Pull:
    n = log_z_N.shape[0]
    g_N = torch.zeros_like(log_z_N) if g_logprobs_N is None else g_logprobs_N / temperature
    g_MK = log_z_N.new_zeros(ids_MK.shape) if g_support_MK is None else g_support_MK / temperature
    live_N = g_N != 0
    if g_entropy_N is not None:
        live_N |= g_entropy_N != 0
    live_N |= torch.zeros_like(log_z_N).index_add_(0, rows_M, (g_MK != 0).any(dim=-1).to(log_z_N.dtype)) > 0
    live_L = live_N.nonzero().squeeze(-1)
    place_N = torch.full((n,), -1, device=ids_N.device).index_copy_(
        0, live_L, torch.arange(len(live_L), device=ids_N.device)
    )
    kept_M = live_N[rows_M]
    return _Pull(
        live_L=live_L,
        ids_L=ids_N[live_L],
        log_z_L=log_z_N[live_L],
        g_L=g_N[live_L],
        rows_M=place_N[rows_M[kept_M]],
        ids_MK=ids_MK[kept_M],
        g_MK=g_MK[kept_M],
        entropy_L=None if entropy_N is None else entropy_N[live_L],
        g_entropy_L=None if g_entropy_N is None else g_entropy_N[live_L] / temperature,
    )


def _add_outer(total_VH: Tensor, dz_CV: Tensor, hidden_CH: Tensor, plan: Plan) -> None:
    """total += dz^T h. A product in a narrower type than the sum is made in blocks of V, each within the budget."""
    if total_VH.dtype == dz_CV.dtype:
        total_VH.addmm_(dz_CV.T, hidden_CH)
        return
    block = max(1, plan.chunk_bytes // (total_VH.element_size() * max(1, total_VH.shape[1])))
    for part_VH, part_CV in zip(total_VH.split(block), dz_CV.split(block, dim=1), strict=True):
        part_VH += part_CV.T @ hidden_CH


def chunks(n: int, rows_M: Tensor | None, plan: Plan) -> Iterator[_Chunk]:
    starts = list(range(0, n, plan.rows))
    edges = [0] * (len(starts) + 1)
    if rows_M is not None and starts:
        edges = torch.searchsorted(rows_M, torch.tensor([*starts, n], device=rows_M.device)).tolist()
    for start, first, end in zip(starts, edges, edges[1:], strict=False):
        yield _Chunk(start, slice(start, min(start + plan.rows, n)), slice(first, end))
