"""A channel's weight over the run: what reaches the samples, what the schedules are told, and that 1 is nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from critique_rl.algorithms.by_name import build_algorithm
from critique_rl.algorithms.paced import Channel, Paced, Paces
from critique_rl.algorithms.two_channel import TwoChannel
from critique_rl.config.algorithm import GrpoConfig, TwoChannelConfig
from critique_rl.policy.step import count_denominators
from critique_rl.schedule.anneal import Schedule
from critique_rl.types import Group
from tests.algorithms.groups import ERROR, assert_same_samples, critique, group, refinement
from tests.tiny import step_config

BOTH = TwoChannel(TwoChannelConfig())
FED = group([0, 0], [refinement(0, 1.0)], critiques=[critique("r1", 0.4)], taught=["r1"])


class Told:
    """A schedule of one weight that remembers what it was told."""

    def __init__(self, weight: float = 1.0) -> None:
        self.value = weight
        self.shares: list[tuple[float, float]] = []
        self.braked = 0

    def weight(self, step: int) -> float:
        return self.value

    def observe(self, none_share: float, partial_share: float) -> None:
        self.shares.append((none_share, partial_share))

    def back_off(self) -> None:
        self.braked += 1

    def state_dict(self) -> dict[str, object]:
        return {"value": self.value}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        self.value = float(str(state["value"]))


def paced(**weights: float) -> Paced:
    schedules: dict[Channel, Told] = {channel: Told(weights[channel]) for channel in ("distill", "imitate")}
    return Paced(BOTH, Paces(schedules))


def at(of: Group, version: int) -> Group:
    return replace(of, rollouts=tuple(replace(r, policy_version=version) for r in of.rollouts))


def test_each_channel_has_its_own_weight_and_rewards_have_none() -> None:
    samples, whole = paced(distill=0.25, imitate=0.5).assemble([FED]), BOTH.assemble([FED])
    assert samples[1].distill_weight.tolist() == [0.25, 0.25]
    assert samples[2].imitate_weight.tolist() == [0.5] * 3
    for mine, theirs in zip(samples, whole, strict=True):
        assert mine.pg_weight.tolist() == theirs.pg_weight.tolist()
        assert mine.advantages.tolist() == theirs.advantages.tolist()
    # a smaller weight is a smaller loss: the denominators still count the tokens
    assert count_denominators(samples, step_config()) == count_denominators(whole, step_config())


def test_a_weight_of_one_is_nothing_and_one_of_zero_takes_the_channel_out() -> None:
    assert_same_samples(paced(distill=1.0, imitate=1.0).assemble([FED]), BOTH.assemble([FED]))
    out = paced(distill=0.0, imitate=0.0).assemble([FED])
    assert not any(s.distill_weight.any() or s.imitate_weight.any() for s in out)
    assert (paced(distill=0.0, imitate=0.0).name, paced(distill=0.0, imitate=0.0).needs) == (BOTH.name, BOTH.needs)


def test_without_directives_it_is_the_method_bit_for_bit() -> None:
    fed = [group([1, 0, 0.5]), group([ERROR, 1], task="u"), group([0, 0], task="v")]
    assert_same_samples(paced(distill=0.3, imitate=0.3).assemble(fed), BOTH.assemble(fed))


def test_a_linear_weight_falls_with_the_applied_steps() -> None:
    schedules: dict[Channel, Schedule] = {"distill": Schedule("linear", total_steps=10)}
    method = Paced(BOTH, Paces(schedules))
    found = [method.assemble([at(FED, version)])[1].distill_weight[0] for version in (0, 4, 10, 12)]
    assert found == pytest.approx([1.0, 0.6, 0.0, 0.0])
    assert method.assemble([at(FED, 4)])[2].imitate_weight.tolist() == [1.0] * 3  # no schedule of its own


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        ([group([0, 0]), group([1, 0]), group([1, 1]), group([0, ERROR])], [(0.5, 0.25)]),
        ([group([0, 0]), replace(group([1, 0]), late=True)], [(1.0, 0.0)]),
        ([group([ERROR]), replace(group([0]), late=True)], []),
        ([], []),
    ],
)
def test_what_a_step_tells_the_schedules(groups: list[Group], told: list[tuple[float, float]]) -> None:
    schedule = Told()
    schedules: dict[Channel, Told] = {"imitate": schedule}
    Paced(BOTH, Paces(schedules)).assemble(groups)
    assert schedule.shares == told


def test_paces_brake_together_and_remember_by_channel() -> None:
    one: dict[Channel, Schedule] = {c: Schedule("unsolved", total_steps=9) for c in ("distill", "imitate")}
    paces = Paces(one)
    paces.observe([group([0, 0]), group([1, 0])])
    paces.back_off()
    assert paces.weight("distill", 3) == paces.weight("imitate", 3) == pytest.approx(0.5)
    two: dict[Channel, Schedule] = {c: Schedule("unsolved", total_steps=9) for c in ("distill", "imitate")}
    again = Paces(two)
    again.load_state_dict(paces.state_dict())
    assert again.state_dict() == paces.state_dict() and again.weight("distill", 3) == paces.weight("distill", 3)


def test_only_a_method_with_critiques_is_paced() -> None:
    schedules: dict[Channel, Told] = {"distill": Told(), "imitate": Told()}
    assert isinstance(build_algorithm(TwoChannelConfig(), paces=Paces(schedules)), Paced)
    assert not isinstance(build_algorithm(GrpoConfig(), paces=Paces(schedules)), Paced)
