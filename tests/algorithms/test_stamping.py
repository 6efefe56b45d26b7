"""A blank sample trains nothing, whatever it is made from."""

from __future__ import annotations

import numpy as np

from critique_rl.algorithms.stamping import accepted, blank, stamp_imitation, stamp_pg, stamp_targets
from tests.algorithms.groups import REFINE, group, refinement, rollout


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
