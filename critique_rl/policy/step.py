"""The two-channel training step: one forward pass, three weighted sums, one optimiser step.

Owns: global denominators, micro-batching, gradient clipping, and skipping a step that has nothing to learn or a
non-finite gradient. Must not know: critics, critiques, methods. A new method stamps other weights; this file stays.

Legend: N response tokens of a micro-batch, M of them with a teacher, K support size.

    L = L_pg / D_pg + w_d * L_distill / D_distill + w_i * L_imitate / D_imitate

Each D counts that channel's own tokens over the whole batch, before it is cut into micro-batches, so no channel dilutes
another and no split of the batch changes the gradient. One process: nothing is reduced over ranks yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from critique_rl.config.algorithm import DistillationConfig, RefinementConfig
from critique_rl.config.run import LossConfig, OptimizerConfig
from critique_rl.ops.divergences import topk_tail_divergence
from critique_rl.ops.fused import HeadTerms
from critique_rl.ops.losses import channel_sum, joint
from critique_rl.ops.penalties import EntropyWeight
from critique_rl.ops.ratios import refinement_objective
from critique_rl.policy.batching import micro_batches
from critique_rl.policy.head import ResponseHead
from critique_rl.policy.pg_channel import PgTokens, entropy_weight, pg_denominator, pg_terms, pg_tokens, pg_weights
from critique_rl.policy.streams import Directives, Streams, active, carries_gradient, directives, distilled
from critique_rl.protocols import StepReport
from critique_rl.types import TrainSample


class Denominators(NamedTuple):
    """What each channel's sum is divided by: fixed for the whole batch before it is split."""

    pg: float
    distill: float
    imitate: float


class StepConfig(NamedTuple):
    """The loss options the step reads, and the sampling facts it must share with the engine."""

    loss: LossConfig
    refinement: RefinementConfig
    distillation: DistillationConfig
    optimizer: OptimizerConfig
    temperature: float
    max_completion_tokens: int


def count_denominators(samples: Sequence[TrainSample], config: StepConfig) -> Denominators:
    """Each channel's denominator: its active tokens, or for "constant" the padded size of all rollouts (Dr.GRPO)."""
    pg = pg_denominator(samples, config.loss, max_completion_tokens=config.max_completion_tokens)
    imitate = sum(int(active(s, s.imitate_weight).sum()) for s in samples)
    distill = sum(int(distilled(s).sum()) for s in samples)
    return Denominators(pg, float(distill), float(pg if config.refinement.normalizer == "shared" else imitate))


class TwoChannelStep:
    """Turns train samples into one optimiser step on `model`."""

    def __init__(
        self, model: PreTrainedModel, head: ResponseHead, accelerator: Accelerator, config: StepConfig, pad_id: int
    ) -> None:
        self.model = model
        self.head = head
        self.accelerator = accelerator
        self.config = config
        self.pad_id = pad_id
        options = config.optimizer
        self.optimizer = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad],
            lr=options.learning_rate,
            betas=(options.beta1, options.beta2),
            weight_decay=options.weight_decay,
        )
        self.steps_taken = 0
        self.entropy_coefficient = config.loss.entropy_weight

    def __call__(self, samples: Sequence[TrainSample]) -> StepReport:
        """Accumulate the gradient of all samples and apply it once; skip if nothing or nothing finite came out."""
        self.optimizer.zero_grad(set_to_none=True)
        sums = self.accumulate(samples)
        if sums is None:
            return _skipped("no sample carries a gradient")
        norm = float(
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimizer.max_grad_norm).item()
        )
        if not np.isfinite(norm) or not np.isfinite(sums.loss):
            self.optimizer.zero_grad(set_to_none=True)
            return _skipped(f"the loss is {sums.loss}, the gradient norm {norm}", sums=sums, norm=norm)
        warmup = self.config.optimizer.warmup_steps
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.optimizer.learning_rate * min(1.0, (self.steps_taken + 1) / max(1, warmup))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps_taken += 1
        self.entropy_coefficient = self._entropy_weight(samples).carried
        return sums._replace(grad_norm=norm, applied=True)

    def _entropy_weight(self, samples: Sequence[TrainSample]) -> EntropyWeight:
        return entropy_weight(samples, self.config.loss, coefficient=self.entropy_coefficient)

    def accumulate(self, samples: Sequence[TrainSample], *, max_tokens: int | None = None) -> StepReport | None:
        """Add the whole batch's gradient to `.grad` without stepping; None if no sample carries one."""
        denominators = count_denominators(samples, self.config)
        bonus = self._entropy_weight(samples).applied
        regularised = self.config.loss.kl_weight > 0 or bonus > 0
        rows = [s for s in samples if carries_gradient(s, regularised=regularised)]
        if not rows:
            return None
        totals = np.zeros(4)
        pg = np.zeros(len(PgTokens._fields))
        for batch in micro_batches(
            [s.prompt_ids for s in rows],
            [s.completion_ids for s in rows],
            max_tokens=max_tokens or self.config.optimizer.micro_batch_tokens,
            pad_id=self.pad_id,
            device=self.accelerator.device,
        ):
            batch_rows = [rows[i] for i in batch.rows]
            taught = directives(batch_rows, self.accelerator.device)
            with self.accelerator.autocast():
                terms = self.head(
                    batch,
                    temperature=self.config.temperature,
                    rows_M=None if taught is None else taught.rows_M,
                    ids_MK=None if taught is None else taught.ids_MK,
                    entropy=True,
                )
            streams = Streams(batch_rows, self.accelerator.device)
            losses = self._losses(terms, streams, taught, denominators, bonus)
            self.accelerator.backward(losses.total)
            totals += np.array([float(x.detach()) for x in (losses.total, losses.pg, losses.distill, losses.imitate)])
            pg += np.array(losses.pg_tokens)
        seen = PgTokens(*pg.tolist())
        return StepReport(
            loss=float(totals[0]),
            pg_loss=float(totals[1]),
            distill_loss=float(totals[2]),
            imitate_loss=float(totals[3]),
            grad_norm=0.0,
            trained_tokens=sum(len(s.completion_ids) for s in rows),
            applied=False,
            reason="",
            diagnostics={
                "rows/trained": float(len(rows)),
                "tokens/distill": denominators.distill,
                "tokens/imitate": float(sum(int(active(s, s.imitate_weight).sum()) for s in samples)),
                "ratio/mean": seen.ratio_sum / seen.tokens if seen.tokens else 1.0,
                "ratio/clip_fraction": seen.clipped / seen.tokens if seen.tokens else 0.0,
                **({"policy/entropy": seen.entropy_sum / seen.tokens} if seen.tokens else {}),
                **({"policy/kl": seen.kl_sum / seen.tokens} if seen.tokens and self.config.loss.kl_weight > 0 else {}),
                **({"policy/entropy_weight": bonus} if self.config.loss.entropy_target is not None else {}),
            },
        )

    def _losses(
        self,
        terms: HeadTerms,
        streams: Streams,
        taught: Directives | None,
        denominators: Denominators,
        bonus: float,
    ) -> _Losses:
        logprobs_N = terms.logprobs_N
        loss = self.config.loss
        pg = channel_sum(
            pg_terms(terms, streams, loss, entropy_weight=bonus),
            pg_weights(streams.pg_N.to(logprobs_N.dtype), streams.lengths, loss),
            denominators.pg,
        )
        imitate = self._imitate(logprobs_N, streams, denominators.imitate)
        distill = self._distill(terms, taught, denominators.distill)
        total = joint(
            pg,
            distill,
            imitate,
            distill_coefficient=self.config.distillation.weight,
            imitate_coefficient=self.config.refinement.weight,
        )
        return _Losses(total, pg, distill, imitate, pg_tokens(terms, streams, loss))

    def _imitate(self, logprobs_N: torch.Tensor, streams: Streams, denominator: float) -> torch.Tensor:
        if not bool((streams.imitate_N > 0).any()):
            return logprobs_N.new_zeros(())
        refinement = self.config.refinement
        terms_N = -refinement_objective(
            logprobs_N,
            streams.advantages_N.to(logprobs_N.dtype),
            mode=refinement.ratio_mode,
            gamma=refinement.gamma,
            start_logprobs_N=streams.behaviour_N.to(logprobs_N.dtype),
            guided_logprobs_N=streams.guided_N.to(logprobs_N.dtype),
        )
        weights_N = streams.imitate_N.to(logprobs_N.dtype)
        if refinement.normalizer == "shared":
            weights_N = pg_weights(weights_N, streams.lengths, self.config.loss)
        return channel_sum(terms_N, weights_N, denominator)

    def _distill(self, terms: HeadTerms, taught: Directives | None, denominator: float) -> torch.Tensor:
        student_MK = terms.support_MK
        if taught is None:
            return student_MK.new_zeros(())
        options = self.config.distillation
        terms_M = topk_tail_divergence(
            student_MK,
            taught.teacher_MK.to(student_MK.dtype),
            kind=options.divergence,
            jsd_alpha=options.jsd_alpha,
            tail=options.tail,
            whole_vocabulary=student_MK.shape[1] >= terms.vocabulary,
        )
        return channel_sum(terms_M, taught.weights_M.to(terms_M.dtype), denominator)


class _Losses(NamedTuple):
    total: torch.Tensor
    pg: torch.Tensor
    distill: torch.Tensor
    imitate: torch.Tensor
    pg_tokens: PgTokens


def _skipped(reason: str, *, sums: StepReport | None = None, norm: float = 0.0) -> StepReport:
    if sums is not None:
        return sums._replace(applied=False, reason=reason, grad_norm=norm)
    return StepReport(
        loss=0.0,
        pg_loss=0.0,
        distill_loss=0.0,
        imitate_loss=0.0,
        grad_norm=norm,
        trained_tokens=0,
        applied=False,
        reason=reason,
        diagnostics={},
    )
