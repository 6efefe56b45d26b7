"""The wire on the gradients' conflict: it moves with measurements, and lets go of what it stops them for."""

from __future__ import annotations

import json

import pytest

from critique_rl.config.guards import GuardsConfig
from critique_rl.schedule.trip_wires import TripWires
from tests.schedule.test_trip_wires import SHARP, SOUND, Vitals, ready


def step(wires: TripWires, cosine: float | None = None, changes: Vitals | None = None) -> str | None:
    wires.observe(**{**SOUND, **(changes or {})}, injecting=True, conflict=cosine)
    return wires.message()


def tripped(**options: object) -> TripWires:
    wires = ready(**options)
    assert [step(wires, -0.8) is None for _ in range(3)] == [True, True, False]
    return wires


def test_the_limit_by_hand() -> None:
    wires = ready()
    assert [step(wires, -0.49) for _ in range(10)] == [None] * 10
    assert wires.figures()["guards/conflict"] == pytest.approx(0.98) and wires.allows_injection
    said = [step(wires, -0.51) for _ in range(3)]
    assert said[:2] == [None, None] and said[2] is not None
    assert said[2].startswith(
        "trip wire 'conflict': the gradients of evaluative and directive feedback pull against each other (cosine "
        "-0.51) while success has not risen, for 3 measurements in a row; refinements and directive targets stop"
    )
    assert not wires.allows_injection
    assert ready(max_conflict=0.9).config.max_conflict == 0.9
    lenient = ready(max_conflict=0.9)
    assert [step(lenient, -0.89) for _ in range(10)] == [None] * 10 and lenient.allows_injection


def test_gradients_that_agree_are_quiet() -> None:
    wires = ready()
    assert [step(wires, cosine) for cosine in (0.0, 0.5, 1.0, -0.1)] == [None] * 4
    step(wires, 1.0)
    assert wires.figures()["guards/conflict"] == 0


def test_steps_without_a_measurement_neither_help_nor_harm() -> None:
    wires = ready()
    for _ in range(2):
        step(wires, -0.9)
        assert [step(wires) for _ in range(7)] == [None] * 7
        assert wires.figures()["guards/conflict"] == pytest.approx(1.8)
    assert wires.allows_injection
    said = step(wires, -0.9)
    assert said is not None and "for 3 measurements in a row" in said


def test_one_measurement_within_the_limit_begins_the_count_anew() -> None:
    wires = ready()
    for _ in range(5):
        assert [step(wires, cosine) for cosine in (-0.9, -0.9, -0.4)] == [None] * 3
    assert wires.allows_injection


def test_a_conflict_that_success_pays_for_only_warns() -> None:
    wires = ready()
    assert [step(wires, -0.9, {"success": 0.43}) for _ in range(10)] == [None] * 10
    assert wires.allows_injection and wires.figures()["guards/warned"] == 1


def test_without_injection_there_is_nothing_to_measure_and_the_wire_recovers() -> None:
    wires = tripped()
    assert [step(wires) for _ in range(3)] == [None] * 3 and not wires.allows_injection
    said = step(wires)
    assert said == "trip wire 'conflict' has been quiet for 4 steps; refinements and directive targets go on"
    assert wires.allows_injection
    assert [step(wires, -0.9) is None for _ in range(3)] == [True, True, False]
    assert wires.figures()["guards/trips"] == 2


def test_a_wire_that_stops_nothing_is_measured_on_and_recovers_by_that() -> None:
    wires = tripped(mode="warn")
    for _ in range(5):
        # however long nothing is measured, what was measured last still holds
        assert [step(wires) for _ in range(9)] == [None] * 9
        assert step(wires, -0.9) is None
    assert wires.figures()["guards/tripped"] == 1
    said = [step(wires), step(wires, -0.1), step(wires), step(wires), step(wires)]
    assert said[:4] == [None] * 4
    assert said[4] is not None and said[4].startswith("trip wire 'conflict' has been quiet for 4 steps")


def test_it_waits_until_injection_has_gone_on_for_a_while() -> None:
    wires = TripWires(GuardsConfig.model_validate({**SHARP, "min_steps": 6}))
    for _ in range(5):
        step(wires, -1.0)
    assert wires.figures()["guards/tripped"] == 0 and "guards/conflict" not in wires.figures()


def test_resuming_is_exact_at_every_step() -> None:
    script = [-0.9, None, -0.9, None, -0.9, None, None, None, None, -0.9, 0.2, -0.9]
    whole = ready()
    expected = [step(whole, cosine) for cosine in script]
    assert sum(said is not None for said in expected) == 2
    for cut in range(len(script) + 1):
        first, second = ready(), TripWires(GuardsConfig.model_validate(SHARP))
        head = [step(first, cosine) for cosine in script[:cut]]
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert head + [step(second, cosine) for cosine in script[cut:]] == expected
        assert second.state_dict() == whole.state_dict()


def test_a_limit_that_nothing_is_measured_for_is_refused() -> None:
    with pytest.raises(ValueError, match=r"max_conflict = 0.4 has no effect with conflict_every = 0"):
        GuardsConfig(conflict_every=0, max_conflict=0.4)
    assert GuardsConfig(conflict_every=0).max_conflict == GuardsConfig(max_conflict=0.5).max_conflict
