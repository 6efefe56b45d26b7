"""Rewards that a method is told instead of the verified ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from critique_rl.algorithms.by_name import build_algorithm
from critique_rl.algorithms.critique_grpo import CritiqueGrpo
from critique_rl.algorithms.grpo import Grpo
from critique_rl.algorithms.pass_at_k import PassAtK
from critique_rl.algorithms.reshaped import Reshaped
from critique_rl.config.algorithm import CritiqueGrpoConfig, GrpoConfig, PassAtKConfig
from critique_rl.config.load import validate
from critique_rl.types import Group, TrainSample
from tests.algorithms.groups import ERROR, advantages, assert_same_samples, group, refinement


def shaped(**options: float) -> Reshaped:
    return Reshaped(
        Grpo(GrpoConfig()),
        unlikeliness=options.get("unlikeliness", 0.0),
        overlong_buffer=int(options.get("overlong_buffer", 0)),
        max_tokens=int(options.get("max_tokens", 8)),
    )


def with_logprobs(of: Group, *sums: float) -> Group:
    """Rollout i has the summed log-prob `sums[i]`, spread evenly over its tokens."""
    rollouts = tuple(
        replace(r, behaviour_logprobs=(total / len(r.completion_ids),) * len(r.completion_ids))
        for r, total in zip(of.rollouts, sums, strict=True)
    )
    return replace(of, rollouts=rollouts)


def test_unlikeliness_by_hand() -> None:
    # ranks by likelihood 1, 3, 0, 2 of 4; right ones: 1 - .25 * 3/4 = .8125 and 1 - .25 * 1/4 = .9375; mean .4375
    of = with_logprobs(group([1, 1, 0, 0]), -2.0, -9.0, -1.0, -3.0)
    assert advantages(shaped(unlikeliness=0.25).assemble([of])) == pytest.approx([0.375, 0.5, -0.4375, -0.4375])


def test_the_rarest_right_answer_gains_also_where_all_are_right() -> None:
    of = with_logprobs(group([1, 1, 1]), -1.0, -5.0, -3.0)
    moved = advantages(shaped(unlikeliness=0.25).assemble([of]))
    assert moved[1] > moved[2] == pytest.approx(0.0) and moved[2] > moved[0]


def test_likelihood_is_of_whole_answers_and_equal_answers_stay_equal() -> None:
    # r0 has one token of -3, r1 two of -2: as a whole r1 is rarer, though each of its tokens is likelier
    of = with_logprobs(group([1, 1]), -3.0, -4.0)
    assert (moved := advantages(shaped(unlikeliness=0.5).assemble([of])))[1] > moved[0]
    same = with_logprobs(group([1, 1, 0]), -3.0, -3.0, -1.0)
    left, right, _ = advantages(shaped(unlikeliness=0.5).assemble([same]))
    assert left == right


def test_tool_outputs_are_not_the_policys_words() -> None:
    # -8 of r1's -9 is a tool's output: by its own words it is the likelier one
    of = with_logprobs(group([1, 1]), -2.0, -9.0)
    masked = replace(of.rollouts[1], behaviour_logprobs=(-1.0, -8.0), policy_mask=(True, False))
    of = replace(of, rollouts=(of.rollouts[0], masked))
    moved = advantages_of_own(shaped(unlikeliness=0.5).assemble([of]))
    assert moved[0] > moved[1]


def advantages_of_own(samples: Sequence[TrainSample]) -> list[float]:
    return [float(s.advantages[0]) for s in samples]


def test_the_overlong_penalty_by_hand() -> None:
    # rollouts of 1, 2, 3, 4 tokens, L = 4, C = 2: 0, 0, -.5, -1; mean -.375
    assert advantages(shaped(overlong_buffer=2, max_tokens=4).assemble([group([0, 0, 0, 0])])) == pytest.approx(
        [0.375, 0.375, -0.125, -0.625]
    )
    # both: the likelier of two right ones (rank 0: .75, one token) and the other (rank 1: .875 - 1, four tokens)
    of = with_logprobs(group([1, 0, 0, 1]), -1.0, -2.0, -3.0, -4.0)
    # ranks 0 and 3 of 4: 1 - .25 and 1 - .25 / 4; lengths 1..4
    both = shaped(unlikeliness=0.25, overlong_buffer=2, max_tokens=4).assemble([of])
    rewards = [0.75, 0.0, -0.5, 0.9375 - 1.0]
    mean = sum(rewards) / 4
    assert advantages(both) == pytest.approx([r - mean for r in rewards])


def test_a_failed_verifier_stays_no_evidence() -> None:
    of = with_logprobs(group([1, ERROR, 0]), -2.0, -0.1, -1.0)
    moved = advantages(shaped(unlikeliness=0.25).assemble([of]))
    # of the two that count, the right one is rank 1 of 2: 1 - .25 / 2 = .875
    assert moved == pytest.approx([0.4375, 0.0, -0.4375])


def test_second_attempts_keep_their_reward() -> None:
    of = with_logprobs(group([0, 0], [refinement(0, 1.0)]), -1.0, -2.0)
    plain = CritiqueGrpo(CritiqueGrpoConfig())
    turned = Reshaped(plain, unlikeliness=0.25, overlong_buffer=0, max_tokens=8)
    assert_same_samples(turned.assemble([of]), plain.assemble([of]))


def test_the_groups_that_came_are_left_as_they_are() -> None:
    of = group([1, 0])
    before = of.scores
    shaped(overlong_buffer=4, unlikeliness=0.9).assemble([of])
    assert of.scores is before


def test_what_a_method_counts_is_still_told() -> None:
    inner = PassAtK(PassAtKConfig(k=1))
    outer = Reshaped(inner, unlikeliness=0.0, overlong_buffer=0, max_tokens=8)
    outer.assemble([group([0, 1])])
    assert outer.figures() == inner.figures() != {}
    assert shaped().figures() == {}


def test_built_where_the_section_asks_for_it() -> None:
    config = validate(
        {"sampling": {"unlikeliness": 0.25, "overlong_buffer": 3}, "rollout": {"max_tokens": 9}}, source="test"
    )
    built = build_algorithm(config.algorithm, sampling=config.sampling, max_tokens=9)
    assert isinstance(built, Reshaped) and isinstance(built.method, Grpo)
    assert (built.unlikeliness, built.overlong_buffer, built.max_tokens) == (0.25, 3, 9)
    assert (built.name, built.needs) == ("grpo", frozenset())
    filtered = validate({"sampling": {"overlong_filter": True}}, source="test")
    assert not isinstance(build_algorithm(filtered.algorithm, sampling=filtered.sampling), Reshaped)
