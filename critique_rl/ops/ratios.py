"""Per-token objectives built on probability ratios, all to MAXIMISE; the caller negates.

Owns: the policy-gradient objectives, the ways to weigh an off-policy refinement token, and means per sequence.
Must not know: which context a log-prob came from beyond its name. Shape legend: N tokens; log-probs in nats.
A token whose behaviour, start or guided log-prob or advantage is not finite is "unknown": its term is NaN, so that
it cannot pass unnoticed, and its gradient is exactly 0, so that a zero weight is enough to leave it out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from critique_rl.ops.precision import at_least_float32, require_same_shape

Objective = Literal["clip", "cispo", "gspo", "reinforce"]
RatioMode = Literal["shaped", "awr", "oc_is", "in_context"]

_LOG_RATIO_LIMIT = 20.0


def policy_objective(
    policy_logprobs_N: Tensor,
    behaviour_logprobs_N: Tensor,
    advantages_N: Tensor,
    weights_N: Tensor,
    lengths: Sequence[int],
    *,
    objective: Objective = "clip",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    tis_cap: float | None = None,
) -> Tensor:
    """The policy-gradient term of each token under the objective of that name; see the function of each.

    With r = exp(log p - log b), s the geometric mean of r over a sequence, sg a constant:

    =========  ======================================  ==========================================
    objective  term                                    gradient, as a factor of A grad log p
    =========  ======================================  ==========================================
    clip       min(r A, clip(r) A)                     r, 0 where the clip binds
    gspo       min(s A, clip(s) A)                     s, 0 for a whole sequence whose clip binds
    cispo      sg[min(r, 1 + clip_high)] A log p       min(r, 1 + clip_high): never 0
    reinforce  sg[min(r, tis_cap)] A log p             min(r, tis_cap), or 1 without a cap
    =========  ======================================  ==========================================

    Tokens lie sequence by sequence: `lengths` are token counts that add up to N, and `weights_N` is 0 on tokens that
    do not count (only gspo reads both). All [N] -> [N]. Raises ValueError for `tis_cap` with any other objective: r and
    s already hold p / b, sampler mismatch included, so that a second factor would correct for it twice.
    """
    if tis_cap is not None and objective != "reinforce":
        raise ValueError(
            f"tis_cap is {tis_cap} with objective {objective!r}, whose ratio to the behaviour policy already corrects "
            "for the sampler: leave tis_cap out, or use objective 'reinforce'"
        )
    if objective == "clip":
        return clipped_surrogate(
            policy_logprobs_N,
            behaviour_logprobs_N,
            advantages_N,
            clip_low=clip_low,
            clip_high=clip_high,
            dual_clip=dual_clip,
        )
    if objective == "gspo":
        return sequence_clipped_surrogate(
            policy_logprobs_N,
            behaviour_logprobs_N,
            advantages_N,
            weights_N,
            lengths,
            clip_low=clip_low,
            clip_high=clip_high,
        )
    if objective == "cispo":
        return score_objective(policy_logprobs_N, behaviour_logprobs_N, advantages_N, cap=1 + clip_high)
    if objective == "reinforce":
        return score_objective(policy_logprobs_N, behaviour_logprobs_N, advantages_N, cap=tis_cap)
    raise ValueError(f"objective is {objective!r}; wanted 'clip', 'cispo', 'gspo' or 'reinforce'")


def importance_ratios(
    policy_logprobs_N: Tensor,
    behaviour_logprobs_N: Tensor,
    weights_N: Tensor,
    lengths: Sequence[int],
    *,
    objective: Objective,
) -> Tensor:
    """The ratio that `objective` clips, for reports: s of a token's sequence for gspo, else r of the token.

    All [N] -> [N], without gradient; NaN where the behaviour log-prob is unknown, 0 weight tokens included.
    """
    if objective == "gspo":
        return _sequence_ratio(policy_logprobs_N, behaviour_logprobs_N, weights_N, lengths)
    require_same_shape(policy_logprobs_N=policy_logprobs_N, behaviour_logprobs_N=behaviour_logprobs_N)
    policy = at_least_float32(policy_logprobs_N).detach()
    known = _known(behaviour_logprobs_N)
    return _nan_unless(known, _ratio(policy, _where_known(known, behaviour_logprobs_N, policy)))


def clipped_surrogate(
    policy_logprobs_N: Tensor,
    behaviour_logprobs_N: Tensor,
    advantages_N: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
) -> Tensor:
    """J = min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) with r = exp(log p - log b).

    PPO (arXiv 1707.06347); unequal clips: DAPO (arXiv 2503.14476); `dual_clip` c > 1 bounds J from below by c A where
    A < 0 (arXiv 1912.09729). Log-ratios are clamped to +-20. All [N] -> [N]. Behaviour log-probs and advantages get no
    gradient. Raises ValueError for differing shapes or clips out of range.
    """
    require_same_shape(
        policy_logprobs_N=policy_logprobs_N, behaviour_logprobs_N=behaviour_logprobs_N, advantages_N=advantages_N
    )
    _check_clips(clip_low, clip_high)
    if dual_clip is not None and not dual_clip > 1:
        raise ValueError(f"dual_clip is {dual_clip}; wanted a number above 1, or None for no lower bound")
    policy = at_least_float32(policy_logprobs_N)
    known = _known(behaviour_logprobs_N, advantages_N)
    advantages = _where_known(known, advantages_N, policy.new_zeros(()))
    ratio = _ratio(policy, _where_known(known, behaviour_logprobs_N, policy))
    objective = torch.minimum(ratio * advantages, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)
    if dual_clip is not None:
        objective = torch.where(advantages < 0, torch.maximum(objective, dual_clip * advantages), objective)
    return _nan_unless(known, objective)


def sequence_clipped_surrogate(
    policy_logprobs_N: Tensor,
    behaviour_logprobs_N: Tensor,
    advantages_N: Tensor,
    weights_N: Tensor,
    lengths: Sequence[int],
    *,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
) -> Tensor:
    """J_t = min(s_t A_t, clip(s_t) A_t), s_t = sg[s] p_t / sg[p_t], s = exp(mean over its tokens of log p - log b).

    GSPO in its token form (arXiv 2507.18071, eq. 13-14): the value is the sequence's, the gradient the token's own.
    With one advantage per sequence and `sequence_mean_weights` it is GSPO itself. Its clips are of the order 1e-4: a
    sampler whose log-probs differ from the trainer's by that much on average is clipped for that alone. All [N] -> [N];
    a sequence with one unknown behaviour log-prob under a weight above 0 is unknown as a whole. Raises ValueError for
    differing shapes, lengths that do not add up to N, or clips out of range.
    """
    require_same_shape(
        policy_logprobs_N=policy_logprobs_N,
        behaviour_logprobs_N=behaviour_logprobs_N,
        advantages_N=advantages_N,
        weights_N=weights_N,
    )
    _check_clips(clip_low, clip_high)
    policy = at_least_float32(policy_logprobs_N)
    value = _sequence_ratio(policy, behaviour_logprobs_N, weights_N, lengths)
    known = _known(value, advantages_N)
    advantages = _where_known(known, advantages_N, policy.new_zeros(()))
    ratio = _where_known(known, value, policy.new_ones(())) * torch.exp(policy - policy.detach())
    objective = torch.minimum(ratio * advantages, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)
    return _nan_unless(known, objective)


def score_objective(
    policy_logprobs_N: Tensor, behaviour_logprobs_N: Tensor, advantages_N: Tensor, *, cap: float | None = None
) -> Tensor:
    """J = w A log p with the constant w = min(p / b, cap), or w = 1 without a cap, where b is not read at all.

    REINFORCE as RLOO uses it (arXiv 2402.14740); with a cap, truncated importance sampling, which for cap = 1 +
    clip_high is CISPO's upper clip (arXiv 2506.13585): a capped token keeps its gradient at weight `cap`. The value is
    a surrogate, only its gradient means something. Log-ratios are clamped to +-20. All [N] -> [N]. Raises ValueError
    for differing shapes or a cap that is not above 0.
    """
    require_same_shape(
        policy_logprobs_N=policy_logprobs_N, behaviour_logprobs_N=behaviour_logprobs_N, advantages_N=advantages_N
    )
    policy = at_least_float32(policy_logprobs_N)
    if cap is None:
        known, weight = _known(advantages_N), policy.new_ones(())
    else:
        if not cap > 0:
            raise ValueError(f"cap is {cap}; wanted a number above 0, or None for no importance weight")
        known = _known(behaviour_logprobs_N, advantages_N)
        weight = _ratio(policy.detach(), _where_known(known, behaviour_logprobs_N, policy)).clamp(max=cap)
    return _nan_unless(known, weight * _where_known(known, advantages_N, policy.new_zeros(())) * policy)


def sequence_mean_weights(weights_N: Tensor, lengths: Sequence[int]) -> Tensor:
    """w_t / n_i, n_i the number of tokens of t's sequence with a weight above 0; weights of 0 stay 0.

    Summed and divided by the number of sequences with any such token, terms become the mean over tokens per sequence,
    then over sequences, of GRPO (arXiv 2402.03300). Trap: a long wrong answer is pushed less per token than a short
    one (arXiv 2503.20783). Sequences must not be cut in two by micro-batches. [N] -> [N]. Raises ValueError if
    `lengths` do not add up to N.
    """
    weights = at_least_float32(weights_N)
    counts = _per_sequence((weights > 0).to(weights.dtype), lengths)
    return weights / counts.clamp(min=1)


def shaping_weight(logprobs: Tensor, gamma: float) -> Tensor:
    """f(p) = p / (p + gamma) from log p, as sigmoid(log p - log gamma): exact at any p, gradient Psi(p).

    Policy shaping of LUFFY (arXiv 2504.14945) and Critique-GRPO (arXiv 2506.03106). Any shape. Raises ValueError
    unless 0 < gamma < 1.
    """
    _check_gamma(gamma)
    return torch.sigmoid(at_least_float32(logprobs) - math.log(gamma))


def shaping_gradient_weight(logprobs: Tensor, gamma: float) -> Tensor:
    """Psi(p) = gamma p / (p + gamma)^2 = d f / d log p: what a shaped token's grad log p is multiplied by.

    At most 1/4, at p = gamma; Psi(gamma^2 / p) = Psi(p); 0 as p -> 0 (Critique-GRPO, arXiv 2506.03106). Any shape.
    """
    weight = shaping_weight(logprobs, gamma)
    return weight * torch.sigmoid(math.log(gamma) - at_least_float32(logprobs))


def refinement_objective(
    policy_logprobs_N: Tensor,
    advantages_N: Tensor,
    *,
    mode: RatioMode,
    gamma: float = 0.1,
    start_logprobs_N: Tensor | None = None,
    guided_logprobs_N: Tensor | None = None,
    cap: float = 2.0,
    logprob_floor: float = -5.0,
    awr_coefficient: float = 0.1,
    clip: float = 0.2,
) -> Tensor:
    """Objective of refinement tokens y', with p = pi(y'_t | q, y'_<t) under the bare prompt but for in_context.

    ==========  ============================  ===================================  ==================================
    mode        objective                     A times grad log p, first epoch      needs
    ==========  ============================  ===================================  ==================================
    shaped      A p / (p + gamma)             Psi(p) = gamma p / (p + gamma)^2     nothing else
    awr         c A p / p0, 0 for p0 < floor  c = awr_coefficient                  start: log p0, bare prompt
    oc_is       A min(p / b, cap)             min(p / b, cap)                      guided: log b, refine context
    in_context  min(r A, clip(r) A), r = p/b  1                                    guided; p under the refine context
    ==========  ============================  ===================================  ==================================

    shaped: Critique-GRPO (arXiv 2506.03106), WITHOUT its printed clip: that one would freeze every token with
    p < gamma (1 - eps) / eps when A < 0. awr: RLTF (arXiv 2602.02482). oc_is is the true importance ratio; a capped
    token keeps the constant weight `cap` on grad log p, as in truncated importance sampling, and is not dropped.
    in_context teaches what to do with guidance in view (Scaf-GRPO, arXiv 2510.19807). Log-ratios are clamped to +-20.
    All [N] -> [N]. Raises ValueError if the input that `mode` needs is missing, or a shape or number does not fit.
    """
    require_same_shape(policy_logprobs_N=policy_logprobs_N, advantages_N=advantages_N)
    policy = at_least_float32(policy_logprobs_N)
    if mode == "shaped":
        known = _known(advantages_N)
        objective = _where_known(known, advantages_N, policy.new_zeros(())) * shaping_weight(policy, gamma)
        return _nan_unless(known, objective)
    if mode == "awr":
        start = _needed(start_logprobs_N, policy, "start_logprobs_N", mode, "those of y' at sampling, bare prompt")
        known = _known(start, advantages_N)
        start = _where_known(known, start, policy)
        kept = torch.where(start >= logprob_floor, awr_coefficient * _ratio(policy, start), policy.new_zeros(()))
        return _nan_unless(known, _where_known(known, advantages_N, policy.new_zeros(())) * kept)
    if mode in ("oc_is", "in_context"):
        guided = _needed(guided_logprobs_N, policy, "guided_logprobs_N", mode, "those of y', refine context")
        if mode == "in_context":
            return clipped_surrogate(policy, guided, advantages_N, clip_low=clip, clip_high=clip)
        if not cap > 0:
            raise ValueError(f"cap is {cap}; wanted a number above 0")
        known = _known(guided, advantages_N)
        weight = _ratio(policy.detach(), _where_known(known, guided, policy)).clamp(max=cap)
        # Value `weight`, gradient weight * grad log p, capped or not; a plain clamp would drop capped tokens.
        score = weight * torch.exp(policy - policy.detach())
        return _nan_unless(known, _where_known(known, advantages_N, policy.new_zeros(())) * score)
    raise ValueError(f"mode is {mode!r}; wanted 'shaped', 'awr', 'oc_is' or 'in_context'")


def _sequence_ratio(policy: Tensor, behaviour: Tensor, weights: Tensor, lengths: Sequence[int]) -> Tensor:
    """Geometric mean of p / b over the tokens of a sequence that count, at each of its tokens; no gradient."""
    require_same_shape(policy_logprobs_N=policy, behaviour_logprobs_N=behaviour, weights_N=weights)
    policy = at_least_float32(policy).detach()
    counted = weights > 0
    # A missing log-prob (NaN, or inf - inf) makes its sequence's mean NaN; one under a zero weight is not looked at.
    log_ratio = torch.where(counted, policy - behaviour.detach().to(policy.dtype), policy.new_zeros(()))
    counts = _per_sequence(counted.to(policy.dtype), lengths)
    mean = _per_sequence(log_ratio, lengths) / counts.clamp(min=1)
    return _nan_unless(_known(mean), torch.exp(mean.clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT)))


def _per_sequence(values: Tensor, lengths: Sequence[int]) -> Tensor:
    """Each sequence's sum, at each of its tokens."""
    if values.ndim != 1 or sum(lengths) != values.shape[0]:
        raise ValueError(f"lengths add up to {sum(lengths)} for tokens of shape {list(values.shape)}; wanted equal")
    if not lengths:
        return values
    sums = torch.stack([part.sum() for part in values.split(list(lengths))])
    repeats = torch.tensor(list(lengths), device=values.device)
    return sums.repeat_interleave(repeats, output_size=values.shape[0])


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    return torch.exp((numerator - denominator).clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT))


def _known(*inputs: Tensor) -> Tensor:
    known = torch.isfinite(inputs[0])
    for other in inputs[1:]:
        known = known & torch.isfinite(other)
    return known


def _where_known(known: Tensor, values: Tensor, fallback: Tensor) -> Tensor:
    return torch.where(known, values.detach().to(fallback.dtype), fallback.detach())


def _nan_unless(known: Tensor, objective: Tensor) -> Tensor:
    return torch.where(known, objective, objective.new_full((), math.nan))


def _needed(values: Tensor | None, like: Tensor, name: str, mode: str, meaning: str) -> Tensor:
    if values is None:
        raise ValueError(f"mode {mode!r} needs {name} ({meaning}) but got None; pass it, or use mode 'shaped'")
    require_same_shape(**{"policy_logprobs_N": like, name: values})
    return values


def _check_clips(clip_low: float, clip_high: float) -> None:
    if not (0 <= clip_low < 1 and clip_high >= 0):
        raise ValueError(f"clip_low is {clip_low}, clip_high {clip_high}; wanted 0 <= clip_low < 1 and clip_high >= 0")


def _check_gamma(gamma: float) -> None:
    if not 0 < gamma < 1:
        raise ValueError(f"gamma is {gamma}; wanted a number between 0 and 1, both excluded (0.1 is the usual choice)")
