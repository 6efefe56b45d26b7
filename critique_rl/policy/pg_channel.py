"""The policy-gradient channel of a step: its terms, weights and denominator, and what of it is reported.

Owns: which options of [loss] do what to which token. Must not know: models, methods, the other two channels.
Legend: N response tokens of a micro-batch, rollout by rollout; everything is to MINIMISE.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from critique_rl.config.loss import LossConfig
from critique_rl.ops.covariance import kl_cov_penalty, unclipped_surrogate
from critique_rl.ops.fused import HeadTerms
from critique_rl.ops.penalties import EntropyWeight, adapt_entropy_weight, kl_penalty
from critique_rl.ops.ratios import importance_ratios, policy_objective, sequence_mean_weights
from critique_rl.policy.streams import Streams, active
from critique_rl.types import TrainSample


class PgTokens(NamedTuple):
    """Sums over the tokens of the channel in one micro-batch, for the report."""

    tokens: float
    clipped: float
    ratio_sum: float
    entropy_sum: float
    kl_sum: float


def pg_terms(terms: HeadTerms, streams: Streams, loss: LossConfig, *, entropy_weight: float) -> Tensor:
    """-J + kl_weight * KL estimate - entropy_weight * H of each token; the two additions share J's weights."""
    logprobs_N = terms.logprobs_N
    terms_N = _objective_terms(logprobs_N, streams, loss)
    if loss.kl_weight > 0:
        reference_N = streams.reference_N.to(logprobs_N.dtype)
        terms_N = terms_N + loss.kl_weight * kl_penalty(logprobs_N, reference_N, kind=loss.kl_kind)
    if entropy_weight > 0:
        assert terms.entropy_N is not None
        terms_N = terms_N - entropy_weight * terms.entropy_N
    return terms_N


def _objective_terms(logprobs_N: Tensor, streams: Streams, loss: LossConfig) -> Tensor:
    """-J, without a clip under KL-Cov; 0 where Clip-Cov drops the token, which is counted all the same."""
    behaviour_N = streams.behaviour_N.to(logprobs_N.dtype)
    advantages_N = streams.advantages_N.to(logprobs_N.dtype)
    if loss.kl_cov_share > 0:
        terms_N = -unclipped_surrogate(logprobs_N, behaviour_N, advantages_N)
        if streams.held_N is not None:
            held_N = loss.kl_cov_weight * kl_cov_penalty(logprobs_N, behaviour_N)
            terms_N = terms_N + torch.where(streams.held_N, held_N, torch.zeros_like(held_N))
        return terms_N
    terms_N = -policy_objective(
        logprobs_N,
        behaviour_N,
        advantages_N,
        streams.pg_N.to(logprobs_N.dtype),
        streams.lengths,
        objective=loss.objective,
        clip_low=loss.clip_low,
        clip_high=loss.clip_high,
        dual_clip=loss.dual_clip,
        tis_cap=loss.tis_cap,
    )
    if streams.dropped_N is not None:
        terms_N = torch.where(streams.dropped_N, torch.zeros_like(terms_N), terms_N)
    return terms_N


def pg_weights(weights_N: Tensor, lengths: Sequence[int], loss: LossConfig) -> Tensor:
    """The tokens' weights as [loss] adds them up: shared out inside each rollout for "sequences", else as they are."""
    return sequence_mean_weights(weights_N, lengths) if loss.normalizer == "sequences" else weights_N


def pg_denominator(samples: Sequence[TrainSample], loss: LossConfig, *, max_completion_tokens: int) -> float:
    """Active tokens, rollouts with any, or for "constant" the padded size of these (Dr.GRPO)."""
    counts = [int(active(s, s.pg_weight).sum()) for s in samples]
    rows = sum(count > 0 for count in counts)
    return float({"constant": rows * max_completion_tokens, "sequences": rows, "tokens": sum(counts)}[loss.normalizer])


def entropy_weight(samples: Sequence[TrainSample], loss: LossConfig, *, coefficient: float) -> EntropyWeight:
    """The weight of the bonus for this batch and the coefficient that it leaves, from the rollouts' own entropy."""
    if loss.entropy_target is None:
        return EntropyWeight(loss.entropy_weight, coefficient)
    on = [active(s, s.pg_weight) > 0 for s in samples]
    sampled = np.concatenate([np.zeros(0), *(s.behaviour_logprobs[at] for s, at in zip(samples, on, strict=True))])
    # The sampled tokens' mean surprise, known before the forward pass, so that no split of the batch changes it.
    seen = -float(sampled.mean()) if sampled.size else math.nan
    return adapt_entropy_weight(coefficient, seen, loss.entropy_target)


@torch.no_grad()
def pg_tokens(terms: HeadTerms, streams: Streams, loss: LossConfig) -> PgTokens:
    """How many tokens there were, and how many lie outside what the objective clips or caps."""
    on_N = streams.pg_N > 0
    ratio_N = importance_ratios(
        terms.logprobs_N, streams.behaviour_N, streams.pg_N, streams.lengths, objective=loss.objective
    )[on_N]
    lowest = 1 - loss.clip_low if loss.objective in ("clip", "gspo") else 0.0
    highest = (loss.tis_cap or math.inf) if loss.objective == "reinforce" else 1 + loss.clip_high
    if loss.kl_cov_share > 0:
        lowest, highest = 0.0, math.inf
    assert terms.entropy_N is not None
    kl = (terms.logprobs_N - streams.reference_N)[on_N].sum() if loss.kl_weight > 0 else ratio_N.new_zeros(())
    return PgTokens(
        float(on_N.sum()),
        float(((ratio_N < lowest) | (ratio_N > highest)).sum()),
        float(ratio_N.sum()),
        float(terms.entropy_N[on_N].sum()),
        float(kl),
    )
