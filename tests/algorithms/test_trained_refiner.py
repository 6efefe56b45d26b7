"""Refinements as rollouts of their own: which count, their baseline, and that nothing else moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from critique_rl.algorithms.by_name import build_algorithm
from critique_rl.algorithms.sequential import Sequential
from critique_rl.algorithms.trained_refiner import TrainedRefiner
from critique_rl.algorithms.two_channel import TwoChannel
from critique_rl.config.algorithm import TwoChannelConfig
from critique_rl.config.distillation import DistillationConfig
from critique_rl.config.refinement import RefinementConfig
from critique_rl.config.replay import REPLAY
from critique_rl.policy.step import count_denominators
from critique_rl.types import Group, Refinement, ScoreStatus, TrainSample
from tests.algorithms.groups import REFINE, advantages, assert_same_samples, group, refinement, targets
from tests.tiny import gradient, step_config, tiny_policy

METHOD = TwoChannel(TwoChannelConfig())


def wrong(n: int, *, reward: float = 0.0) -> Refinement:
    return replace(refinement(n, reward, rejected="not verified"), bare_logprobs=())


def trained(*of: Group, **options: object) -> list[TrainSample]:
    return TrainedRefiner(METHOD, **{"weight": 0.5, **options}).assemble(of)  # pyright: ignore[reportArgumentType]


def own(*of: Group, **options: object) -> list[TrainSample]:
    """What is added to the method's samples, which stay as they are but for the scale of their weights."""
    plain, samples = METHOD.assemble(of), trained(*of, **options)
    same = [replace(s, pg_weight=p.pg_weight) for s, p in zip(samples, plain, strict=False)]
    assert_same_samples(same, plain)
    return samples[len(plain) :]


def test_one_right_of_four_by_hand() -> None:
    samples = own(group([0, 0], [refinement(0, 1.0), wrong(1), wrong(2), wrong(3)]))
    assert advantages(samples) == [0.75, -0.25, -0.25, -0.25]  # 1 - 1/4 and 0 - 1/4
    # 2 rollouts and 4 refinements: all weights times 6/2, so that a denominator of 6 rows divides as one of 2 would
    assert all(s.pg_weight.tolist() == [1.5] * 3 for s in samples)
    assert {s.rollout_id for s in samples} == {f"refined-{n}/refiner" for n in range(4)}


def test_they_stand_under_the_context_they_were_sampled_in_with_the_log_probs_they_were_sampled_with() -> None:
    first = own(group([0], [refinement(0, 1.0), wrong(1)]))[0]
    assert first.prompt_ids == REFINE and first.completion_ids == (10, 11, 12)
    assert first.behaviour_logprobs.tolist() == list(refinement(0, 1.0).rollout.behaviour_logprobs)
    assert not first.imitate_weight.any() and not first.distill_weight.any() and first.teacher is None


@pytest.mark.parametrize("rewards", [(0.0,), (1.0,), (0.0, 0.0), (1.0, 1.0, 1.0)])
def test_equal_rewards_leave_no_sample_and_so_no_denominator(rewards: tuple[float, ...]) -> None:
    told = [refinement(n, r) if r else wrong(n) for n, r in enumerate(rewards)]
    of = group([0, 0], told)
    assert own(of) == []
    config = step_config()
    mine = count_denominators(TrainedRefiner(METHOD, weight=1.0).assemble([of]), config)
    assert mine == count_denominators(METHOD.assemble([of]), config)


@pytest.mark.parametrize("normalizer", ["constant", "tokens", "sequences"])
@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_a_refiners_row_weighs_its_share_of_a_rollouts_and_dilutes_none(normalizer: str, weight: float) -> None:
    of = group([0, 1, 0], [refinement(0, 1.0), wrong(1), wrong(2)])
    config = step_config(loss={"normalizer": normalizer})
    plain = METHOD.assemble([of])
    added = [replace(s, pg_weight=np.ones(3)) for s in own(of, normalizer=normalizer)]
    # As if each refinement had been one more rollout of the step, under the denominator of the rollouts alone.
    count = {"constant": (3, 3), "sequences": (3, 3), "tokens": (6, 9)}[normalizer]
    alone = gradient(tiny_policy(config), added) * (weight * count[1] / count[0])
    mine = gradient(tiny_policy(config), trained(of, weight=weight, normalizer=normalizer))
    wanted = gradient(tiny_policy(config), plain) + alone
    assert (mine - wanted).norm() < 1e-6 * wanted.norm() and alone.norm() > 0


def test_a_baseline_is_of_one_prompt() -> None:
    hard, easy = group([0], [refinement(0, 1.0), wrong(1)], task="a"), group([0], [refinement(2, 1.0)], task="b")
    assert advantages(own(hard, easy)) == [0.5, -0.5]


def test_its_scale_is_the_methods() -> None:
    # rewards 1, 0: sample std sqrt(1/2), so that +-0.5 becomes +-0.7071
    assert advantages(own(group([0], [refinement(0, 1.0), wrong(1)]), scale="std")) == pytest.approx(
        [0.70711, -0.70711], abs=1e-5
    )


def test_what_is_no_evidence_of_this_policy_is_left_out() -> None:
    copied = replace(refinement(2, 1.0, rejected="copies the critique"), bare_logprobs=())
    replayed = replace(refinement(3, 1.0), rung=REPLAY)
    failed = wrong(4)
    failed = replace(failed, score=replace(failed.score, status=ScoreStatus.ERROR))
    no_room = refinement(5, 1.0, rejected="another refinement was closer to the policy")
    samples = own(group([0, 0], [refinement(0, 1.0), wrong(1), copied, replayed, failed, no_room]))
    assert [s.rollout_id.split("/")[0] for s in samples] == ["refined-0", "refined-1", "refined-5"]
    assert advantages(samples) == pytest.approx([1 / 3, -2 / 3, 1 / 3])


def test_the_right_one_becomes_likelier_in_its_context_and_the_wrong_one_less() -> None:
    of = group([0, 0], [replace(refinement(0, 1.0), rejected="duplicate"), wrong(1)])
    right, bad = (r.rollout for r in of.refinements)
    bad = replace(bad, completion_ids=(20, 21, 22))
    of = replace(of, refinements=(of.refinements[0], replace(of.refinements[1], rollout=bad)))
    policy = tiny_policy(step_config())
    pairs = [right.prompt_ids, bad.prompt_ids], [right.completion_ids, bad.completion_ids]
    before = [lp.sum() for lp in policy.logprobs(*pairs)]
    known = [
        replace(r, rollout=replace(r.rollout, behaviour_logprobs=tuple(lp)))
        for r, lp in zip(of.refinements, policy.logprobs(*pairs), strict=True)
    ]
    policy.step(own(replace(of, refinements=tuple(known))))
    after = [lp.sum() for lp in policy.logprobs(*pairs)]
    assert after[0] > before[0] and after[1] < before[1]


def test_its_gradient_grows_with_its_weight() -> None:
    of = group([0, 0], [refinement(0, 1.0), wrong(1)])
    one, half = (gradient(tiny_policy(step_config()), own(of, weight=w)) for w in (1.0, 0.5))
    assert (one - 2 * half).norm() < 1e-10 * one.norm() and one.norm() > 0


def test_weight_0_is_the_method_itself() -> None:
    assert type(build_algorithm(TwoChannelConfig(), RefinementConfig())) is TwoChannel
    built = build_algorithm(TwoChannelConfig(scale="std"), RefinementConfig(train_refiner=0.3), normalizer="tokens")
    assert isinstance(built, TrainedRefiner)
    assert (built.weight, built.scale, built.normalizer) == (0.3, "std", "tokens")
    assert (built.name, built.needs) == (METHOD.name, METHOD.needs)
    alone = build_algorithm(TwoChannelConfig(use=("targets",)), RefinementConfig(train_refiner=0.3))
    assert type(alone) is TwoChannel  # nothing is refined


def test_a_step_that_learns_from_targets_alone_leaves_them_out_too() -> None:
    built = build_algorithm(
        TwoChannelConfig(), RefinementConfig(train_refiner=1.0), DistillationConfig(join="sequential")
    )
    assert isinstance(built, TrainedRefiner) and isinstance(built.method, Sequential)
    of = group([0, 0], [refinement(0, 1.0), wrong(1)])
    assert any(s.pg_weight.any() for s in built.assemble([of])[-2:])
    taught = replace(of, targets={"r1": targets(2)})
    assert not any(s.pg_weight.any() for s in built.assemble([taught]))


def test_no_refinements_no_samples() -> None:
    assert own(group([0, 1])) == [] == own()
    assert np.isfinite([s.advantages for s in own(group([0], [refinement(0, 1.0), wrong(1)]))]).all()
