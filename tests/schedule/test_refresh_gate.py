"""When a gated teacher follows: after a better stretch whose length tail is safe, and at no other time."""

from __future__ import annotations

import json

import pytest

from critique_rl.errors import CheckpointError
from critique_rl.schedule.refresh_gate import RefreshGate


def stretch(gate: RefreshGate, reward: float, *, p95: float = 100.0, truncated: float = 0.0) -> list[bool]:
    return [gate.observe(reward=reward, p95_tokens=p95, truncated=truncated) for _ in range(gate.every)]


def test_the_first_stretch_is_only_what_the_next_is_compared_with() -> None:
    gate = RefreshGate(every=3)
    assert stretch(gate, 0.2) == [False, False, False]
    assert stretch(gate, 0.3) == [False, False, True]


@pytest.mark.parametrize(
    ("reward", "p95", "truncated", "follows"),
    [
        (0.21, 100.0, 0.0, True),
        (0.2, 100.0, 0.0, False),  # no better
        (0.1, 100.0, 0.0, False),
        (0.9, 120.0, 0.05, True),  # at both limits
        (0.9, 120.1, 0.0, False),
        (0.9, 100.0, 0.051, False),
    ],
)
def test_better_and_no_longer(reward: float, p95: float, truncated: float, follows: bool) -> None:
    gate = RefreshGate(every=1)
    stretch(gate, 0.2)
    assert stretch(gate, reward, p95=p95, truncated=truncated) == [follows]


def test_after_a_refusal_the_old_reference_stands_and_after_a_refresh_the_new_one() -> None:
    gate = RefreshGate(every=1)
    found = [gate.observe(reward=r, p95_tokens=10.0, truncated=0.0) for r in (0.5, 0.4, 0.45, 0.6, 0.55, 0.7)]
    assert found == [False, False, False, True, False, True]
    assert gate.figures() == {"teacher/refreshes": 2.0, "teacher/held": 3.0}


def test_a_step_of_which_nothing_is_known_does_not_count() -> None:
    gate = RefreshGate(every=2)
    gate.observe(reward=0.2, p95_tokens=10.0, truncated=0.0)
    assert gate.observe(reward=None, p95_tokens=10.0, truncated=0.0) is False
    gate.observe(reward=0.2, p95_tokens=10.0, truncated=0.0)
    assert stretch(gate, 0.3, p95=10.0) == [False, True]


def test_a_resumed_gate_decides_as_an_unbroken_one() -> None:
    one, two = RefreshGate(every=2), RefreshGate(every=2)
    for gate in (one, two):
        stretch(gate, 0.2)
        gate.observe(reward=0.3, p95_tokens=100.0, truncated=0.0)
    resumed = RefreshGate(every=2)
    resumed.load_state_dict(json.loads(json.dumps(two.state_dict())))
    assert one.observe(reward=0.3, p95_tokens=100.0, truncated=0.0)
    assert resumed.observe(reward=0.3, p95_tokens=100.0, truncated=0.0)
    assert resumed.state_dict() == one.state_dict()
    assert resumed.state_dict() == {
        "now": {"steps": 0, "reward": 0.0, "p95_tokens": 0.0, "truncated": 0.0},
        "reference": {"reward": 0.3, "p95": 100.0, "truncated": 0.0},
        "refreshes": 1,
        "held": 0,
    }


@pytest.mark.parametrize(
    ("broken", "field"),
    [({"now": {"steps": "some"}}, "now.steps"), ({"reference": {"reward": None}}, "reference.reward")],
)
def test_a_state_that_it_did_not_write_is_refused_by_field_and_leaves_the_gate_as_it_was(
    broken: dict[str, object], field: str
) -> None:
    gate = RefreshGate(every=2)
    gate.observe(reward=0.2, p95_tokens=10.0, truncated=0.0)
    before = gate.state_dict()
    with pytest.raises(CheckpointError, match=f"teacher gate in the checkpoint: field '{field}'"):
        gate.load_state_dict({**before, **broken})
    assert gate.state_dict() == before
