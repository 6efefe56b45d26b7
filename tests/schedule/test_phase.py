"""The switch: on after the first phase and not before, warm, off when both fall, and exact after a resume."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from critique_rl.config.phases import PhasesConfig
from critique_rl.errors import CheckpointError
from critique_rl.schedule.phase import PhaseSwitch
from critique_rl.stats.grams import Gram

GRAMS: tuple[Gram, ...] = (("let", "me", "see"),)
FAST: dict[str, object] = {"window": 4, "sustain_steps": 2, "wait_steps": 3, "warmup_steps": 2}


def switch(**options: object) -> PhaseSwitch:
    config = PhasesConfig.model_validate({"grams": ["let me see"], **FAST, **options})
    return PhaseSwitch(config, grams=GRAMS, mine=lambda _: ())


def own(found: Sequence[Gram] = GRAMS, **options: object) -> PhaseSwitch:
    config = PhasesConfig.model_validate({**FAST, "min_solutions": 3, "max_solutions": 4, **options})
    return PhaseSwitch(config, grams=None, mine=lambda _: found)


def observe(
    of: PhaseSwitch,
    perplexity: float | None = 1.2,  # .18 nats a token: sure of its steps as it is
    *,
    formed: float = 1.0,
    success: float = 0.5,
    strategies: float | None = 1.0,
) -> float:
    of.observe(
        masks={},
        execution_perplexity=perplexity,
        formed=formed,
        success=success,
        strategy_entropy=strategies,
        figures={},
    )
    return of.alpha


def test_on_when_flat_and_well_formed_and_warm_from_the_next_step() -> None:
    of = switch()
    assert [observe(of) for _ in range(4)] == [0.0] * 4
    assert [observe(of) for _ in range(3)] == pytest.approx([0.1, 0.2, 0.2])
    assert of.figures()["phases/state"] == 1.0
    assert "on: execution perplexity stands still at 1.2, low without a fall, 0.182 nats" in of.messages()[0]
    assert not of.messages()


@pytest.mark.parametrize(
    ("perplexities", "on"),
    [
        ([1.2, 1.2, 1.18, 1.18], True),  # .02 / 1.2 = .017 < .02
        ([1.2, 1.2, 1.17, 1.17], False),  # .025
        ([1.2, 1.2, 1.23, 1.23], False),  # rising is not flat either
        ([1.2, 1.2, 1.2], False),  # no whole window
    ],
)
def test_flat(perplexities: list[float], on: bool) -> None:
    of = switch()
    for value in perplexities:
        observe(of, value)
    assert (of.figures()["phases/state"] == 1.0) is on


def test_never_while_answers_are_badly_formed_or_nothing_is_known() -> None:
    of = switch()
    assert {observe(of, formed=0.95) for _ in range(9)} == {0.0}
    assert {observe(switch(), None) for _ in range(9)} == {0.0}


def hurt(of: PhaseSwitch, *, success: float, strategies: float) -> None:
    for step in range(4):
        observe(of, success=0.5 + 0.01 * (step % 2), strategies=1.0 + 0.01 * (step % 2))
    of.messages()
    for _ in range(6):
        observe(of, success=success, strategies=strategies)


@pytest.mark.parametrize(
    ("success", "strategies", "off"), [(0.3, 0.2, True), (0.3, 1.0, False), (0.5, 0.2, False), (0.7, 1.5, False)]
)
def test_off_only_when_both_fall_and_stay_low(success: float, strategies: float, off: bool) -> None:
    of = switch()
    hurt(of, success=success, strategies=strategies)
    assert (of.figures()["phases/state"] == 0.0) is off
    told = of.messages()
    assert len(told) == off
    if off:
        # a window of 4 steps after the switch, of which two in a row must be low: off in its 5th step
        assert "both fell for 2 steps in a row: strategy entropy 1 -> 0.2, success 0.505 -> 0.3" in told[0]


def test_off_holds_for_a_while_and_warms_up_anew() -> None:
    of = switch()
    hurt(of, success=0.3, strategies=0.2)
    alphas = [observe(of, success=0.3, strategies=0.2) for _ in range(5)]
    # off in the 9th step; 3 steps of waiting (10, 11, 12), on in the 12th, and from the 13th on alpha warms up
    assert alphas[0] == 0.0 and max(alphas) == pytest.approx(0.2) and 0.1 in alphas
    assert len(of.log) == 3


def test_noise_alone_does_not_end_it() -> None:
    of = switch()
    for step in range(60):
        observe(of, success=0.5 + 0.2 * (-1) ** step, strategies=1.0 + 0.4 * (-1) ** step)
    assert of.figures()["phases/state"] == 1.0


def test_modes() -> None:
    always = PhaseSwitch(PhasesConfig(mode="on", grams=("let me see",), warmup_steps=0), grams=GRAMS, mine=lambda _: ())
    assert [observe(always, success=s, formed=0.0) for s in (0.9, 0.0, 0.0)] == [0.2] * 3
    never = PhaseSwitch(PhasesConfig(mode="off", grams=("let me see",)), grams=GRAMS, mine=lambda _: ())
    assert {observe(never) for _ in range(50)} == {0.0}


def test_phrases_of_its_own_are_mined_when_it_is_due() -> None:
    of = own()
    of.keep(["a", "b", "a"])
    for _ in range(5):
        observe(of, strategies=None)
    assert of.grams is None and "waiting for right answers to mine: 2 of 3" in of.messages()[0]
    of.keep(["c", "d", "e"])
    observe(of, strategies=None)
    assert of.grams is not None and of.grams.grams == GRAMS
    assert "1 phrase mined from 4 right answers: 'let me see'" in of.messages()[0]
    # nothing was measured before: the first window under plans is the reference
    for success, strategies in [(0.5, 1.0)] * 4 + [(0.3, 0.1)] * 8:
        observe(of, success=success, strategies=strategies)
    assert len(of.log) == 5 and of.log[3].startswith("off") and of.log[4].startswith("on")


def test_nothing_to_mine_is_told_and_tried_again_later() -> None:
    of = own(found=())
    of.keep(["a", "b", "c"])
    for _ in range(5):
        observe(of)
    assert of.grams is None and [m for m in of.messages() if "hold no phrase" in m]


def test_a_resumed_switch_goes_on_as_it_would_have() -> None:
    values = [(1.2, 0.5, 1.0)] * 5 + [(1.2, 0.5, 1.02)] * 4 + [(1.2, 0.3, 0.2)] * 7 + [(1.2, 0.4, 0.6)] * 6
    for broken in range(len(values)):
        whole, half = own(), own()
        whole.keep(["a", "b", "c"])
        half.keep(["a", "b", "c"])
        told: list[list[float]] = [[], []]
        for at, (perplexity, success, strategies) in enumerate(values):
            if at == broken:
                state = json.loads(json.dumps(half.state_dict()))
                half = own()
                half.load_state_dict(state)
            for of, alphas in zip((whole, half), told, strict=True):
                alphas.append(observe(of, perplexity, success=success, strategies=strategies))
        assert told[0] == told[1] and whole.state_dict() == half.state_dict()
        assert max(told[0]) > 0 and told[0][-1] == told[1][-1]


def test_a_state_that_it_did_not_write() -> None:
    with pytest.raises(CheckpointError, match="phase switch in the checkpoint: field 'on_for'"):
        switch().load_state_dict({"on_for": "x"})


def test_the_state_does_not_grow() -> None:
    of = own(max_solutions=3)
    sizes: list[int] = []
    for step in range(40):
        of.keep([f"answer {step:03d}"])
        observe(of, 2.0 + step % 2, formed=0.5)
        of.messages()
        sizes.append(len(json.dumps(of.state_dict())))
    # two windows of 4 are full in the 8th step, and the long wait is told in the 20th
    assert sizes[-1] <= sizes[22] + 40
