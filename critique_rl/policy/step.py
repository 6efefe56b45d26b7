"""The two-channel training step: three weighted sums of one forward pass, one optimiser step, on any number of ranks.

Owns: micro-batching, gradient clipping, and skipping a step that has nothing to learn or a non-finite gradient.
Must not know: critics, critiques, methods. A new method stamps other weights; this file stays.

L = L_pg / D_pg + w_d * L_distill / D_distill + w_i * L_imitate / D_imitate. Each D counts its channel's own tokens over
the whole batch, before it is cut into ranks' shares and micro-batches, so no channel dilutes another and no split of
the batch changes the gradient. Gradients that are joined or measured one by one take more passes (`separate_passes`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from critique_rl.ops.fused import HeadTerms
from critique_rl.ops.penalties import EntropyWeight
from critique_rl.policy.batching import Layout, MicroBatch, micro_batches
from critique_rl.policy.channels import Denominators, StepConfig, channel_sums, count_denominators
from critique_rl.policy.crew import Crew
from critique_rl.policy.head import ResponseHead
from critique_rl.policy.joint_gradient import HeldGradients
from critique_rl.policy.knobs import at_knobs
from critique_rl.policy.optimizers import build_optimizer
from critique_rl.policy.parts import Part, Penalties, Sums, part_of
from critique_rl.policy.pg_channel import PgTokens, entropy_weight
from critique_rl.policy.separate_passes import DIRECTIVE_NORM, joined_gradient, measure_conflict
from critique_rl.policy.sharding import RankedHead
from critique_rl.policy.shares import cut
from critique_rl.policy.step_report import report_of, skipped
from critique_rl.policy.streams import Streams, active, directives
from critique_rl.policy.token_choice import Chosen, Surveyed, choose_tokens
from critique_rl.protocols import Skipped, StepReport
from critique_rl.types import Knobs, TrainSample

__all__ = ["Denominators", "StepConfig", "TwoChannelStep", "count_denominators"]


class _Share(NamedTuple):
    """One rank's rows, and what was counted over all rows of the step."""

    rows: list[TrainSample]
    denominators: Denominators
    penalties: Penalties
    max_tokens: int
    fresh: bool


class _Move(NamedTuple):
    loss: float
    learning_rate: float


class TwoChannelStep:
    """Turns train samples into one optimiser step on `model`. Called on the leading rank; the others do their share."""

    def __init__(
        self,
        model: PreTrainedModel,
        head: ResponseHead,
        accelerator: Accelerator,
        config: StepConfig,
        pad_id: int,
        *,
        layout: Layout = "padded",
        ranked: RankedHead | None = None,
    ) -> None:
        self.model = model
        self.head = head
        self.accelerator = accelerator
        self.config = config  # as the knobs have turned it
        self._run_config = config
        self.pad_id = pad_id
        self.layout: Layout = layout
        self.ranked = ranked or RankedHead(head, accelerator, Crew())
        self.build_optimizer()
        self.steps_taken = 0
        self.entropy_coefficient = config.loss.entropy_weight
        self.conflict_measured_at: int | None = None
        crew = self.ranked.crew
        self._sum_up = crew.duty("accumulate", self._accumulate_share)
        self._move = crew.duty("move", self._clip_and_move)
        self._survey = crew.row_duty("survey", self._survey_share)
        self._held = HeldGradients(model.parameters, self.ranked)

    def build_optimizer(self) -> None:
        """Make the optimiser anew, without any state. Errors: ConfigError, MissingExtraError."""
        self.optimizer = build_optimizer(self.model.parameters(), self.config.optimizer, self.accelerator.device)

    def turn(self, knobs: Knobs) -> None:
        """Take up what a guard of exploration has changed; on every rank alike."""
        self.config = at_knobs(self._run_config, knobs)

    def __call__(self, samples: Sequence[TrainSample], *, bonus: EntropyWeight | None = None) -> StepReport:
        """Accumulate the gradient of all samples and apply it once; skip if nothing or nothing finite came out.

        `bonus` is the entropy bonus of the whole batch where the samples are a part of it.
        """
        bonus = self.entropy_weight(samples) if bonus is None else bonus
        chosen = self.choose(samples)
        report = self._gradient(chosen.samples, bonus=bonus.applied)
        if report is None:
            return skipped(Skipped.NOTHING_TO_LEARN, "no sample carries a gradient")
        options = self.config.optimizer
        rate = options.learning_rate * min(1.0, (self.steps_taken + 1) / max(1, options.warmup_steps))
        norm = self._move([_Move(report.loss, rate)] * self.ranked.crew.size)[0]
        if not _finite(report.loss, norm):
            told = f"the loss is {report.loss}, the gradient norm {norm}"
            return skipped(Skipped.NOT_FINITE, told, report=report, norm=norm)
        self.entropy_coefficient = bonus.carried
        return report._replace(grad_norm=norm, applied=True, diagnostics={**report.diagnostics, **chosen.figures})

    def choose(self, samples: Sequence[TrainSample]) -> Chosen:
        """The samples with the tokens marked that [loss] singles out over the whole batch, if it does."""
        if not self.config.loss.surveys:
            return Chosen(list(samples), {})
        places = [i for i, s in enumerate(samples) if active(s, s.pg_weight).any()]
        rows = [samples[i] for i in places]
        found = self._survey(None, rows, [len(s.prompt_ids) + len(s.completion_ids) for s in rows]) if rows else []
        surveyed = dict(zip(places, found, strict=True))
        return choose_tokens(samples, surveyed, self.config.loss, seed=self.steps_taken)

    def accumulate(
        self, samples: Sequence[TrainSample], *, max_tokens: int | None = None, fresh: bool = False
    ) -> StepReport | None:
        """Add the whole batch's gradient to `.grad` without stepping (`fresh`: from zero); None if no sample carries
        one."""
        penalties = Penalties(self.config.loss.kl_weight, self.entropy_weight(samples).applied)
        return self._accumulate(samples, penalties, max_tokens=max_tokens, fresh=fresh)

    def _accumulate(
        self, samples: Sequence[TrainSample], penalties: Penalties, *, max_tokens: int | None, fresh: bool
    ) -> StepReport | None:
        whole = part_of(samples, penalties)
        if not whole.rows:
            return None
        sums = self._sum_part(whole, samples, max_tokens=max_tokens, fresh=fresh)
        return report_of(sums, samples, whole.rows, self.config, bonus=whole.penalties.entropy)

    def _gradient(self, samples: Sequence[TrainSample], *, bonus: float | None = None) -> StepReport | None:
        """The gradient of the step in `.grad`, from one pass or, where gradients are joined, from several."""
        method, every, latest = self.config.gradient_combiner, self.config.conflict_every, self.conflict_measured_at
        due = every > 0 and (latest is None or self.steps_taken - latest >= every)
        bonus = self.entropy_weight(samples).applied if bonus is None else bonus
        penalties = Penalties(self.config.loss.kl_weight, bonus)
        sum_part = partial(self._sum_part, samples=samples, fresh=True)
        if method is None:
            found = measure_conflict(samples, penalties, held=self._held, sum_part=sum_part) if due else {}
            report = self._accumulate(samples, penalties, max_tokens=None, fresh=True)
        else:
            joined = joined_gradient(
                samples,
                penalties,
                method=method,
                seed=self.steps_taken,  # the same orders when a step is repeated after a resume
                held=self._held,
                sum_part=sum_part,
                measures=due,
            )
            if joined is None:
                return None
            found, rows = joined.figures, [samples[i] for i in sorted(joined.places)]
            report = report_of(joined.sums, samples, rows, self.config, bonus=penalties.entropy)
        if DIRECTIVE_NORM in found:
            self.conflict_measured_at = self.steps_taken
        return report and report._replace(diagnostics={**report.diagnostics, **found})

    def _sum_part(
        self, part: Part, samples: Sequence[TrainSample], *, fresh: bool, max_tokens: int | None = None
    ) -> Sums:
        """Add one part's gradient to `.grad`, divided as the whole step's channels are."""
        rows = part.rows
        kin = [s.prompt_ids for s in rows] if self.layout == "prefix" else None
        shares = cut([len(s.prompt_ids) + len(s.completion_ids) for s in rows], self.ranked.crew.size, kin=kin)
        limit = max_tokens or self.config.optimizer.micro_batch_tokens
        denominators = count_denominators(samples, self.config)
        return self._sum_up(
            [_Share([rows[i] for i in at], denominators, part.penalties, limit, fresh) for at in shares]
        )[0]

    def entropy_weight(self, samples: Sequence[TrainSample]) -> EntropyWeight:
        """The weight of the entropy bonus that a batch asks for."""
        return entropy_weight(samples, self.config.loss, coefficient=self.entropy_coefficient)

    # -- what every rank does ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def _survey_share(self, _: None, rows: list[TrainSample]) -> list[Surveyed]:
        """What the policy says of the tokens before it learns from them."""
        self.ranked.whole()
        found: dict[int, Surveyed] = {}
        for batch in self._micro_batches(rows, self.config.optimizer.micro_batch_tokens) if rows else ():
            with self.accelerator.autocast():
                terms = self.head(batch, temperature=self.config.temperature, entropy=True)
            assert terms.entropy_N is not None
            told = (part.to("cpu", torch.float64).split(batch.lengths) for part in (terms.logprobs_N, terms.entropy_N))
            for i, logprobs_T, entropy_T in zip(batch.rows, *told, strict=True):
                found[i] = Surveyed(logprobs_T.numpy(), entropy_T.numpy())
        return [found[i] for i in range(len(rows))]

    def _accumulate_share(self, share: _Share) -> Sums:
        """The gradient of all ranks' rows, for every rank alike; a rank without rows still takes part."""
        crew = self.ranked.crew
        totals = np.zeros(4 + len(PgTokens._fields))
        with crew.together():
            self.ranked.part()
            if share.fresh:
                self.optimizer.zero_grad(set_to_none=True)
            batches = list(self._micro_batches(share.rows, share.max_tokens))
            count = crew.largest(len(batches))
            for at in range(count):
                rows, batch = (share.rows, batches[at]) if at < len(batches) else self._idle()
                with nullcontext() if at == count - 1 else self.ranked.unsynchronised():
                    totals += self._backward(batch, [rows[i] for i in batch.rows], share)
            summed = crew.total(totals.tolist())
        loss, pg, distill, imitate, *seen = summed
        return Sums(loss, pg, distill, imitate, PgTokens(*seen))

    def _backward(self, batch: MicroBatch, rows: list[TrainSample], share: _Share) -> np.ndarray:
        taught = directives(rows, self.accelerator.device)
        with self.accelerator.autocast():
            terms = cast(
                HeadTerms,
                self.ranked.trained(
                    batch,
                    temperature=self.config.temperature,
                    rows_M=None if taught is None else taught.rows_M,
                    ids_MK=None if taught is None else taught.ids_MK,
                    entropy=True,
                ),
            )
        streams = Streams(rows, self.accelerator.device)
        kl, bonus = share.penalties
        loss = self.config.loss.model_copy(update={"kl_weight": kl})
        config = self.config._replace(loss=loss)
        sums = channel_sums(terms, streams, taught, config, share.denominators, entropy_weight=bonus)
        # Wrappers average gradients over ranks; the denominators are those of all ranks, so the sum is wanted.
        self.accelerator.backward(sums.total * self.ranked.crew.size)
        return np.array([*(float(x.detach()) for x in sums[:4]), *sums.pg_tokens])

    def _clip_and_move(self, move: _Move) -> float:
        """Clip and apply the gradient, or drop it if it is not finite: alike on every rank, whose norms are equal."""
        with self.ranked.crew.together():
            found = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimizer.max_grad_norm)
            norm = float((found.full_tensor() if isinstance(found, DTensor) else found).item())
            if _finite(move.loss, norm):
                for group in self.optimizer.param_groups:
                    group["lr"] = move.learning_rate
                self.optimizer.step()
                self.steps_taken += 1
            self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _micro_batches(self, rows: Sequence[TrainSample], max_tokens: int):
        return micro_batches(
            [s.prompt_ids for s in rows],
            [s.completion_ids for s in rows],
            max_tokens=max_tokens,
            pad_id=self.pad_id,
            device=self.accelerator.device,
            layout=self.layout,
        )

    def _idle(self) -> tuple[list[TrainSample], MicroBatch]:
        """One token of weight 0: what a rank computes while others have rows left, since wrappers count passes."""
        (batch,) = self._micro_batches([_IDLE], 1)
        return [_IDLE], batch


_NOTHING = np.zeros(1)
_IDLE = TrainSample(
    rollout_id="",
    task_id="",
    prompt_ids=(0,),
    completion_ids=(0,),
    loss_mask=_NOTHING,
    behaviour_logprobs=_NOTHING,
    advantages=_NOTHING,
    pg_weight=_NOTHING,
    distill_weight=_NOTHING,
    imitate_weight=_NOTHING,
)


def _finite(*values: float) -> bool:
    return bool(np.isfinite(values).all())
