"""A method that is told other rewards than those that were verified.

    r_i' = r_i (1 - beta (G - rank_i) / G) + penalty(length_i)   the factor on right rollouts only

Owns: whose rewards are turned. Must not know: methods, how a group is sampled. Everything around the method (joins,
objectives, metrics, plateau) sees rewards as they were verified. Deviations: 1. the rank is among the G rollouts that
could be judged, by the sum of its own tokens' log-probs (whether the paper divides by length was not seen), and equally
likely ones share one; 2. lengths count tool outputs, as rollout.max_tokens does; 3. second attempts keep their reward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from critique_rl.algorithms.masked import figures_of
from critique_rl.protocols import Algorithm
from critique_rl.stats.group_rewards import overlong_penalty, unlikeliness_factors
from critique_rl.types import Group, Score, ScoreStatus, TrainSample


class Reshaped:
    """`method` on turned rewards; its name and needs stay."""

    def __init__(self, method: Algorithm, *, unlikeliness: float, overlong_buffer: int, max_tokens: int) -> None:
        """`overlong_buffer` of `max_tokens` tokens; 0 turns either part off."""
        self.method = method
        self.unlikeliness = unlikeliness
        self.overlong_buffer = overlong_buffer
        self.max_tokens = max_tokens
        self.name = method.name
        self.needs: frozenset[Literal["critique", "refinement", "teacher"]] = method.needs

    def assemble(self, groups: Sequence[Group]) -> list[TrainSample]:
        """The method's samples, as if the turned rewards had been verified."""
        return self.method.assemble([replace(group, scores=self._scores(group)) for group in groups])

    def figures(self) -> Mapping[str, float]:
        return figures_of(self.method)

    def _scores(self, group: Group) -> tuple[Score, ...]:
        judged = [i for i, score in enumerate(group.scores) if score.status is not ScoreStatus.ERROR]
        rewards = {i: group.scores[i].reward for i in judged}
        if self.unlikeliness:
            logprobs = [sum(group.rollouts[i].own_logprobs) for i in judged]
            for i, factor in zip(judged, unlikeliness_factors(logprobs, beta=self.unlikeliness), strict=True):
                if group.scores[i].correct:
                    rewards[i] *= factor
        for i in judged if self.overlong_buffer else ():
            length = len(group.rollouts[i].completion_ids)
            rewards[i] += overlong_penalty(length, limit=self.max_tokens, buffer=self.overlong_buffer)
        return tuple(replace(s, reward=rewards[i]) if i in rewards else s for i, s in enumerate(group.scores))
