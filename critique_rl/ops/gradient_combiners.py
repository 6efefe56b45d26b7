"""The gradients of several objectives -> one: coefficients of a joint gradient, from inner products alone.

Owns: PCGrad and MGDA on the Gram matrix, in float64. Must not know: where gradients lie, how many numbers they have,
what an objective is. Both see gradients of losses and of rewards alike: a common sign changes no coefficient.
Legend: K objectives; gram_KK[k, l] = g_k . g_l.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

GradientCombiner = Literal["pcgrad", "mgda", "mgda_normalized"]
NOTHING = 1e-24
"""A squared norm of at most this share of the largest one is no gradient but rounding."""
GAP = 1e-12
"""MGDA ends where no gradient's inner product with d lies further below |d|^2, as a share of the largest |g_k|^2."""
ROUNDS = 10_000
"""Bound on MGDA's rounds, which converge linearly; a handful of objectives takes tens to hundreds."""


def gradient_coefficients(gram_KK: Tensor, method: GradientCombiner, *, seed: int) -> Tensor:
    """alpha [K] of the joint gradient sum_k alpha_k g_k by the named method; `seed` draws PCGrad's orders. Errors: as
    theirs."""
    if method == "pcgrad":
        return pcgrad(gram_KK, orders=visiting_orders(gram_KK.shape[0], seed=seed))
    return mgda(gram_KK, normalize=method == "mgda_normalized")


def pcgrad(gram_KK: Tensor, *, orders: Sequence[Sequence[int]]) -> Tensor:
    """alpha [K] of the sum of all gradients, each rid of what conflicts with the others (arXiv 2001.06782).

    Gradient k visits the others in `orders[k]` and, where its running copy has a negative inner product with the
    ORIGINAL g_l, loses that part: p_k <- p_k - (p_k . g_l) / |g_l|^2 g_l. The result depends on the orders; without a
    conflict it is the plain sum. A zero gradient changes nothing. Errors: ValueError.
    """
    gram_KK = _checked(gram_KK)
    count = gram_KK.shape[0]
    copies_KK = torch.eye(count, dtype=torch.float64, device=gram_KK.device)  # row k: p_k as a mixture of the originals
    if len(orders) != count:
        raise ValueError(f"orders came for {len(orders)} gradients; wanted one for each of {count}")
    for k, order in enumerate(orders):
        if sorted(order) != [other for other in range(count) if other != k]:
            raise ValueError(f"orders[{k}] is {list(order)}; wanted each of the other {count - 1} gradients once")
        for other in order:
            inner = copies_KK[k] @ gram_KK[:, other]
            if inner < 0 and gram_KK[other, other] > 0:
                copies_KK[k, other] -= inner / gram_KK[other, other]
    return copies_KK.sum(0)


def visiting_orders(count: int, *, seed: int) -> list[list[int]]:
    """For each of `count` gradients the others in a random order: equal seeds give equal orders."""
    draw = random.Random(seed)
    return [draw.sample(others, len(others)) for k in range(count) for others in [[i for i in range(count) if i != k]]]


def mgda(gram_KK: Tensor, *, normalize: bool = False) -> Tensor:
    """alpha [K] on the simplex with the shortest d = sum_k alpha_k g_k (arXiv 1810.04650).

    Then d . g_k >= |d|^2 for all k: no objective is made worse to first order, and d = 0 where none can gain without
    another's loss. Two gradients take one step, which is the closed form alpha_1 = clip((g_2 - g_1) . g_2 /
    |g_1 - g_2|^2, 0, 1); more take pairwise Frank-Wolfe steps with exact line search (arXiv 1511.05932) until the gap
    is below `GAP`. The shortest gradient has the most to say; `normalize` finds d among g_k / |g_k|, as GAPO does
    (arXiv 2507.01915, whose account is second-hand here), and scales the coefficients of the g_k to a sum of 1, so
    that d keeps their unit.

    A zero gradient gets the coefficient 0, for it says nothing; taken literally it would end all learning. All zero:
    1 / K each. Errors: ValueError.
    """
    gram_KK = _checked(gram_KK)
    squares_K = gram_KK.diagonal()
    on_K = squares_K > NOTHING * squares_K.max()
    if not on_K.any():
        return torch.full_like(squares_K, 1 / len(squares_K))
    alpha_K = torch.zeros_like(squares_K)
    kept_LL = gram_KK[on_K][:, on_K]
    if not normalize:
        alpha_K[on_K] = _shortest(kept_LL)
        return alpha_K
    norms_L = kept_LL.diagonal().sqrt()
    mixed_L = _shortest(kept_LL / norms_L[:, None] / norms_L[None]) / norms_L
    alpha_K[on_K] = mixed_L / mixed_L.sum()
    return alpha_K


def _shortest(gram_KK: Tensor) -> Tensor:
    """The simplex weights of the shortest mixture; equal gradients keep equal weights."""
    alpha_K = torch.full_like(gram_KK[0], 1 / len(gram_KK))
    largest = gram_KK.diagonal().max()
    for _ in range(ROUNDS):
        inner_K = gram_KK @ alpha_K
        if alpha_K @ inner_K - inner_K.min() <= GAP * largest:
            break
        to = int(inner_K.argmin())
        out = int(inner_K.masked_fill(alpha_K <= 0, -torch.inf).argmax())
        bend = gram_KK[to, to] + gram_KK[out, out] - 2 * gram_KK[to, out]
        moved = torch.minimum(alpha_K[out], (inner_K[out] - inner_K[to]) / bend.clamp(min=1e-300))
        alpha_K[to] += moved
        alpha_K[out] -= moved
    return alpha_K


def _checked(gram_KK: Tensor) -> Tensor:
    """The matrix in float64. Errors: ValueError for anything that cannot be inner products."""
    if gram_KK.ndim != 2 or gram_KK.shape[0] != gram_KK.shape[1] or not gram_KK.shape[0]:
        raise ValueError(f"gram_KK has shape {list(gram_KK.shape)}; wanted [K, K] with K of 1 or more")
    gram_KK = gram_KK.to(torch.float64)
    if not bool(gram_KK.isfinite().all()):
        raise ValueError("gram_KK holds numbers that are not finite; wanted inner products of finite gradients")
    largest = gram_KK.diagonal().max()
    if bool((gram_KK.diagonal() < 0).any()) or bool(((gram_KK - gram_KK.T).abs() > 1e-9 * largest).any()):
        raise ValueError("gram_KK is not symmetric, or has a negative diagonal; wanted inner products of K gradients")
    return gram_KK
