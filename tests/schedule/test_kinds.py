"""One kind's success beside its own best: by hand, under noise, and as trip wires of their own."""

from __future__ import annotations

import json
import math
import random

import pytest

from critique_rl.config.guards import GuardsConfig
from critique_rl.schedule.kinds import KindSuccess, Mean
from critique_rl.schedule.trip_wires import TripWires

SOUND = {"entropy": 1.0, "p50_tokens": 100.0, "p95_tokens": 200.0, "truncated": 0.05, "success": 0.5}


def after(*values: float, steps: int = 1, enough: int = 1) -> KindSuccess:
    record = KindSuccess()
    for value in values:
        record.add(value, steps=steps, enough=enough)
    return record


def test_the_mean_by_hand() -> None:
    mean = Mean()
    mean.add(1.0, 3)  # rate 1/2
    mean.add(0.0, 3)
    assert mean.value == pytest.approx((0.5 * 0.5 * 1 + 0.5 * 0) / 0.75)
    assert mean.count == 2


def noise(rate: float, trials: int) -> float:
    """Three standard errors of a rate drawn towards a half."""
    drawn = (trials * rate + 1) / (trials + 2)
    return 3 * math.sqrt(drawn * (1 - drawn) / trials)


def test_a_fall_by_hand() -> None:
    record = after(*[1.0] * 100, steps=10)
    assert record.best == pytest.approx(1 - noise(1.0, 10))  # 1 - 3 sqrt(11/12 x 1/12 / 10) = 0.738
    assert record.best == pytest.approx(0.738, abs=1e-3)
    assert record.fallen(share=0.5, least=0.1, steps=10) < 0
    for _ in range(100):
        record.add(0.0, steps=10, enough=1)
    # all of it has gone: twice the half that counts, 7 times the least fall, 2.8 times the noise
    best = 1 - noise(1.0, 10)
    assert record.fallen(share=0.5, least=0.1, steps=10) == pytest.approx(2.0, abs=1e-6)
    assert record.fallen(share=0.1, least=0.1, steps=10) == pytest.approx(best / noise(0.0, 10), abs=1e-6)
    assert record.fallen(share=0.1, least=0.5, steps=10) == pytest.approx(best / 0.5, abs=1e-6)


def test_what_was_never_good_cannot_fall() -> None:
    assert after(0.0, 0.0).fallen(share=0.5, least=0.1, steps=10) == 0.0
    assert KindSuccess().fallen(share=0.5, least=0.1, steps=10) == 0.0


def test_the_best_counts_from_enough_steps_on() -> None:
    assert after(*[1.0] * 4, steps=10, enough=5).best is None
    assert after(*[1.0] * 5, steps=10, enough=5).best == pytest.approx(1 - noise(1.0, 5))


def test_prompts_that_differ_are_no_fall() -> None:
    rng = random.Random(0)
    record = KindSuccess()
    beyond = 0
    for _ in range(2000):
        record.add(float(rng.random() < 0.5), steps=10, enough=5)
        beyond += record.fallen(share=0.5, least=0.1, steps=10) >= 1
    assert beyond < 20  # of 2000


def watched() -> TripWires:
    return TripWires(GuardsConfig(cooldown_steps=4))


def look(wires: TripWires, steps: int, by_kind: dict[str, float]) -> list[str | None]:
    said: list[str | None] = []
    for _ in range(steps):
        wires.observe(**SOUND, injecting=True, success_by_kind=by_kind)
        said.append(wires.message())
    return said


def test_one_kind_that_is_eaten_is_told_though_the_mean_stays() -> None:
    wires = watched()
    assert look(wires, 30, {"easy": 1.0, "hard": 0.0}) == [None] * 30
    said = look(wires, 20, {"easy": 0.0, "hard": 1.0})
    (message,) = filter(None, said)
    assert message.startswith("trip wire 'success/easy': success on 'easy' tasks fell to 0.")
    assert "from 0.74 at its best, for 3 steps in a row; nothing is stopped" in message
    assert wires.allows_injection and wires.figures()["guards/tripped"] == 1
    # steps without easy tasks say nothing of them
    assert look(wires, 10, {"hard": 1.0}) == [None] * 10
    back = list(filter(None, look(wires, 40, {"easy": 0.9, "hard": 1.0})))
    assert back == ["trip wire 'success/easy' has been quiet for 4 steps"]
    assert wires.figures()["guards/tripped"] == 0


def test_one_kind_alone_is_the_run_itself() -> None:
    wires = watched()
    look(wires, 30, {"": 1.0})
    look(wires, 30, {"": 0.0})
    assert "guards/success/" not in wires.figures() and wires.allows_injection


def test_kinds_travel_in_checkpoints() -> None:
    wires, other = watched(), watched()
    look(wires, 30, {"easy": 1.0, "hard": 0.0})
    other.load_state_dict(json.loads(json.dumps(wires.state_dict())))
    assert other.state_dict() == wires.state_dict()
    assert look(other, 20, {"easy": 0.0, "hard": 1.0}) == look(wires, 20, {"easy": 0.0, "hard": 1.0})
