"""Each rollout in one channel: which one, with which weights, and nobody else's share moved by it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from critique_rl.algorithms.routed import OutcomeRouting
from critique_rl.algorithms.two_channel import TwoChannel
from critique_rl.config.algorithm import TwoChannelConfig
from critique_rl.config.distillation import DistillationConfig
from critique_rl.policy.step import count_denominators
from critique_rl.types import Group
from tests.algorithms.groups import ERROR, assert_same_samples, group, refinement
from tests.tiny import step_config

BOTH = TwoChannel(TwoChannelConfig())


def routed(**options: object) -> OutcomeRouting:
    return OutcomeRouting(BOTH, DistillationConfig.model_validate({"join": "routed"} | options))


def with_entropies(of: Group, name: str, *probs: tuple[float, ...]) -> Group:
    told = replace(
        of.targets[name], ids_TK=np.tile(np.arange(len(probs[0])), (len(probs), 1)), logprobs_TK=np.log(probs)
    )
    return replace(of, targets={**of.targets, name: told})


def test_right_wrong_taught_and_wrong_untaught() -> None:
    # the right one has targets, too, as an anchor would give it
    samples = routed().assemble([group([1, 0, 0, 0.5], taught=["r0", "r1", "r3"])])
    assert [bool(s.distill_weight.any()) for s in samples] == [False, True, False, True]
    assert [bool(s.advantages.any()) for s in samples] == [True, False, True, False]
    assert samples[0].advantages.tolist() == pytest.approx([0.625])
    assert samples[2].advantages.tolist() == pytest.approx([-0.375] * 3)
    assert all(s.pg_weight.all() for s in samples)


def test_tokens_weigh_by_the_teachers_certainty() -> None:
    sure = 0.9811  # two bins whose entropy is close to .1: -.9811 ln .9811 - .0189 ln .0189 = .0187 + .0750
    entropies = [-(p * math.log(p) + (1 - p) * math.log1p(-p)) for p in (sure, 0.5)]
    of = with_entropies(group([1, 0], taught=["r1"]), "r1", (sure, 1 - sure), (0.5, 0.5))
    raw = [math.exp(-h) for h in entropies]
    (_, taught) = routed().assemble([of])
    assert taught.distill_weight.tolist() == pytest.approx([2 * r / sum(raw) for r in raw])
    (_, flat) = routed(routed_beta=1e-9).assemble([of])
    assert flat.distill_weight.tolist() == pytest.approx([1.0, 1.0])


def test_the_weights_have_mean_one_over_the_step_and_the_spec_numbers() -> None:
    # H = .1 is not one of few bins with round numbers; 1.158215 is T's of five, ln 5 the uniform one's
    five = (0.10, 0.60, 0.05, 0.20, 0.05)
    one = with_entropies(group([1, 0], taught=["r1"]), "r1", five, (0.2,) * 5)
    samples = routed().assemble([one])
    weights = samples[1].distill_weight
    assert weights[0] / weights[1] == pytest.approx(0.314046 / 0.2, rel=1e-5)
    other = with_entropies(group([1, 0], taught=["r1"], task="u"), "r1", (0.2,) * 5, five)
    both = [s.distill_weight for s in routed().assemble([one, other]) if s.teacher is not None]
    assert np.mean(np.concatenate(both)) == pytest.approx(1.0)


def test_a_masked_token_neither_counts_nor_poisons() -> None:
    of = with_entropies(group([1, 0], taught=["r1"]), "r1", (0.5, 0.5), (0.9, 0.1))
    told = of.targets["r1"]
    holed = replace(told, mask_T=np.array([1.0, 0.0]), logprobs_TK=np.array([[-0.7, -0.7], [math.nan, math.nan]]))
    (_, taught) = routed().assemble([replace(of, targets={"r1": holed})])
    assert taught.distill_weight.tolist() == pytest.approx([1.0, 1.0])  # the second is masked by its teacher
    none = replace(told, mask_T=np.zeros(2))
    (_, untaught) = routed().assemble([replace(of, targets={"r1": none})])
    assert untaught.advantages.tolist() == [-0.5, -0.5]  # no usable targets: the policy gradient


def test_corrections_for_an_older_policy_are_kept() -> None:
    of = with_entropies(group([1, 0], taught=["r1"]), "r1", (0.5, 0.5), (0.5, 0.5))
    (_, taught) = routed().assemble([replace(of, corrections={"r1": np.array([0.5, 2.0])})])
    assert taught.distill_weight.tolist() == pytest.approx([0.5, 2.0])


def test_no_denominator_of_the_policy_gradient_moves() -> None:
    for normalizer in ("constant", "tokens", "sequences"):
        config = step_config(loss={"normalizer": normalizer})
        mine = count_denominators(routed().assemble([group([1, 0], taught=["r1"])]), config)
        assert mine.pg == count_denominators(BOTH.assemble([group([1, 0])]), config).pg
        assert mine.distill == 2.0


def test_without_directives_it_is_the_method_bit_for_bit() -> None:
    fed = [group([1, 0, 0.5], [refinement(0, 1.0)]), group([ERROR, 1], task="u"), group([0, 0], task="v")]
    assert_same_samples(routed().assemble(fed), BOTH.assemble(fed))
    assert (routed().name, routed().needs) == (BOTH.name, BOTH.needs)
    assert routed().assemble([]) == []


def test_the_same_rollout_id_in_another_task_is_another_rollout() -> None:
    samples = routed().assemble([group([1, 0], task="a"), group([0, 1], taught=["r0"], task="b")])
    assert [bool(s.distill_weight.any()) for s in samples] == [False, False, True, False]
