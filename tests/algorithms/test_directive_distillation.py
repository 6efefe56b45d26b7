"""The directive channel alone: targets where there are any, and no reward anywhere."""

from __future__ import annotations

from critique_rl.algorithms.directive_distillation import DirectiveDistillation
from critique_rl.config.algorithm import DirectiveDistillationConfig
from tests.algorithms.groups import ERROR, critique, group, refinement

ALGORITHM = DirectiveDistillation(DirectiveDistillationConfig())


def test_only_attempts_with_targets_are_distilled() -> None:
    fed = group([1, 0, ERROR], [refinement(0, 1.0)], critiques=[critique("r1", 0.4)], taught=["r1", "r2"])
    samples = ALGORITHM.assemble([fed])
    assert [s.rollout_id for s in samples] == ["r0", "r1", "r2"]  # the refinement is another method's
    assert [s.distill_weight.tolist() for s in samples] == [[0.0], [1.0, 1.0], [1.0, 1.0, 1.0]]
    assert samples[0].teacher is None
    assert samples[1].teacher is fed.targets["r1"] and samples[2].teacher is fed.targets["r2"]
    for sample in samples:
        assert not (sample.advantages.any() or sample.pg_weight.any() or sample.imitate_weight.any())
        assert sample.loss_mask.all()


def test_a_critic_outage_leaves_nothing_to_train() -> None:
    samples = ALGORITHM.assemble([group([0, 0]), group([1])])
    assert len(samples) == 3
    assert not any(s.distill_weight.any() or s.teacher for s in samples)
    assert ALGORITHM.assemble([]) == []
    assert ALGORITHM.needs == {"critique", "teacher"}
