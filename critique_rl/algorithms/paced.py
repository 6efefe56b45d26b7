"""A method whose two directive channels weigh more or less as the run goes on.

Owns: what one step tells the schedules, and how their weight reaches the samples. Must not know: the schedules' shapes.
A weight of 1 leaves every sample as it is, bit for bit; one of 0 takes the channel out of the step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, Protocol, cast

from critique_rl.algorithms.stamping import steps_taken
from critique_rl.protocols import Algorithm
from critique_rl.types import Group, ScoreStatus, TrainSample

Channel = Literal["distill", "imitate"]


class Pace(Protocol):
    """A weight in [0, 1] over the run's applied steps; its state is plain JSON."""

    def weight(self, step: int) -> float: ...

    def observe(self, none_share: float, partial_share: float) -> None: ...

    def back_off(self) -> None: ...

    def state_dict(self) -> dict[str, object]: ...

    def load_state_dict(self, state: Mapping[str, object]) -> None: ...


class Paces:
    """The schedules of one run, by channel; they see the same steps and back off together."""

    def __init__(self, schedules: Mapping[Channel, Pace]) -> None:
        self.schedules = dict(schedules)

    def observe(self, groups: Sequence[Group]) -> None:
        """Tell the schedules which share of a step's groups had no success, and which had some but not all."""
        shares = _shares(groups)
        for schedule in self.schedules.values() if shares else ():
            schedule.observe(*shares)

    def weight(self, channel: Channel, step: int) -> float:
        """1 for a channel without a schedule."""
        return self.schedules[channel].weight(step) if channel in self.schedules else 1.0

    def back_off(self) -> None:
        for schedule in self.schedules.values():
            schedule.back_off()

    def state_dict(self) -> dict[str, object]:
        return {channel: schedule.state_dict() for channel, schedule in self.schedules.items()}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        for channel, schedule in self.schedules.items():
            schedule.load_state_dict(cast("Mapping[str, object]", state[channel]))


class Paced:
    """`method` with its distillation and imitation weights scaled by the step's; its name and needs stay."""

    def __init__(self, method: Algorithm, paces: Paces) -> None:
        self.method = method
        self.paces = paces
        self.name = method.name
        self.needs: frozenset[Literal["critique", "refinement", "teacher"]] = method.needs

    def assemble(self, groups: Sequence[Group]) -> list[TrainSample]:
        """The method's samples, scaled; the schedules see the step first."""
        self.paces.observe(groups)
        step = steps_taken(groups)
        distill, imitate = (self.paces.weight(channel, step) for channel in ("distill", "imitate"))
        samples = self.method.assemble(groups)
        if distill == imitate == 1.0:
            return samples
        return [
            replace(s, distill_weight=distill * s.distill_weight, imitate_weight=imitate * s.imitate_weight)
            for s in samples
        ]


def _shares(groups: Sequence[Group]) -> tuple[float, float] | tuple[()]:
    """Of the groups that were sampled for this step and could be judged; nothing where there is none."""
    judged = [
        [score.correct for score in group.scores if score.status is not ScoreStatus.ERROR]
        for group in groups
        if not group.late
    ]
    known = [found for found in judged if found]
    if not known:
        return ()
    none = sum(not any(found) for found in known) / len(known)
    return none, sum(any(found) and not all(found) for found in known) / len(known)
