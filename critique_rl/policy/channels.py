"""The three losses of one micro-batch, and what each is divided by over the whole step.

Owns: which stream of a sample goes into which channel with which options. Must not know: micro-batches, ranks, weights.
Legend: N response tokens of a micro-batch, M of them with a teacher, K support size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from critique_rl.config.algorithm import GAP_CLIP, TARGET_MIX, DistillationConfig, RefinementConfig
from critique_rl.config.distillation import SURROGATE_CLIPS
from critique_rl.config.loss import LossConfig
from critique_rl.config.policy import OptimizerConfig
from critique_rl.config.refinement import AWR_COEFFICIENT, AWR_FLOOR, RATIO_CAP
from critique_rl.errors import ConfigError
from critique_rl.ops.divergences import topk_tail_divergence
from critique_rl.ops.fused import HeadTerms
from critique_rl.ops.gradient_combiners import GradientCombiner
from critique_rl.ops.losses import channel_sum, joint
from critique_rl.ops.ratios import refinement_objective
from critique_rl.ops.support_surrogate import support_surrogate
from critique_rl.ops.targets import target_logprobs
from critique_rl.policy.pg_channel import PgTokens, pg_denominator, pg_terms, pg_tokens, pg_weights
from critique_rl.policy.streams import Directives, Streams, active, distilled
from critique_rl.types import TrainSample


class Denominators(NamedTuple):
    """What each channel's sum is divided by: fixed for the whole batch before it is split."""

    pg: float
    distill: float
    imitate: float


class StepConfig(NamedTuple):
    """The loss options the step reads, and the sampling facts it must share with the engine.

    `gradient_combiner` joins the gradients of `TrainSample.objective_advantages` (None: `advantages` are learned from).
    The conflict of the channels' gradients is measured `conflict_every` steps after the latest time (0: never).
    """

    loss: LossConfig
    refinement: RefinementConfig
    distillation: DistillationConfig
    optimizer: OptimizerConfig
    temperature: float
    max_completion_tokens: int
    gradient_combiner: GradientCombiner | None = None
    conflict_every: int = 0


def count_denominators(samples: Sequence[TrainSample], config: StepConfig) -> Denominators:
    """Each channel's denominator: its active tokens, or for "constant" the padded size of all rollouts (Dr.GRPO)."""
    pg = pg_denominator(samples, config.loss, max_completion_tokens=config.max_completion_tokens)
    imitate = sum(int(active(s, s.imitate_weight).sum()) for s in samples)
    distill = sum(int(distilled(s).sum()) for s in samples)
    return Denominators(pg, float(distill), float(pg if config.refinement.normalizer == "shared" else imitate))


class ChannelSums(NamedTuple):
    """One micro-batch's part of each channel, with graph, and what of it is reported."""

    total: torch.Tensor
    pg: torch.Tensor
    distill: torch.Tensor
    imitate: torch.Tensor
    pg_tokens: PgTokens


def channel_sums(
    terms: HeadTerms,
    streams: Streams,
    taught: Directives | None,
    config: StepConfig,
    denominators: Denominators,
    *,
    entropy_weight: float,
) -> ChannelSums:
    """The micro-batch's losses, each over its channel's denominator of the whole step; micro-batches add up."""
    logprobs_N = terms.logprobs_N
    loss = config.loss
    pg = channel_sum(
        pg_terms(terms, streams, loss, entropy_weight=entropy_weight),
        pg_weights(streams.pg_N.to(logprobs_N.dtype), streams.lengths, loss),
        denominators.pg,
    )
    imitate = _imitate(logprobs_N, streams, config, denominators.imitate)
    distill = _distill(terms, taught, config.distillation, denominators.distill)
    total = joint(
        pg,
        distill,
        imitate,
        distill_coefficient=config.distillation.weight,
        imitate_coefficient=config.refinement.weight,
    )
    return ChannelSums(total, pg, distill, imitate, pg_tokens(terms, streams, loss))


def _imitate(logprobs_N: torch.Tensor, streams: Streams, config: StepConfig, denominator: float) -> torch.Tensor:
    if not bool((streams.imitate_N > 0).any()):
        return logprobs_N.new_zeros(())
    refinement = config.refinement
    terms_N = -refinement_objective(
        logprobs_N,
        streams.advantages_N.to(logprobs_N.dtype),
        mode=refinement.ratio_mode,
        gamma=refinement.gamma,
        start_logprobs_N=streams.behaviour_N.to(logprobs_N.dtype),
        guided_logprobs_N=streams.guided_N.to(logprobs_N.dtype),
        cap=RATIO_CAP if refinement.ratio_cap is None else refinement.ratio_cap,
        logprob_floor=AWR_FLOOR if refinement.awr_floor is None else refinement.awr_floor,
        awr_coefficient=AWR_COEFFICIENT if refinement.awr_coefficient is None else refinement.awr_coefficient,
    )
    weights_N = streams.imitate_N.to(logprobs_N.dtype)
    if refinement.normalizer == "shared":
        weights_N = pg_weights(weights_N, streams.lengths, config.loss)
    return channel_sum(terms_N, weights_N, denominator)


def _distill(
    terms: HeadTerms, taught: Directives | None, options: DistillationConfig, denominator: float
) -> torch.Tensor:
    student_MK = terms.support_MK
    if taught is None:
        return student_MK.new_zeros(())
    terms_M = _divergence(student_MK, taught, options, vocabulary=terms.vocabulary)
    return channel_sum(terms_M, taught.weights_M.to(terms_M.dtype), denominator)


def _divergence(
    student_MK: torch.Tensor, taught: Directives, options: DistillationConfig, *, vocabulary: int
) -> torch.Tensor:
    if options.divergence == "topk_surrogate":
        return _surrogate(student_MK, taught, options)
    whole_vocabulary = student_MK.shape[1] >= vocabulary
    target_MK = target_logprobs(
        student_MK,
        taught.teacher_MK.to(student_MK.dtype),
        kind=options.target,
        mix=TARGET_MIX if options.mix is None else options.mix,
        gap_clip=GAP_CLIP if options.gap_clip is None else options.gap_clip,
        tail=options.tail,
        whole_vocabulary=whole_vocabulary,
    )
    return topk_tail_divergence(
        student_MK,
        target_MK,
        kind=options.divergence,
        jsd_alpha=options.jsd_alpha,
        tail=options.tail,
        whole_vocabulary=whole_vocabulary,
        entry_clip=options.entry_clip,
    )


def _surrogate(student_MK: torch.Tensor, taught: Directives, options: DistillationConfig) -> torch.Tensor:
    if taught.behaviour_MK is None:
        raise ConfigError(
            'distillation.divergence = "topk_surrogate" came with targets that lack student_logprobs_TK on some row; '
            "wanted the policy's log-probs at their ids when they were made: take them in the pass that made the "
            "targets, or choose another divergence"
        )
    low, high = SURROGATE_CLIPS
    return support_surrogate(
        student_MK,
        taught.behaviour_MK.to(student_MK.dtype),
        taught.teacher_MK.to(student_MK.dtype),
        gap_clip=GAP_CLIP if options.gap_clip is None else options.gap_clip,
        clip_low=low if options.ratio_clip_low is None else options.ratio_clip_low,
        clip_high=high if options.ratio_clip_high is None else options.ratio_clip_high,
    )
