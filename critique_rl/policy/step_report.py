"""What is told of a training step, applied or skipped.

Owns: the names and meaning of its figures. Must not know: models, gradients, ranks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from critique_rl.policy.channels import StepConfig, count_denominators
from critique_rl.policy.parts import Sums
from critique_rl.policy.pg_channel import PgTokens
from critique_rl.policy.streams import active
from critique_rl.protocols import Skipped, StepReport
from critique_rl.types import TrainSample


def report_of(
    sums: Sums, samples: Sequence[TrainSample], rows: Sequence[TrainSample], config: StepConfig, *, bonus: float
) -> StepReport:
    """The report of a gradient that is not applied yet; `rows` are those of the samples that went into it, `bonus` the
    weight of the entropy."""
    seen, loss = sums.seen, config.loss
    return StepReport(
        loss=sums.loss,
        pg_loss=sums.pg,
        distill_loss=sums.distill,
        imitate_loss=sums.imitate,
        grad_norm=0.0,
        trained_tokens=sum(len(s.completion_ids) for s in rows),
        applied=False,
        reason="",
        diagnostics={
            "rows/trained": float(len(rows)),
            "tokens/distill": count_denominators(samples, config).distill,
            "tokens/imitate": float(sum(int(active(s, s.imitate_weight).sum()) for s in samples)),
            **_ratios(seen),
            **({"policy/entropy": seen.entropy_sum / seen.tokens} if seen.tokens else {}),
            **({"policy/kl": seen.kl_sum / seen.tokens} if seen.tokens and loss.kl_weight > 0 else {}),
            **({"policy/entropy_weight": bonus} if loss.entropy_target is not None else {}),
        },
    )


def _ratios(seen: PgTokens) -> dict[str, float]:
    """Of the policy-gradient channel; none where a token's behaviour log-prob is unknown, as a demonstration's is."""
    if math.isnan(seen.ratio_sum):
        return {}
    return {
        "ratio/mean": seen.ratio_sum / seen.tokens if seen.tokens else 1.0,
        "ratio/clip_fraction": seen.clipped / seen.tokens if seen.tokens else 0.0,
    }


def skipped(why: Skipped, reason: str, *, report: StepReport | None = None, norm: float = 0.0) -> StepReport:
    """The report of a step that changed no weight, with what was found before it was skipped."""
    if report is not None:
        return report._replace(applied=False, skipped=why, reason=reason, grad_norm=norm)
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
        skipped=why,
    )
