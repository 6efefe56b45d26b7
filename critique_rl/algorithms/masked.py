"""A method of which some rollouts are not learned from, in any channel, though they stay in their group's baseline.

Owns: that truncated rollouts (DAPO's overlong filter, arXiv 2503.14476) and episodes with a turn that neither calls a
tool nor answers (SimpleTIR, arXiv 2509.02479) lose their weights. Must not know: methods. Whether those papers' code
leaves such rollouts in the baseline was not seen in a primary source; leaving them out would reward what is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from critique_rl.protocols import Algorithm
from critique_rl.types import Group, Rollout, TrainSample


@runtime_checkable
class _Counting(Protocol):
    def figures(self) -> Mapping[str, float]: ...


def figures_of(method: Algorithm) -> Mapping[str, float]:
    """What a wrapped method says about its latest samples; nothing of one that counts nothing."""
    return method.figures() if isinstance(method, _Counting) else {}


class Masked:
    """`method` without the weights of some rollouts; its name and needs stay."""

    def __init__(self, method: Algorithm, *, truncated: bool, void_turns: bool) -> None:
        self.method = method
        self.truncated = truncated
        self.void_turns = void_turns
        self.name = method.name
        self.needs: frozenset[Literal["critique", "refinement", "teacher"]] = method.needs

    def assemble(self, groups: Sequence[Group]) -> list[TrainSample]:
        """The method's samples; those of second attempts are untouched."""
        masked = {(r.task_id, r.id) for group in groups for r in group.rollouts if self._masks(r)}
        return [_silent(s) if (s.task_id, s.rollout_id) in masked else s for s in self.method.assemble(groups)]

    def figures(self) -> Mapping[str, float]:
        return figures_of(self.method)

    def _masks(self, rollout: Rollout) -> bool:
        return (self.truncated and not rollout.finished) or (self.void_turns and has_void_turn(rollout))


def has_void_turn(rollout: Rollout) -> bool:
    """Whether nothing could be read from one of the policy's turns; never for an answer of one turn."""
    return any(not turn.action for turn in rollout.turns)


def _silent(sample: TrainSample) -> TrainSample:
    nothing = np.zeros(len(sample.completion_ids))
    return replace(sample, pg_weight=nothing, distill_weight=nothing, imitate_weight=nothing)
