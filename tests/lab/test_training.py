"""What the worlds' starting policies have in common: the schedule, and that several losses are one step."""

from __future__ import annotations

import pytest
import torch

from critique_rl.errors import ConfigError
from critique_rl.lab.build import answer_loss
from critique_rl.lab.corpus import Example
from critique_rl.lab.measure import LabPolicy, load_lab_policy
from critique_rl.lab.packaged import policy_dir
from critique_rl.lab.training import fit, learning_rate_share

EXAMPLES = [Example("27+38=", "560"), Example("12+34=", "640")]


@pytest.fixture
def policy() -> LabPolicy:
    torch.set_num_threads(1)
    return load_lab_policy(policy_dir())


def test_learning_rate_by_hand() -> None:
    # 1000 steps: 100 of warm-up, then half a cosine over 900; 100 + 450 is its middle.
    shares = [learning_rate_share(step, 1000) for step in (0, 49, 99, 100, 550, 1000)]
    assert shares == pytest.approx([0.01, 0.5, 1.0, 1.0, 0.5, 0.0])
    assert learning_rate_share(0, 1) == 1.0


def test_several_losses_of_a_step_are_their_sum(policy: LabPolicy) -> None:
    other = load_lab_policy(policy_dir())
    for one in (policy, other):
        one.model.double()  # AdamW makes a whole step of what rounding leaves of a gradient
    fit(policy, lambda: [answer_loss(policy, [e]) for e in EXAMPLES], learning_rate=1e-3, steps=2)
    fit(other, lambda: [2 * answer_loss(other, EXAMPLES)], learning_rate=1e-3, steps=2)
    for ours, theirs in zip(policy.model.parameters(), other.model.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-8)


def test_every_step_is_told(policy: LabPolicy) -> None:
    told: list[tuple[int, int, float]] = []
    first = float(answer_loss(policy, EXAMPLES).detach())
    fit(
        policy,
        lambda: [answer_loss(policy, EXAMPLES)],
        learning_rate=1e-3,
        steps=3,
        progress=lambda *told_now: told.append(told_now),
    )
    assert [(step, steps) for step, steps, _ in told] == [(1, 3), (2, 3), (3, 3)]
    assert told[0][2] == pytest.approx(first)
    assert not policy.model.training


def test_no_step_is_refused(policy: LabPolicy) -> None:
    with pytest.raises(ConfigError, match="steps: came 0, wanted at least 1"):
        fit(policy, lambda: [], learning_rate=1e-3, steps=0)
