"""What every method shares: a blank sample for a rollout, and group rewards with the unscorable masked out.

Owns: how a rollout or refinement becomes a `TrainSample` with all-zero weights. Must not know: any method.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from critique_rl.config.algorithm import Baseline, Scale
from critique_rl.config.refinement import RefinementConfig
from critique_rl.errors import ConfigError
from critique_rl.ops.advantages import group_advantages, union_advantages
from critique_rl.types import Array, Group, Refinement, Rollout, Score, ScoreStatus, TrainSample


class GroupAdvantages(NamedTuple):
    """`rollouts[i]` is None where the verifier itself failed; `refinements` follow the group's accepted ones."""

    rollouts: list[float | None]
    refinements: list[float]


def blank(rollout: Rollout, prompt_ids: Sequence[int] | None = None) -> TrainSample:
    """A sample of one rollout that trains nothing yet; `prompt_ids` replaces the ids it was sampled under.

    Behaviour log-probs that nobody knows (another model's attempt) are NaN; tool outputs are masked out of every loss.
    """
    length = len(rollout.completion_ids)
    zeros = np.zeros(length)
    known = np.asarray(rollout.behaviour_logprobs, dtype=np.float64)
    return TrainSample(
        rollout_id=rollout.id,
        task_id=rollout.task_id,
        prompt_ids=rollout.prompt_ids if prompt_ids is None else tuple(prompt_ids),
        completion_ids=rollout.completion_ids,
        loss_mask=np.asarray(rollout.policy_mask or np.ones(length), dtype=np.float64),
        behaviour_logprobs=known if len(known) == length else np.full(length, np.nan),
        advantages=zeros,
        pg_weight=zeros,
        distill_weight=zeros,
        imitate_weight=zeros,
    )


def accepted(group: Group) -> list[Refinement]:
    """The refinements that may be trained on."""
    return [r for r in group.refinements if not r.rejected]


def advantages_of(
    group: Group, rewards: Sequence[float], *, scale: Scale, baseline: Baseline = "union", use_refinements: bool
) -> GroupAdvantages:
    """Centred advantages over the scorable rollouts and, if used, the accepted refinements.

    A rollout whose verifier failed is no evidence: it neither gets an advantage nor enters the baseline. Where it
    failed on every rollout there is no baseline, and nothing moves. The rollouts of a late group have had their step:
    they only enter the baseline of its refinements.
    """
    scorable = [i for i, score in enumerate(group.scores) if score.status is not ScoreStatus.ERROR]
    known = torch.tensor([rewards[i] for i in scorable], dtype=torch.float64)
    injected = accepted(group) if use_refinements else []
    moved: list[float | None] = [None] * len(rewards)
    if not scorable:
        return GroupAdvantages(moved, [0.0] * len(injected))
    if injected:
        refined = torch.tensor([r.score.reward for r in injected], dtype=torch.float64)
        both = union_advantages(known, refined, baseline=baseline, scale=scale)
        values, refinements = both.rollouts_n.tolist(), both.refinements_k.tolist()
    else:
        values, refinements = group_advantages(known, scale=scale).tolist(), []
    for i, value in zip(scorable, values, strict=True):
        moved[i] = None if group.late else float(value)
    return GroupAdvantages(moved, [float(v) for v in refinements])


def stamp_pg(sample: TrainSample, advantage: float | None) -> TrainSample:
    """Policy-gradient weight 1 and one advantage on every token; None leaves the sample untrained.

    So do missing behaviour log-probs: without them there is no ratio to the policy that acted.
    """
    if advantage is None or np.isnan(sample.behaviour_logprobs).any():
        return sample
    return replace(sample, advantages=_full(sample, advantage), pg_weight=_full(sample, 1.0))


def group_samples(groups: Sequence[Group], *, scale: Scale) -> list[TrainSample]:
    """One sample per rollout with its group's advantage on every token: all that a method without critics stamps."""
    samples: list[TrainSample] = []
    for group in groups:
        rewards = [score.reward for score in group.scores]
        moved = advantages_of(group, rewards, scale=scale, use_refinements=False)
        samples += [stamp_pg(blank(r), a) for r, a in zip(group.rollouts, moved.rollouts, strict=True)]
    return samples


def right_or_wrong(rollout: Rollout, score: Score, *, threshold: float | None, method: str) -> bool:
    """What a method that knows no partial credit makes of a reward; `threshold` is the least one that counts as right.

    Errors: ConfigError for a reward that is no number, or one between 0 and 1 without a threshold.
    """
    if math.isnan(score.reward):
        raise ConfigError(
            f"rewards: rollout {rollout.id} of task {rollout.task_id} has a reward that is no number (nan); its "
            "verifier has to give one from 0 to 1, or the status error where it cannot judge"
        )
    if threshold is not None:
        return score.status is ScoreStatus.OK and score.reward >= threshold
    if score.reward <= 0.0 or score.reward >= 1.0:
        return score.correct
    raise ConfigError(
        f"algorithm.threshold: rollout {rollout.id} of task {rollout.task_id} has the reward {score.reward}, and "
        f"{method} wants right or wrong (1 or 0); set algorithm.threshold to the least reward that counts as right, or "
        "choose a verifier without partial credit"
    )


def stamp_imitation(
    group: Group, advantages: Sequence[float], options: RefinementConfig | None = None
) -> list[TrainSample]:
    """Accepted refinements as samples under the BARE prompt of the group's rollouts (arXiv 2506.03106, eq. 4).

    With `ratio_mode = "in_context"` under the context that each was sampled with, whose log-probs then are both what it
    was sampled with and what its ratio is taken against.
    """
    options = RefinementConfig() if options is None else options
    bare_prompt = group.rollouts[0].prompt_ids
    samples: list[TrainSample] = []
    for refinement, advantage in zip(accepted(group), advantages, strict=True):
        if options.ratio_mode == "in_context":
            sample = blank(refinement.rollout)
            start = guided = sample.behaviour_logprobs
        else:
            sample = blank(refinement.rollout, bare_prompt)
            start, guided = np.asarray(refinement.bare_logprobs, dtype=np.float64), sample.behaviour_logprobs
        samples.append(
            replace(
                sample,
                advantages=_full(sample, advantage),
                imitate_weight=_full(sample, 1.0),
                behaviour_logprobs=start,
                guided_logprobs=guided,
            )
        )
    return samples


def stamp_targets(sample: TrainSample, group: Group) -> TrainSample:
    """Teacher targets and a distillation weight on every token of a rollout that has them: 1, or its correction."""
    targets = group.targets.get(sample.rollout_id)
    if targets is None:
        return sample
    weights = group.corrections.get(sample.rollout_id)
    return replace(sample, teacher=targets, distill_weight=_full(sample, 1.0) if weights is None else weights)


def taught(sample: TrainSample) -> NDArray[np.bool_]:
    """[T]: where a token is distilled, being weighted, unmasked and with a usable teacher."""
    if sample.teacher is None:
        return np.zeros(len(sample.completion_ids), dtype=np.bool_)
    return sample.distill_weight * sample.loss_mask * sample.teacher.mask_T > 0


def steps_taken(groups: Sequence[Group]) -> int:
    """Applied steps behind the policy that sampled the newest rollout: a clock that no resume can set back."""
    return max((rollout.policy_version for group in groups for rollout in group.rollouts), default=0)


def _full(sample: TrainSample, value: float) -> Array:
    return np.full(len(sample.completion_ids), value)
