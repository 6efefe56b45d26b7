"""Amplified advantages: the vectors of the specification, and what the wrapper leaves alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from critique_rl.algorithms.by_name import build_algorithm
from critique_rl.algorithms.dr_grpo import DrGrpo
from critique_rl.algorithms.gap_advantages import GapAdvantages
from critique_rl.algorithms.grpo import Grpo
from critique_rl.algorithms.hicra import Hicra, amplified
from critique_rl.algorithms.paced import Paced
from critique_rl.build import build_paces
from critique_rl.config.algorithm import DrGrpoConfig, GrpoConfig, TwoChannelConfig
from critique_rl.config.distillation import DistillationConfig
from critique_rl.config.load import validate
from critique_rl.types import Array, Group
from tests.algorithms.groups import assert_same_samples, critique, group, refinement


class Marks:
    """A mask for every rollout that is named."""

    def __init__(self, alpha: float = 0.2, **masks: Sequence[float]) -> None:
        self.alpha = alpha
        self.masks = {name: np.array(mask, dtype=np.float64) for name, mask in masks.items()}
        self.means: tuple[float, float] | None = None

    def mask(self, rollout_id: str) -> Array | None:
        return self.masks.get(rollout_id)

    def note_means(self, base: float, amplified: float) -> None:
        self.means = (base, amplified)


def six_tokens() -> Group:
    """Rewards 1, 0, 0, 1, 0, 0, 0, 0: centred +.75 and -.25; every answer has six tokens."""
    of = group([1, 0, 0, 1, 0, 0, 0, 0])
    long = tuple(replace(r, completion_ids=tuple(range(6, 12)), behaviour_logprobs=(-1.0,) * 6) for r in of.rollouts)
    return replace(of, rollouts=long)


def test_vector_9_3_amplified_advantages() -> None:
    mask = [1, 0, 1, 0, 0, 0]
    marks = Marks(r0=mask, r1=mask)
    samples = Hicra(DrGrpo(DrGrpoConfig()), marks).assemble([six_tokens()])
    assert samples[0].advantages == pytest.approx([0.9, 0.75, 0.9, 0.75, 0.75, 0.75], abs=1e-6)
    assert samples[1].advantages == pytest.approx([-0.2, -0.25, -0.2, -0.25, -0.25, -0.25], abs=1e-6)
    assert samples[2].advantages == pytest.approx([-0.25] * 6) and samples[2].base_advantages is None
    assert samples[0].base_advantages == pytest.approx([0.75] * 6)
    # centred advantages add up to 0; two tokens rose by .15 and two by .05: .4 / 48
    assert marks.means == pytest.approx((0.0, 0.4 / 48))


@pytest.mark.parametrize(("base", "moved"), [(1.5, 1.8), (-0.5, -0.4), (0.0, 0.0), (0.75, 0.9), (-0.25, -0.2)])
def test_vector_9_3_single_values(base: float, moved: float) -> None:
    assert amplified(np.array([base, base]), np.array([1.0, 0.0]), 0.2) == pytest.approx([moved, base])


def test_vector_9_3_base_divided_by_the_spread() -> None:
    # population std of 2 ones in 8 is sqrt(3)/4: .75 / .4330127 = 1.732051, -.25 / .4330127 = -.577350
    base = np.array([0.75, -0.25]) / (np.sqrt(3) / 4 + 1e-6)
    assert base == pytest.approx([1.7320, -0.5773], abs=1e-4)
    assert amplified(base, np.ones(2), 0.2) == pytest.approx([1.2 * base[0], 0.8 * base[1]])


@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=8),
    st.lists(st.booleans(), min_size=8, max_size=8),
    st.floats(0.01, 0.99),
)
def test_signs_never_change_and_nothing_falls(values: list[float], marked: list[bool], alpha: float) -> None:
    base, mask = np.array(values), np.array(marked[: len(values)], dtype=np.float64)
    moved = amplified(base, mask, alpha)
    assert (np.sign(moved) == np.sign(base)).all() and (moved >= base).all()
    assert (moved[mask == 0] == base[mask == 0]).all()


def test_alpha_0_and_no_marks_leave_every_sample_as_it_is() -> None:
    of, plain = six_tokens(), Grpo(GrpoConfig())
    expected = plain.assemble([of])
    assert_same_samples(Hicra(plain, Marks(0.0, r0=[1] * 6)).assemble([of]), expected)
    assert_same_samples(Hicra(plain, Marks(0.2)).assemble([of]), expected)


def test_second_attempts_and_other_channels_are_left_alone() -> None:
    of = group([0, 0, 1], [refinement(0, 1.0)], critiques=[critique("r0", 0.5)], taught=["r0"])
    plain = build_algorithm(TwoChannelConfig())
    before = plain.assemble([of])
    after = Hicra(plain, Marks(r0=[1], r1=[1, 1], r2=[1, 1, 1])).assemble([of])
    assert_same_samples(after[3:], before[3:])
    for one, other in zip(before, after, strict=True):
        assert_same_samples([replace(other, advantages=one.advantages, base_advantages=None)], [one])


def test_it_stands_behind_rewards_and_before_the_joins() -> None:
    run = validate({"algorithm": {"name": "two_channel"}, "critic": {"kind": "lab_rules"}}, source="test")
    built = build_algorithm(
        run.algorithm,
        distillation=DistillationConfig(join="advantages", support="sampled"),
        paces=build_paces(run),
        amplifier=Marks(),
    )
    assert isinstance(built, GapAdvantages)
    assert isinstance(built.method, Paced)
    assert isinstance(built.method.method, Hicra)
    assert built.needs == built.method.method.needs and built.name == "two_channel"


def test_figures_of_the_method_are_passed_on() -> None:
    run = validate({"algorithm": {"name": "weighted_reinforce"}}, source="test")
    built = build_algorithm(run.algorithm, amplifier=Marks(r0=[1]))
    built.assemble([group([1, 0])])
    assert isinstance(built, Hicra) and "reinforce/kept_share" in built.figures()
