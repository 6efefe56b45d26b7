"""Both channels in one step: what scores moves advantages, what directs makes targets and refinements.

EVALUATIVE: the verifier's reward; inside a group that it cannot rank (all rewards equal), the critic's mean score times
`critic_score_weight` < 1, so that no critic outranks a verified success. DIRECTIVE: teacher targets on the failed
attempt's own tokens, and verified refinements. Each loss has its own denominator (OpenClaw-RL v2, prime-rl), so a step
without any critique is plain GRPO, bit for bit. `use` says which parts of a critique (scores, targets, refinements) are
learned from; other ways to join targets with rewards wrap this method (`by_name`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from critique_rl.algorithms.stamping import advantages_of, blank, stamp_imitation, stamp_pg, stamp_targets
from critique_rl.config.algorithm import TwoChannelConfig
from critique_rl.config.refinement import RefinementConfig
from critique_rl.types import CriticOutcome, Group, ScoreStatus, TrainSample


class TwoChannel:
    """GRPO, directive distillation and verified refinements, stamped on one batch."""

    name = "two_channel"

    def __init__(self, config: TwoChannelConfig, refinement: RefinementConfig | None = None) -> None:
        self.config = config
        self.refinement = RefinementConfig() if refinement is None else refinement
        needs: set[Literal["critique", "refinement", "teacher"]] = {"critique"}
        if "targets" in config.use:
            needs.add("teacher")
        if "refinements" in config.use:
            needs.add("refinement")
        self.needs: frozenset[Literal["critique", "refinement", "teacher"]] = frozenset(needs)

    def assemble(self, groups: Sequence[Group]) -> list[TrainSample]:
        """One sample per rollout (with targets where it has a directive) and per accepted refinement."""
        samples: list[TrainSample] = []
        taught, refined = "targets" in self.config.use, "refinements" in self.config.use
        for group in groups:
            moved = advantages_of(
                group,
                self._rewards(group),
                scale=self.config.scale,
                baseline=self.config.baseline,
                use_refinements=refined,
            )
            rollouts = [stamp_pg(blank(r), a) for r, a in zip(group.rollouts, moved.rollouts, strict=True)]
            samples += [stamp_targets(sample, group) for sample in rollouts] if taught else rollouts
            if refined:
                samples += stamp_imitation(group, moved.refinements, self.refinement)
        return samples

    def _rewards(self, group: Group) -> list[float]:
        """Verified rewards, plus the critic's scores where the verifier is flat and the critic scored every rollout.

        Rollouts whose verifier failed are no evidence: they neither break the tie nor need a critic's score.
        """
        verified = [score.reward for score in group.scores]
        if "scores" not in self.config.use:
            return verified
        judged = [i for i, score in enumerate(group.scores) if score.status is not ScoreStatus.ERROR]
        scored = {i: self._critic_score(group, group.rollouts[i].id) for i in judged}
        if len({verified[i] for i in judged}) > 1 or any(value is None for value in scored.values()):
            return verified
        weight = self.config.critic_score_weight
        return [r + weight * (scored.get(i) or 0.0) for i, r in enumerate(verified)]

    def _critic_score(self, group: Group, rollout_id: str) -> float | None:
        """Mean of the critic's criteria in [0, 1], or None: a missing score is missing, never 0."""
        critique = group.critiques.get(rollout_id)
        if critique is None or critique.outcome is not CriticOutcome.OK or not critique.evaluative:
            return None
        return sum(e.value for e in critique.evaluative) / len(critique.evaluative)
