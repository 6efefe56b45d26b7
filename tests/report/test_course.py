"""A run over its whole length: what its files say, when a plateau is broken, and how low success falls after that."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critique_rl.errors import DataError
from critique_rl.report.course import Course, Evaluation, Floor, curve_of, floor_of, read_course

rates = st.lists(st.integers(0, 20).map(lambda n: n / 20), min_size=1, max_size=12)


def evaluations(success: Sequence[float], *, kind: str = "hard", every: int = 50) -> tuple[Evaluation, ...]:
    return tuple(Evaluation(i * every, i * 1000, {kind: rate}) for i, rate in enumerate(success))


def course(success: Sequence[float], *, every: int = 50) -> Course:
    return Course(
        evaluations=evaluations(success, every=every),
        lowest_entropy=None,
        highest_entropy=None,
        wires={},
        trips=None,
        trip_messages=(),
    )


@pytest.mark.parametrize(
    ("success", "floor"),
    [
        # best 0.9, half of it 0.45: first reached by the 0.5 at step 100, and 0.7 is the lowest later
        ((0.0, 0.1, 0.5, 0.9, 0.7, 0.8), Floor(100, 0.7)),
        # half of the best exactly
        ((0.2, 0.4, 0.8, 0.6), Floor(50, 0.6)),
        # mastered from the start, lost and found again
        ((1.0, 0.1, 0.95), Floor(0, 0.1)),
        # a collapse for good
        ((0.0, 0.8, 0.0, 0.0), Floor(50, 0.0)),
        # broken at the very end: nothing is known of what follows
        ((0.0, 0.0, 0.6), Floor(100, None)),
        # never broken
        ((0.0, 0.0, 0.0), Floor(None, None)),
        ((), Floor(None, None)),
    ],
)
def test_floor_by_hand(success: Sequence[float], floor: Floor) -> None:
    assert floor_of(evaluations(success), "hard") == floor


def test_a_class_that_was_not_asked_has_no_floor_and_no_curve() -> None:
    assert floor_of(evaluations([1.0, 1.0]), "easy") == Floor(None, None)
    assert curve_of([course([1.0, 1.0])], "easy") == []
    assert curve_of([], "easy") == []


@given(rates)
def test_the_floor_is_what_a_plain_loop_finds(success: list[float]) -> None:
    broken, floor = None, None
    for i, rate in enumerate(success):
        if broken is not None:
            floor = rate if floor is None or rate < floor else floor
        elif rate > 0 and all(2 * rate >= other for other in success):
            broken = 50 * i
    assert floor_of(evaluations(success), "hard") == Floor(broken, floor)


@given(rates)
def test_what_comes_before_the_break_does_not_move_the_floor(success: list[float]) -> None:
    found = floor_of(evaluations(success), "hard")
    later = floor_of(evaluations([0.0, 0.0, *success]), "hard")
    assert later.success == found.success
    assert later.broken_step == (None if found.broken_step is None else found.broken_step + 100)


def test_a_curve_is_the_mean_at_the_steps_that_every_seed_reached() -> None:
    one, two = course([0.0, 0.5, 1.0]), course([0.2, 0.9])
    points = curve_of([one, two], "hard")
    # (0 + 0.2) / 2 and (0.5 + 0.9) / 2; the third evaluation has one seed only
    assert [(p.step, p.tokens, p.lowest, p.highest) for p in points] == [(0, 0, 0.0, 0.2), (50, 1000, 0.5, 0.9)]
    assert [p.success for p in points] == pytest.approx([0.1, 0.7])


def put(directory: Path, metrics: Sequence[object], events: Sequence[object] = ()) -> None:
    for name, rows in (("metrics.jsonl", metrics), ("events.jsonl", events), ("samples.jsonl", ())):
        (directory / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_a_course_is_read_off_the_files_of_a_run(tmp_path: Path) -> None:
    bounds = {"eval/hard/low": 0.0, "eval/hard/high": 0.2}
    passed = {"eval/hard/pass@4": 0.3, "eval/hard/pass@4/low": 0.1, "eval/hard/pass@4/high": 0.5}
    put(
        tmp_path,
        [
            {"step": 0, "eval/hard": 0.0, **bounds, "tokens/generated": 0.0},
            {
                "step": 1,
                "policy/entropy_estimate": 0.3,
                "tokens/generated": 500.0,
                "critic/completion_tokens": 40.0,
                "guards/success": 0.2,
                "guards/long": None,
                "guards/tripped": 0.0,
                "guards/warned": 3.0,
                "guards/allows_injection": 1.0,
                "guards/trips": 0.0,
            },
            {"step": 1, "eval/hard": 0.1, **bounds, **passed, "tokens/generated": 500.0},
            {"step": 2, "policy/entropy_estimate": 0.1, "guards/success": 1.5, "guards/trips": 2.0},
            {"step": 3, "guards/success": 0.4},
        ],
        [
            {"step": 1, "kind": "stall", "message": "stalled"},
            *({"step": n, "kind": "guards", "message": f"wire {n}"} for n in (2, 3, 4, 5)),
        ],
    )
    found = read_course(tmp_path, ["hard", "easy"])
    # 500 generated and 40 by the critic
    assert found.evaluations == (Evaluation(0, 0, {"hard": 0.0}), Evaluation(1, 540, {"hard": 0.1}))
    assert (found.lowest_entropy, found.highest_entropy) == (0.1, 0.3)
    assert found.wires == {"success": 1.5}
    assert found.trips == 2
    assert found.trip_messages == ("step 3: wire 3", "step 4: wire 4", "step 5: wire 5")
    assert json.loads(json.dumps(found.to_json()))["evaluations"][1] == {
        "step": 1,
        "tokens": 540,
        "success": {"hard": 0.1},
    }


def test_a_policy_that_is_sure_of_everything_has_no_entropy_rather_than_minus_none(tmp_path: Path) -> None:
    put(tmp_path, [{"step": 1, "policy/entropy_estimate": -0.0}])
    assert f"{read_course(tmp_path, ['hard', 'easy']).lowest_entropy:.2f}" == "0.00"


def test_without_guards_or_metrics_nothing_is_made_up(tmp_path: Path) -> None:
    put(tmp_path, [{"step": 1, "loss/total": 0.0}])
    found = read_course(tmp_path, ["hard", "easy"])
    assert found == Course(
        evaluations=(), lowest_entropy=None, highest_entropy=None, wires={}, trips=None, trip_messages=()
    )
    (tmp_path / "metrics.jsonl").unlink()
    assert read_course(tmp_path, ["hard", "easy"]) == found
    with pytest.raises(DataError, match="no such run directory"):
        read_course(tmp_path / "nowhere", ["hard"])
