"""How a step's rows are cut into parts: every weight is in one part, and none in two."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from critique_rl.errors import ConfigError
from critique_rl.policy.parts import (
    Penalties,
    directive_part,
    evaluative_part,
    objective_parts,
    part_of,
    penalty_part,
)
from tests.policy.objectives import with_objectives
from tests.policy.test_step_reference import batch
from tests.tiny import sample


def test_the_two_kinds_of_feedback_part_the_rows_between_them() -> None:
    samples = batch()
    evaluative, directive = evaluative_part(samples, Penalties()), directive_part(samples)
    # row 2 has a directive and no advantage, row 5 is a rollout without weight, rows 6 and 7 are refinements
    assert evaluative.places == [0, 1, 3, 4] and directive.places == [1, 2, 4, 6, 7]
    assert all(r.teacher is None and not (r.distill_weight + r.imitate_weight).any() for r in evaluative.rows)
    assert not any(r.pg_weight.any() for r in directive.rows)
    for part in (evaluative, directive):
        for row, place in zip(part.rows, part.places, strict=True):
            assert row.completion_ids == samples[place].completion_ids
            assert np.array_equal(row.advantages, samples[place].advantages)
    assert part_of(samples).places == sorted({*evaluative.places, *directive.places})
    # a penalty moves rows without an advantage, too
    assert evaluative_part(samples, Penalties(kl=0.1)).places == [0, 1, 2, 3, 4]


def test_penalties_alone_have_no_advantage_and_no_rows_without_a_weight() -> None:
    assert penalty_part(batch(), Penalties()).rows == []
    for penalties in (Penalties(kl=0.1), Penalties(entropy=0.1)):
        part = penalty_part(batch(), penalties)
        assert part.places == [0, 1, 2, 3, 4] and part.penalties == penalties
        assert not any(r.advantages.any() or r.distill_weight.any() or r.imitate_weight.any() for r in part.rows)


def test_each_objective_has_its_own_advantages() -> None:
    samples = with_objectives(3)
    parts = objective_parts(samples)
    assert len(parts) == 3
    for k, part in enumerate(parts):
        assert part.penalties == Penalties() and part.places == [0, 1, 2, 3, 4]
        for row, place in zip(part.rows, part.places, strict=True):
            stamped = samples[place].objective_advantages
            assert stamped is not None and np.array_equal(row.advantages, stamped[k])
            assert row.objective_advantages is None  # else every rank would be sent all of them with each part


def test_rows_outside_the_channel_need_no_objectives() -> None:
    assert objective_parts([sample((4,), (5, 6), advantage=1.0, imitate=1.0)]) == []
    masked = sample((4,), (5, 6), advantage=1.0, pg=1.0, mask=[0, 0])
    assert [part.places for part in objective_parts([*with_objectives(2), masked])] == [[0, 1, 2, 3, 4]] * 2


def test_what_a_rollout_lacks_is_told() -> None:
    bare = replace(sample((4,), (5,), pg=1.0, advantage=1.0), rollout_id="x")
    with pytest.raises(ConfigError, match=r"objective_advantages of rollout 'x': none came.*those of each obj"):
        objective_parts([bare])
    with pytest.raises(ConfigError, match=r"objective_advantages of rollout 'x': none came.*those of 2 obj"):
        objective_parts([*with_objectives(2), bare])
