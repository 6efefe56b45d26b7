"""One advantage a rollout from several rewards: seven ways to combine objectives, and what each objective came to.

Owns: group and batch statistics in float64 under masks, and the rule that rounding is no contrast. Must not know: what
an objective measures, tokens, losses, gradients. Legend: N rollouts of the whole step, K objectives, G groups.

Every method is A = sum_k s_k C_k: C_k is the reward less its group's mean, s_k one number a group and objective.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Method = Literal["sum", "sum_unscaled", "advantage_sum", "mo_grpo", "gdpo", "dvao", "sa_mrpo"]
BatchNorm = Literal["rollouts", "tokens", "none"]
Ddof = Literal[0, 1]

_FLAT = 1e-8
"""A spread of no more than this times max(1, |mean|) is rounding: divided by, it would be a spurious full-size push."""
_CANCELLED = 1e-9
"""A sum of no more than this times the sum of its parts' sizes is rounding left over from parts that cancel."""


class ObjectiveFigures(NamedTuple):
    """What each objective came to over the batch, [K] each; NaN where nothing can be said.

    `mean` of its rewards; `spread`: mean group standard deviation; `flat`: share of groups without spread; `missing`:
    share of rollouts without it; `weight`: its share of the push, |s_k| sigma_k over the sum of these, mean over the
    groups with any spread; `correlation` of its centred rewards with the final advantages.
    """

    mean_K: Tensor
    spread_K: Tensor
    flat_K: Tensor
    missing_K: Tensor
    weight_K: Tensor
    correlation_K: Tensor


class Combined(NamedTuple):
    """`advantages_N` are the sum over K of `objective_advantages_NK`, but for a shift under batch_norm = "tokens" and
    for sums that cancel to rounding, which are exactly 0.

    `scales_GK` are s_k with the batch's division in it, `shares_GK` the weights of `ObjectiveFigures` group by group.
    `agreement_G` is c = std(sum_k w_k r_k) / sum_k w_k sigma_k in [0, 1], NaN for a group without spread; groups come
    in the order of their numbers.
    """

    advantages_N: Tensor
    objective_advantages_NK: Tensor
    scales_GK: Tensor
    shares_GK: Tensor
    agreement_G: Tensor
    figures: ObjectiveFigures


class _Stats(NamedTuple):
    """Of valid entries alone: `centred_NK` is exactly 0 where one is missing or its group has no spread."""

    group_N: Tensor
    valid_NK: Tensor
    mean_GK: Tensor
    sigma_GK: Tensor
    counts_GK: Tensor
    centred_NK: Tensor


def combine(
    rewards_NK: Tensor,
    valid_NK: Tensor,
    group_N: Tensor,
    weights_K: Tensor,
    *,
    method: Method,
    ddof: Ddof = 1,
    eps: float = 1e-6,
    power: float = 1.0,
    gamma: float = 1.0,
    batch_norm: BatchNorm = "rollouts",
    lengths_N: Tensor | None = None,
) -> Combined:
    """A = sum_k s_k C_k with C_k = r_k - mean(r_k) in the group, sigma_k its standard deviation, and s_k as follows.

    "sum": w_k / (std(sum_l w_l r_l) + eps), GRPO on the summed reward. "sum_unscaled": w_k (Dr. GRPO, RLCR).
    "advantage_sum": w_k / (sigma_k + eps). "mo_grpo": 1 / (sigma_k + eps), without weights (arXiv 2509.22047; known to
    us from summaries). "gdpo": as advantage_sum, then (A - mean) / (std + eps) over the whole batch (arXiv 2601.05242).
    "sa_mrpo": as gdpo with w_k (1 - m_k)^gamma, m_k the batch's mean reward, for rewards in [0, 1]. "dvao": w_k
    sigma_k^(p-1) / (sum_l w_l sigma_l^p + eps) (arXiv 2605.25604, where p = 1; any other `power` is ours); at p = 1 it
    is "sum" times the agreement c <= 1. That paper has no code, no eps and no rule for a group without spread: here
    such a group gets 0, as under every method.

    A missing entry (`valid_NK` false) is in no statistic and pushes nothing; a group of one, too. The batch's
    statistics are over `rollouts`, each once, or over `tokens` (`lengths_N` each), which is what verl does and breaks
    mean 0 over rollouts. `ddof` holds for groups and batch. Rewards [N, K], groups and lengths whole numbers [N],
    weights [K] >= 0; all in float64, without graph. Raises ValueError for other shapes or a value that is not finite.
    """
    rewards, valid, weights = _checked(rewards_NK, valid_NK, group_N, weights_K)
    stats = _group_stats(rewards, valid, group_N, ddof)
    sum_sigma_G = _sum_sigma(stats, weights, ddof)
    total_spread_G = (weights * stats.sigma_GK).sum(1)
    scales_GK = _scales(stats, rewards, weights, sum_sigma_G, method=method, eps=eps, power=power, gamma=gamma)
    parts_NK = scales_GK[stats.group_N] * stats.centred_NK
    advantages_N = _without_rounding(parts_NK, stats.group_N, len(scales_GK))
    if method in ("gdpo", "sa_mrpo") and batch_norm != "none":
        counted_N = valid.any(1).to(rewards.dtype)
        if batch_norm == "tokens":
            if lengths_N is None or lengths_N.shape != group_N.shape:
                raise ValueError('batch_norm = "tokens" needs lengths_N, one number of tokens a rollout')
            counted_N = counted_N * lengths_N.to(counted_N)
        advantages_N, divisor = _batch_normal(advantages_N, counted_N, stats.group_N, ddof=ddof, eps=eps)
        scales_GK, parts_NK = scales_GK / divisor, parts_NK / divisor
    pushes_GK = scales_GK * stats.sigma_GK
    shares_GK = _ratio(pushes_GK, pushes_GK.sum(1, keepdim=True))
    agreement_G = torch.where(total_spread_G > 0, _ratio(sum_sigma_G, total_spread_G), torch.nan)
    return Combined(
        advantages_N=advantages_N,
        objective_advantages_NK=parts_NK,
        scales_GK=scales_GK,
        shares_GK=shares_GK,
        agreement_G=agreement_G,
        figures=_figures(rewards, stats, shares_GK, advantages_N),
    )


def _scales(
    stats: _Stats,
    rewards: Tensor,
    weights: Tensor,
    sum_sigma_G: Tensor,
    *,
    method: Method,
    eps: float,
    power: float,
    gamma: float,
) -> Tensor:
    sigma_GK = stats.sigma_GK
    spread_GK = sigma_GK > 0
    if method == "mo_grpo":
        weights = torch.ones_like(weights)
    if method == "sa_mrpo":
        weights = weights * (1 - _batch_means(rewards, stats.valid_NK).nan_to_num(0.0).clamp(0, 1)) ** gamma
    if method == "sum_unscaled":
        return weights * spread_GK
    if method == "sum":
        return weights * spread_GK * _ratio((sum_sigma_G > 0).to(weights), sum_sigma_G + eps)[:, None]
    if method == "dvao":
        # Not sigma^p / sigma: at p = 1 nothing may be divided by a tiny sigma.
        numerator_GK = weights * torch.where(spread_GK, sigma_GK, 1.0) ** (power - 1) * spread_GK
        return _ratio(numerator_GK, (weights * sigma_GK**power).sum(1, keepdim=True) + eps)
    return weights * _ratio(spread_GK.to(weights), sigma_GK + eps)


def _group_stats(rewards: Tensor, valid: Tensor, group_N: Tensor, ddof: int) -> _Stats:
    index_N = torch.unique(group_N, return_inverse=True)[1]
    groups = int(index_N.max()) + 1 if len(index_N) else 0
    mask_NK = valid.to(rewards.dtype)
    counts_GK = _group_sums(mask_NK, index_N, groups)
    mean_GK = _group_sums(rewards, index_N, groups) / counts_GK.clamp(min=1)
    # Twice, because the first mean is rounded: what it leaves over would be a spread of its own.
    mean_GK = mean_GK + _group_sums((rewards - mean_GK[index_N]) * mask_NK, index_N, groups) / counts_GK.clamp(min=1)
    centred_NK = (rewards - mean_GK[index_N]) * mask_NK
    squares_GK = _group_sums(centred_NK**2, index_N, groups)
    sigma_GK = (squares_GK / (counts_GK - ddof).clamp(min=1)).sqrt()
    flat_GK = (counts_GK < 2) | (sigma_GK <= _FLAT * mean_GK.abs().clamp(min=1))
    return _Stats(
        group_N=index_N,
        valid_NK=valid,
        mean_GK=mean_GK,
        sigma_GK=sigma_GK.masked_fill(flat_GK, 0.0),
        counts_GK=counts_GK,
        centred_NK=centred_NK.masked_fill(flat_GK[index_N], 0.0),
    )


def _sum_sigma(stats: _Stats, weights: Tensor, ddof: int) -> Tensor:
    """Standard deviation of each group's weighted sum; a missing entry counts as its group's mean."""
    centred_N = _without_rounding(weights * stats.centred_NK, stats.group_N, len(stats.sigma_GK))
    rows_N1 = stats.valid_NK.any(1, keepdim=True).to(centred_N)
    counts_G = _group_sums(rows_N1, stats.group_N, len(stats.sigma_GK))[:, 0]
    squares_G = _group_sums(centred_N[:, None] ** 2, stats.group_N, len(stats.sigma_GK))[:, 0]
    return (squares_G / (counts_G - ddof).clamp(min=1)).sqrt()


def _without_rounding(parts_NK: Tensor, index_N: Tensor, groups: int) -> Tensor:
    """The sum over K, exactly 0 in groups where nothing but rounding is left of it."""
    total_N = parts_NK.sum(1)
    # The largest of a group decides for all of it: one member may really be 0.
    left_G = total_N.new_zeros(groups).scatter_reduce(0, index_N, total_N.abs(), "amax")
    size_G = total_N.new_zeros(groups).scatter_reduce(0, index_N, parts_NK.abs().sum(1), "amax")
    return total_N.masked_fill((left_G <= _CANCELLED * size_G)[index_N], 0.0)


class _Normal(NamedTuple):
    advantages_N: Tensor
    divisor: Tensor


def _batch_normal(advantages_N: Tensor, counted_N: Tensor, index_N: Tensor, *, ddof: int, eps: float) -> _Normal:
    """(A - mean) / (std + eps) over rollouts that count `counted_N` times; groups that are all 0 stay 0."""
    count = counted_N.sum()
    mean = (advantages_N * counted_N).sum() / count.clamp(min=1)
    variance = ((advantages_N - mean) ** 2 * counted_N).sum() / (count - ddof).clamp(min=1)
    std = variance.sqrt()
    divisor = std + eps if bool(std > _FLAT) else torch.ones_like(std)
    # A group that is all 0 teaches nothing, whatever the batch's mean is.
    largest_N = advantages_N.new_zeros(len(index_N)).scatter_reduce(0, index_N, advantages_N.abs(), "amax")[index_N]
    alive_N = (largest_N > 0) & (counted_N > 0)
    return _Normal(torch.where(alive_N, (advantages_N - mean) / divisor, 0.0), divisor)


def _figures(rewards: Tensor, stats: _Stats, shares_GK: Tensor, advantages_N: Tensor) -> ObjectiveFigures:
    measured_GK = (stats.counts_GK > 0).to(rewards.dtype)
    live_G1 = (shares_GK.sum(1, keepdim=True) > 0).to(rewards.dtype)
    product_K = (stats.centred_NK * advantages_N[:, None]).sum(0)
    norms_K = (stats.centred_NK**2).sum(0).sqrt() * (advantages_N[:, None] ** 2 * stats.valid_NK).sum(0).sqrt()
    return ObjectiveFigures(
        mean_K=_batch_means(rewards, stats.valid_NK),
        spread_K=_known(stats.sigma_GK.sum(0), measured_GK.sum(0)),
        flat_K=_known(((stats.sigma_GK == 0) * measured_GK).sum(0), measured_GK.sum(0)),
        missing_K=_known((~stats.valid_NK).to(rewards.dtype).sum(0), torch.full_like(product_K, len(rewards))),
        weight_K=_known((shares_GK * live_G1).sum(0), live_G1.sum().expand(len(product_K))),
        correlation_K=_known(product_K, norms_K),
    )


def _batch_means(rewards: Tensor, valid: Tensor) -> Tensor:
    return _known(rewards.sum(0), valid.to(rewards.dtype).sum(0))


def _group_sums(values_NK: Tensor, index_N: Tensor, groups: int) -> Tensor:
    return values_NK.new_zeros(groups, values_NK.shape[1]).index_add(0, index_N, values_NK)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """0 where there is nothing to divide by."""
    empty = denominator == 0
    return torch.where(empty, 0.0, numerator / torch.where(empty, 1.0, denominator))


def _known(numerator: Tensor, denominator: Tensor) -> Tensor:
    """NaN where there is nothing to divide by."""
    return torch.where(denominator > 0, numerator / torch.where(denominator > 0, denominator, 1.0), torch.nan)


class _Checked(NamedTuple):
    rewards_NK: Tensor
    valid_NK: Tensor
    weights_K: Tensor


def _checked(rewards_NK: Tensor, valid_NK: Tensor, group_N: Tensor, weights_K: Tensor) -> _Checked:
    """The rewards with 0 under the mask, so that NaN there reaches nothing."""
    if rewards_NK.ndim != 2 or valid_NK.shape != rewards_NK.shape:
        raise ValueError(f"rewards_NK is {list(rewards_NK.shape)}, valid_NK {list(valid_NK.shape)}; wanted both [N, K]")
    if group_N.shape != rewards_NK.shape[:1] or weights_K.shape != rewards_NK.shape[1:]:
        raise ValueError(
            f"group_N is {list(group_N.shape)}, weights_K {list(weights_K.shape)}; wanted "
            f"[{rewards_NK.shape[0]}] and [{rewards_NK.shape[1]}]"
        )
    valid = valid_NK.bool()
    bad = (valid & ~torch.isfinite(rewards_NK)).nonzero().tolist()
    if bad:
        n, k = bad[0]
        raise ValueError(f"rewards_NK[{n}, {k}] is {float(rewards_NK[n, k])}; mask it out, or give a finite number")
    weights = weights_K.detach().to(torch.float64)
    if not bool((torch.isfinite(weights) & (weights >= 0)).all()):
        raise ValueError(f"weights_K is {weights.tolist()}; wanted finite numbers of at least 0")
    return _Checked(torch.where(valid, rewards_NK.detach().to(torch.float64), 0.0), valid, weights)
