"""What pass@k training stamps: advantages by group, and what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from critique_rl.algorithms.by_name import build_algorithm
from critique_rl.algorithms.pass_at_k import PassAtK
from critique_rl.config.algorithm import PassAtKConfig
from critique_rl.config.load import validate
from critique_rl.errors import ConfigError
from critique_rl.types import Score, ScoreStatus
from tests.algorithms.groups import ERROR, advantages, group


def method(**options: object) -> PassAtK:
    return PassAtK(PassAtKConfig.model_validate(options))


def test_a_group_by_hand() -> None:
    # 3 of 4 wrong, k = 2: C(3, 2) / C(4, 2) = .5, s = .5; right 1; wrong (.5 - 2 / 3) / .5 = -1 / 3
    algorithm = method(k=2)
    samples = algorithm.assemble([group([0, 1, 0, 0]), group([1, 1, 1, 0], task="u")])
    assert advantages(samples) == pytest.approx([-1 / 3, 1.0, -1 / 3, -1 / 3, 0, 0, 0, 0])
    assert all(s.pg_weight.all() and not s.imitate_weight.any() and not s.distill_weight.any() for s in samples)
    assert algorithm.figures() == {"pass_at_k/live_groups": 0.5}


def test_failed_verifiers_do_not_count_and_too_few_teach_nothing() -> None:
    samples = method(k=2).assemble([group([0, ERROR, 1, 0, 0])])
    assert advantages(samples) == pytest.approx([-1 / 3, 0, 1.0, -1 / 3, -1 / 3])
    assert [bool(s.pg_weight.any()) for s in samples] == [True, False, True, True, True]
    few = method(k=4).assemble([group([0, ERROR, 1])])
    assert advantages(few) == [0, 0, 0] and not any(s.pg_weight.any() for s in few)
    nobody = method(k=1)
    assert nobody.assemble([group([ERROR])])[0].pg_weight.any() == False and nobody.figures() == {}  # noqa: E712


def test_late_groups_have_had_their_step() -> None:
    late = replace(group([0, 1]), late=True)
    assert not any(s.pg_weight.any() for s in method(k=1).assemble([late]))


def test_partial_credit_needs_a_threshold() -> None:
    with pytest.raises(ConfigError, match=r"algorithm.threshold: rollout r1 .* reward 0.5"):
        method(k=1).assemble([group([0, 0.5])])
    samples = method(k=1, threshold=0.5).assemble([group([0, 0.5])])
    assert advantages(samples) == pytest.approx([-1.0, 1.0])
    broken = group([0, 1])
    broken = replace(broken, scores=(Score(reward=math.nan), broken.scores[1]))
    with pytest.raises(ConfigError, match="no number"):
        method(k=1).assemble([broken])


def test_an_unread_answer_is_wrong() -> None:
    unread = group([1, 0])
    unread = replace(unread, scores=(unread.scores[0], Score(reward=0.0, status=ScoreStatus.UNPARSED)))
    assert advantages(method(k=1).assemble([unread])) == pytest.approx([1.0, -1.0])


def test_a_right_answer_becomes_likelier() -> None:
    """One step on one logit: the sign of what the sample does to its own log-prob."""
    (right, wrong) = method(k=1).assemble([group([1, 0])])
    for sample, direction in ((right, 1), (wrong, -1)):
        logit = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        logprob = torch.nn.functional.logsigmoid(logit)
        (-(logprob * float(sample.advantages[0]))).sum().backward()
        assert logit.grad is not None and math.copysign(1, -float(logit.grad)) == direction


def test_by_its_name() -> None:
    config = validate({"algorithm": {"name": "pass_at_k", "k": 8, "threshold": 0.5}}, source="test")
    built = build_algorithm(config.algorithm)
    assert type(built) is PassAtK and built.name == "pass_at_k" and built.needs == frozenset()
    with pytest.raises(ConfigError, match=r"algorithm.k = 9 came with rollout.group_size = 8"):
        validate({"algorithm": {"name": "pass_at_k", "k": 9}}, source="test")
