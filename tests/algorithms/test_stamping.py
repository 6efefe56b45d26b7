"""A blank sample trains nothing, whatever it is made from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from critique_rl.algorithms.stamping import (
    accepted,
    blank,
    stamp_imitation,
    stamp_pg,
    stamp_targets,
    steps_taken,
    taught,
)
from critique_rl.config.refinement import RefinementConfig
from tests.algorithms.groups import BARE, REFINE, group, refinement, rollout


def test_a_blank_sample_trains_nothing() -> None:
    sample = blank(rollout("a", (6, 7)))
    for stream in (sample.advantages, sample.pg_weight, sample.distill_weight, sample.imitate_weight):
        assert stream.tolist() == [0.0, 0.0]
    assert sample.loss_mask.tolist() == [1.0, 1.0]
    assert sample.behaviour_logprobs.dtype == np.float64


def test_another_prompt_replaces_the_one_it_was_sampled_under() -> None:
    made = rollout("a", (6, 7), REFINE)
    assert blank(made).prompt_ids == REFINE
    assert blank(made, [4, 5]).prompt_ids == (4, 5)
    assert blank(made, [4, 5]).completion_ids == (6, 7)


def test_stamps_make_a_new_sample() -> None:
    sample = blank(rollout("a", (6, 7)))
    stamped = stamp_pg(sample, -0.5)
    assert stamped.advantages.tolist() == [-0.5, -0.5] and stamped.pg_weight.tolist() == [1.0, 1.0]
    assert not sample.advantages.any() and not sample.pg_weight.any()
    assert stamp_pg(sample, None) is sample
    assert stamp_targets(sample, group([0])) is sample  # no targets for it


def test_only_accepted_refinements_are_imitated() -> None:
    fed = group([0], [refinement(0, 1.0, rejected="truncated"), refinement(1, 1.0), refinement(2, 1.0)])
    assert [r.rollout.id for r in accepted(fed)] == ["refined-1", "refined-2"]
    samples = stamp_imitation(fed, [0.5, -0.5])
    assert [(s.rollout_id, s.advantages[0]) for s in samples] == [("refined-1", 0.5), ("refined-2", -0.5)]


def test_in_context_a_refinement_is_trained_where_it_was_sampled() -> None:
    fed = group([0], [refinement(0, 1.0)])
    (sample,) = stamp_imitation(fed, [0.5], RefinementConfig(ratio_mode="in_context"))
    assert sample.prompt_ids == REFINE and sample.guided_logprobs is not None
    assert sample.behaviour_logprobs.tolist() == sample.guided_logprobs.tolist() == [-0.5, -0.6, -0.7]
    assert sample.imitate_weight.tolist() == [1.0] * 3 and sample.advantages.tolist() == [0.5] * 3
    for mode in ("shaped", "awr", "oc_is"):
        (bare,) = stamp_imitation(fed, [0.5], RefinementConfig(ratio_mode=mode))
        assert bare.prompt_ids == BARE
        assert bare.behaviour_logprobs.tolist() == [-1.5, -1.6, -1.7]


def test_the_clock_is_the_newest_policy_that_sampled() -> None:
    fed = group([0, 1])
    newer = replace(fed, rollouts=(fed.rollouts[0], replace(fed.rollouts[1], policy_version=7)))
    assert steps_taken([newer, replace(fed, late=True)]) == 7
    assert steps_taken([fed]) == 0 and steps_taken([]) == 0


def test_taught_tokens_have_a_weight_and_a_usable_teacher() -> None:
    fed = group([0, 0, 0], taught=["r2"])
    samples = [stamp_targets(blank(r), fed) for r in fed.rollouts]
    assert taught(samples[1]).tolist() == [False, False]
    assert taught(samples[2]).tolist() == [True] * 3
    assert samples[2].teacher is not None
    partly = replace(
        samples[2],
        teacher=replace(samples[2].teacher, mask_T=np.array([1.0, 0.0, 1.0])),
        loss_mask=np.array([0.0, 1.0, 1.0]),
    )
    assert taught(partly).tolist() == [False, False, True]
