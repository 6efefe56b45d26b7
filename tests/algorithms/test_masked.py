"""Rollouts that stay in their baseline and are not learned from."""

from __future__ import annotations

from dataclasses import replace

import pytest

from critique_rl.algorithms.by_name import build_algorithm
from critique_rl.algorithms.grpo import Grpo
from critique_rl.algorithms.masked import Masked, has_void_turn
from critique_rl.algorithms.pass_at_k import PassAtK
from critique_rl.algorithms.trained_refiner import TrainedRefiner
from critique_rl.algorithms.two_channel import TwoChannel
from critique_rl.config.algorithm import GrpoConfig, PassAtKConfig, TwoChannelConfig
from critique_rl.config.load import validate
from critique_rl.types import Group, Turn
from tests.algorithms.groups import advantages, assert_same_samples, critique, group, refinement


def unfinished(of: Group, *places: int) -> Group:
    return replace(of, rollouts=tuple(replace(r, finished=i not in places) for i, r in enumerate(of.rollouts)))


def episode(of: Group, place: int, *actions: str) -> Group:
    turns = tuple(Turn(start=i, end=i + 1, text="w", action=action) for i, action in enumerate(actions))
    return replace(of, rollouts=tuple(replace(r, turns=turns) if i == place else r for i, r in enumerate(of.rollouts)))


def masked(*, truncated: bool = False, void_turns: bool = False) -> Masked:
    return Masked(Grpo(GrpoConfig()), truncated=truncated, void_turns=void_turns)


def test_a_truncated_rollout_is_in_the_baseline_and_not_learned_from() -> None:
    samples = masked(truncated=True).assemble([unfinished(group([1, 0, 0, 0]), 3)])
    assert advantages(samples) == [0.75, -0.25, -0.25, -0.25]
    assert [bool(s.pg_weight.any()) for s in samples] == [True, True, True, False]


def test_no_channel_learns_from_it_and_second_attempts_do() -> None:
    of = unfinished(group([0, 0], [refinement(0, 1.0)], critiques=[critique("r1", 0.5)], taught=["r1"]), 1)
    plain = TwoChannel(TwoChannelConfig())
    before, after = plain.assemble([of]), Masked(plain, truncated=True, void_turns=False).assemble([of])
    assert before[1].distill_weight.any()
    assert not (after[1].pg_weight.any() or after[1].distill_weight.any() or after[1].imitate_weight.any())
    assert_same_samples([after[0], after[2]], [before[0], before[2]])
    assert after[2].imitate_weight.any()


@pytest.mark.parametrize(
    ("actions", "void"),
    [(("search", "answer"), False), (("search", ""), True), (("", "search", "answer"), True), ((), False)],
)
def test_void_turns(actions: tuple[str, ...], void: bool) -> None:
    of = episode(group([1, 0]), 0, *actions)
    assert has_void_turn(of.rollouts[0]) is void
    samples = masked(void_turns=True).assemble([of])
    assert [bool(s.pg_weight.any()) for s in samples] == [not void, True]
    assert all(s.pg_weight.any() for s in masked(truncated=True).assemble([of]))


def test_without_any_such_rollout_nothing_changes() -> None:
    of = [group([1, 0, 0.5])]
    assert_same_samples(masked(truncated=True, void_turns=True).assemble(of), Grpo(GrpoConfig()).assemble(of))


def test_what_a_method_counts_is_still_told() -> None:
    outer = Masked(PassAtK(PassAtKConfig(k=1)), truncated=True, void_turns=False)
    outer.assemble([group([0, 1])])
    assert outer.figures() == {"pass_at_k/live_groups": 1.0}
    assert masked().figures() == {}


def test_it_stands_after_the_joins_and_before_the_refiner() -> None:
    config = validate(
        {
            "algorithm": {"name": "two_channel"},
            "critic": {"kind": "lab_rules"},
            "distillation": {"join": "advantages", "support": "sampled"},
            "refinement": {"train_refiner": 0.5},
            "sampling": {"overlong_filter": True},
        },
        source="test",
    )
    built = build_algorithm(config.algorithm, config.refinement, config.distillation, sampling=config.sampling)
    assert isinstance(built, TrainedRefiner) and isinstance(built.method, Masked)
    of = unfinished(group([0, 1], critiques=[critique("r0", 0.5)], taught=["r0"]), 0)
    assert [bool(s.pg_weight.any()) for s in built.assemble([of])] == [False, True]
