"""Wires against their own references: what trips, what must go with it, hysteresis, and the way back."""

from __future__ import annotations

import json

import pytest

from critique_rl.config.guards import GuardsConfig
from critique_rl.errors import CheckpointError
from critique_rl.schedule.trip_wires import TripWires

Vitals = dict[str, float | None]
SOUND: Vitals = {"entropy": 1.0, "p50_tokens": 100.0, "p95_tokens": 200.0, "truncated": 0.05, "success": 0.4}
# the present value is the latest step alone, so that limits can be met by hand
SHARP = {"recent_steps": 1, "reference_steps": 1, "min_steps": 2, "sustain_steps": 3, "cooldown_steps": 4}


def watch(wires: TripWires, steps: int, changes: Vitals | None = None, *, injecting: bool = True) -> list[str | None]:
    """The messages of some equal steps."""
    said: list[str | None] = []
    for _ in range(steps):
        wires.observe(**{**SOUND, **(changes or {})}, injecting=injecting)
        said.append(wires.message())
    return said


def ready(**options: object) -> TripWires:
    """Wires with a reference, and injection long enough under way."""
    wires = TripWires(GuardsConfig.model_validate({**SHARP, **options}))
    watch(wires, 4, injecting=False)
    watch(wires, 2)
    return wires


@pytest.mark.parametrize(
    ("wire", "changes", "beyond"),
    [
        # success below half of its best, 0.4; median below 70 of 100; p95 above twice 200; truncated above 0.05 + 0.25
        ("success", {"success": 0.21}, {"success": 0.19}),
        ("short", {"p50_tokens": 71.0}, {"p50_tokens": 69.0}),
        ("long", {"p95_tokens": 399.0}, {"p95_tokens": 401.0}),
        ("truncated", {"truncated": 0.29}, {"truncated": 0.31}),
        # entropy below half or above twice 1.0, while success is more than half way to its own limit (below 0.3)
        ("low_entropy", {"entropy": 0.51, "success": 0.29}, {"entropy": 0.49, "success": 0.29}),
        ("high_entropy", {"entropy": 1.99, "success": 0.29}, {"entropy": 2.01, "success": 0.29}),
    ],
)
def test_each_limit_by_hand(wire: str, changes: Vitals, beyond: Vitals) -> None:
    wires = ready()
    assert watch(wires, 10, changes) == [None] * 10
    assert 0.9 < wires.figures()[f"guards/{wire}"] < 1 and wires.allows_injection
    said = watch(wires, 3, beyond)
    assert said[:2] == [None, None] and said[2] is not None
    assert said[2].startswith(f"trip wire {wire!r}: ") and "for 3 steps in a row" in said[2]
    assert "the run goes on as scalar GRPO" in said[2]
    assert not wires.allows_injection
    assert wires.figures()["guards/tripped"] == wires.figures()["guards/trips"] == 1


@pytest.mark.parametrize("entropy", [0.01, 50.0])
def test_entropy_alone_only_warns(entropy: float) -> None:
    wires = ready()
    assert watch(wires, 50, {"entropy": entropy}) == [None] * 50
    assert wires.allows_injection and wires.figures()["guards/warned"] == 1


def test_entropy_trips_with_a_length_that_has_left_its_band() -> None:
    wires = ready(sustain_steps=2)
    watch(wires, 2, {"entropy": 0.4, "p95_tokens": 401.0})
    assert wires.figures()["guards/tripped"] == 2
    said = watch(ready(sustain_steps=2), 2, {"entropy": 0.4, "p95_tokens": 401.0})[1]
    assert said is not None and "while length has left its band" in said


@pytest.mark.parametrize("changes", [{"p50_tokens": 20.0}, {"p95_tokens": 900.0}, {"truncated": 0.9}, {"entropy": 0.1}])
def test_nothing_that_comes_with_a_gain_of_success_trips(changes: Vitals) -> None:
    wires = ready()
    # 0.42 is the reference and flat_success, with room for rounding
    assert watch(wires, 20, {**changes, "success": 0.43}) == [None] * 20
    assert wires.allows_injection
    assert watch(wires, 20, {**changes, "entropy": 0.1, "p95_tokens": 900.0, "success": 0.43}) == [None] * 20


def test_short_excursions_and_broken_runs_of_them_do_not_trip() -> None:
    wires = ready()
    for _ in range(10):
        watch(wires, 2, {"success": 0.0})
        watch(wires, 1)
    assert wires.allows_injection


def test_success_is_measured_from_its_best_not_from_its_start() -> None:
    wires = ready()
    watch(wires, 20, {"success": 0.9})
    said = watch(wires, 3, {"success": 0.44})  # above the reference, below half of the best
    assert said[2] is not None and "success fell to 0.44 from 0.90 at its best" in said[2]


def test_a_small_fall_of_a_small_success_rate_is_no_evidence() -> None:
    wires = ready()
    watch(wires, 4, {"success": 0.09}, injecting=False)
    wires = TripWires(GuardsConfig.model_validate(SHARP))
    watch(wires, 4, {"success": 0.09}, injecting=False)
    watch(wires, 20, {"success": 0.0})
    assert wires.allows_injection


def test_tiny_references_do_not_make_ratios_of_noise() -> None:
    start: Vitals = {"entropy": 0.01, "p50_tokens": 3.0, "p95_tokens": 3.0, "success": 0.9}
    wires = TripWires(GuardsConfig.model_validate(SHARP))
    watch(wires, 4, start, injecting=False)
    drift: Vitals = {"entropy": 0.05, "p50_tokens": 2.0, "p95_tokens": 4.5, "success": 0.6}
    watch(wires, 20, drift)
    assert wires.allows_injection and wires.figures()["guards/warned"] == 0


def test_entropy_that_rises_from_nothing_is_seen() -> None:
    wires = TripWires(GuardsConfig.model_validate(SHARP))
    watch(wires, 4, {"entropy": 0.0}, injecting=False)
    watch(wires, 2, {"entropy": 0.0})
    assert wires.figures()["guards/high_entropy"] == 0
    watch(wires, 3, {"entropy": 0.2, "success": 0.25})
    assert not wires.allows_injection


def test_a_tripped_wire_recovers_only_after_a_quiet_time_and_can_trip_again() -> None:
    wires = ready()
    watch(wires, 3, {"success": 0.1})
    watch(wires, 3)
    assert watch(wires, 1, {"success": 0.25}) == [None]  # more than half way to the limit: the quiet time starts anew
    assert watch(wires, 3) == [None] * 3 and not wires.allows_injection
    (said,) = watch(wires, 1)
    assert said == "trip wire 'success' has been quiet for 4 steps; refinements and directive targets go on"
    assert wires.allows_injection
    assert watch(wires, 3, {"success": 0.1})[2] is not None
    assert not wires.allows_injection and wires.figures()["guards/trips"] == 2


def test_the_last_wire_that_recovers_lets_injection_go_on() -> None:
    wires = ready()
    watch(wires, 3, {"success": 0.1, "truncated": 0.9})
    said = watch(wires, 4, {"truncated": 0.9})
    assert said[3] is not None and said[3].endswith("still tripped: truncated") and not wires.allows_injection
    said = watch(wires, 4)
    assert said[3] is not None and said[3].endswith("go on") and wires.allows_injection


def test_a_wire_that_only_says_so_stops_nothing() -> None:
    wires = ready(mode="warn")
    said = watch(wires, 3, {"success": 0.0})[2]
    assert said is not None and "'warn', so nothing is stopped" in said
    assert wires.allows_injection and wires.figures()["guards/tripped"] == 1


def test_off_watches_nothing() -> None:
    wires = ready(mode="off")
    watch(wires, 20, {"success": 0.0})
    assert (
        wires.allows_injection
        and wires.figures() == {}
        and wires.state_dict() == TripWires(GuardsConfig()).state_dict()
    )


def test_before_injection_and_with_little_evidence_nothing_trips() -> None:
    wires = TripWires(GuardsConfig.model_validate(SHARP))
    watch(wires, 4, injecting=False)
    assert watch(wires, 20, {"success": 0.0}, injecting=False) == [None] * 20
    late = TripWires(GuardsConfig.model_validate({**SHARP, "min_steps": 6}))
    watch(late, 6, injecting=False)
    watch(late, 5, {"success": 0.0})
    assert late.figures()["guards/tripped"] == 0


def test_a_run_that_injects_from_its_first_step_takes_its_first_steps_as_the_reference() -> None:
    wires = TripWires(GuardsConfig.model_validate(SHARP))
    watch(wires, 5)
    assert watch(wires, 3, {"p50_tokens": 60.0})[2] is not None


def test_the_reference_stands_still_once_injection_has_begun() -> None:
    wires = ready()
    for tokens in range(99, 65, -1):  # a slow slide is measured from where it began
        watch(wires, 1, {"p50_tokens": float(tokens)})
    assert not wires.allows_injection


def test_means_are_exponential_and_without_a_pull_to_zero() -> None:
    wires = TripWires(GuardsConfig(reference_steps=9, recent_steps=4, min_steps=1, min_length=0.5))
    for tokens in (100.0, 200.0):
        watch(wires, 1, {"p50_tokens": tokens}, injecting=False)
    watch(wires, 1, {"p50_tokens": 90.0, "success": 0.4})
    # rate 2/10: (0.8 * 20 + 0.2 * 200) / (1 - 0.8^2) = 56 / 0.36; rate 2/5 over 100, 200, 90:
    # (0.36 * 40 + 0.6 * 80 + 36) / (1 - 0.6^3) = 98.4 / 0.784
    expected = (1 - (98.4 / 0.784) / (56 / 0.36)) / 0.5
    assert wires.figures()["guards/short"] == pytest.approx(expected)


def test_what_is_not_known_is_left_out() -> None:
    nothing: Vitals = {"entropy": None, "p50_tokens": None, "p95_tokens": None, "truncated": None, "success": None}
    wires = TripWires(GuardsConfig.model_validate(SHARP))
    watch(wires, 20, nothing)
    assert wires.allows_injection and wires.figures()["guards/tripped"] == 0
    wires = ready()
    before = wires.figures()
    watch(wires, 5, nothing)
    assert wires.figures() == before


def test_resuming_is_exact_at_every_step() -> None:
    script: list[Vitals] = [
        {},
        {},
        {"success": 0.1},
        {"success": 0.1},
        {"success": 0.1},
        {},
        {},
        {},
        {},
        {"entropy": 0.1},
    ]

    def play(wires: TripWires, part: list[Vitals]) -> list[str | None]:
        return [said for changes in part for said in watch(wires, 1, changes)]

    whole = ready()
    expected = play(whole, script)
    for cut in range(len(script) + 1):
        first, second = ready(), TripWires(GuardsConfig.model_validate(SHARP))
        head = play(first, script[:cut])
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert head + play(second, script[cut:]) == expected
        assert second.state_dict() == whole.state_dict() and second.figures() == whole.figures()


def test_the_state_does_not_grow_with_the_run() -> None:
    wires = ready()
    watch(wires, 3, {"success": 0.1})
    size = len(json.dumps(wires.state_dict()))
    watch(wires, 300)
    assert len(json.dumps(wires.state_dict())) < size + 100


def test_a_foreign_state_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"trip wires in the checkpoint.*older checkpoint"):
        TripWires(GuardsConfig()).load_state_dict({"wires": {"success": {"state": "gone"}}})
