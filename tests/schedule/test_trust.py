"""The trust guard: when it speaks, what it says, what it never does, and that a resumed run goes on."""

from __future__ import annotations

import json

import pytest

from critique_rl.config.trust import TrustConfig
from critique_rl.errors import CheckpointError
from critique_rl.schedule.trust import MAX_PAIRS, CriticTrust
from critique_rl.stats.intervals import rate_difference_interval


def _rates(right: int, of: int) -> list[bool]:
    return [True] * right + [False] * (of - right)


def _guard(**options: object) -> CriticTrust:
    return CriticTrust(TrustConfig.model_validate({"trials": 20, "min_scored": 16, **options}))


# -- rescues -----------------------------------------------------------------------------------------------------------


def test_nothing_is_decided_before_both_arms_are_full() -> None:
    guard = _guard()
    guard.note_refinements(critiqued=_rates(0, 200), control=_rates(19, 19))
    assert guard.verdict() is None
    assert guard.asks_critic
    assert guard.controls_wanted == 1
    guard.note_refinements(critiqued=[], control=[True])
    assert guard.controls_wanted == 0
    assert not guard.asks_critic


def test_a_useful_critic_stays_and_is_praised_once() -> None:
    guard = _guard()
    guard.note_refinements(critiqued=_rates(12, 20), control=_rates(2, 20))
    low, high = rate_difference_interval(12, 20, 2, 20, 0.9)
    assert low > 0
    message = guard.verdict()
    assert message == (
        "the critic rescues more than a bare 'wrong' does: 12 of 20 (60.0%) of the attempts that it was asked about "
        f"were put right, 2 of 20 (10.0%) of those told only 'wrong'; difference {low:+.1%} to {high:+.1%} "
        "at 90% confidence; it stays"
    )
    assert guard.verdict() is None
    guard.note_refinements(critiqued=_rates(0, 500), control=[])
    assert guard.asks_critic
    assert guard.verdict() is None


def test_a_useless_critic_is_switched_off_with_the_figures() -> None:
    guard = _guard()
    guard.note_refinements(critiqued=_rates(3, 20), control=_rates(2, 20))
    message = guard.verdict() or ""
    for part in (
        "no better than a bare 'wrong'",
        "3 of 20 (15.0%)",
        "2 of 20 (10.0%)",
        "wanted above 0",
        "scalar GRPO",
    ):
        assert part in message
    assert not guard.asks_critic
    guard.note_refinements(critiqued=_rates(500, 500), control=[])
    assert not guard.asks_critic


def test_a_critic_that_never_says_anything_usable_is_judged_too() -> None:
    # The loop notes its unserved attempts as failures; the policy cannot do better under a bare verdict either.
    guard = _guard()
    guard.note_refinements(critiqued=[False] * 20, control=[False] * 20)
    assert not guard.asks_critic
    assert "0 of 20 (0.0%)" in (guard.verdict() or "")


def test_warn_says_so_and_goes_on() -> None:
    guard = _guard(on_failure="warn")
    guard.note_refinements(critiqued=_rates(0, 20), control=_rates(0, 20))
    assert "so it is still asked" in (guard.verdict() or "")
    assert guard.asks_critic
    assert guard.controls_wanted == 0


def test_no_trials_means_no_judging() -> None:
    guard = _guard(trials=0)
    assert guard.controls_wanted == 0
    guard.note_refinements(critiqued=_rates(0, 500), control=_rates(500, 500))
    assert guard.asks_critic
    assert guard.verdict() is None


def test_confidence_moves_the_bar() -> None:
    # 9 of 20 against 4 of 20: the interval lies above 0 at 90 %, and not at 99 %.
    found = {}
    for confidence in (0.9, 0.99):
        guard = _guard(confidence=confidence)
        guard.note_refinements(critiqued=_rates(9, 20), control=_rates(4, 20))
        found[confidence] = guard.asks_critic
    assert found == {0.9: rate_difference_interval(9, 20, 4, 20, 0.9).low > 0, 0.99: False}


# -- scores ------------------------------------------------------------------------------------------------------------


def test_scores_at_chance_are_no_longer_used() -> None:
    guard = _guard()
    guard.note_scores([0.5] * 15, [True, False, True] * 5)
    assert guard.uses_scores
    guard.note_scores([0.5] * 9, [True, False, False] * 3)
    assert not guard.uses_scores
    message = guard.verdict() or ""
    assert "AUROC 0.50 over 24 scored attempts, 13 of them right" in message
    assert guard.asks_critic
    guard.note_scores([1.0, 0.0] * 100, [True, False] * 100)
    assert not guard.uses_scores
    assert guard.verdict() is None


def test_scores_that_rank_are_kept() -> None:
    guard = _guard()
    guard.note_scores([0.9, 0.2] * 20, [True, False] * 20)
    assert guard.uses_scores
    assert guard.auroc == 1.0
    assert guard.verdict() is None


def test_scores_are_not_judged_on_one_class() -> None:
    guard = _guard()
    guard.note_scores([0.1] * 100, [False] * 100)
    assert guard.auroc is None
    guard.note_scores([0.0] * 7, [True] * 7)
    assert guard.uses_scores
    assert guard.calibrator() is None
    guard.note_scores([0.0], [True])
    assert not guard.uses_scores


def test_right_attempts_are_wanted_until_there_are_enough_or_the_scores_are_out() -> None:
    guard = _guard()
    guard.note_scores([0.9, 0.1] * 7, [True, False] * 7)
    assert guard.wants_probe
    guard.note_scores([0.9], [True])
    assert not guard.wants_probe
    useless = _guard(min_scored=40)
    useless.note_scores([0.5] * 40, [True] * 8 + [False] * 32)
    assert not useless.uses_scores
    assert not useless.wants_probe


def test_only_the_newest_scores_count() -> None:
    guard = _guard()
    guard.note_scores([1.0, 0.0] * 50, [True, False] * 50)
    guard.note_scores([0.6, 0.4] * (MAX_PAIRS // 2), [True, False] * (MAX_PAIRS // 2))
    assert guard.figures()["trust/scored"] == MAX_PAIRS
    # 2048 pairs of (.6, right) and (.4, wrong) are each .4 away from the truth.
    assert guard.figures()["trust/ece"] == pytest.approx(0.4)


@pytest.mark.parametrize(("pairs", "method"), [(20, "platt"), (600, "isotonic")])
def test_calibrator_maps_scores_to_rates(pairs: int, method: str) -> None:
    guard = _guard()
    # 0.9 is right in 3 of 4 cases, 0.3 in 1 of 4.
    guard.note_scores([0.9] * 4 * (pairs // 8 + 1) + [0.3] * 4 * (pairs // 8 + 1), _quarters(pairs // 8 + 1))
    guard.note_scores([0.9, 0.3] * pairs, [i % 8 not in (0, 3, 5, 7) for i in range(2 * pairs)])
    fitted = guard.calibrator()
    assert fitted is not None
    assert fitted.method == method
    assert fitted.apply([0.9]) > fitted.apply([0.3])
    assert fitted.ece_after < fitted.ece_before


def _quarters(times: int) -> list[bool]:
    return [True, True, True, False] * times + [True, False, False, False] * times


@pytest.mark.parametrize(("values", "correct"), [([1.2], [True]), ([0.1], []), ([float("nan")], [True])])
def test_bad_scores_are_refused(values: list[float], correct: list[bool]) -> None:
    with pytest.raises(ValueError, match="wanted one verdict each, and scores from 0 to 1"):
        _guard().note_scores(values, correct)


# -- figures and state -------------------------------------------------------------------------------------------------


def test_figures_hold_only_what_is_known() -> None:
    guard = _guard()
    assert guard.figures() == {
        "trust/rescue_trials": 0.0,
        "trust/control_trials": 0.0,
        "trust/scored": 0.0,
        "trust/asks_critic": 1.0,
        "trust/uses_scores": 1.0,
    }
    guard.note_cost(usd=0.5, tokens=300)
    guard.note_refinements(critiqued=[True, False, True, False], control=[False])
    figures = guard.figures()
    assert figures["trust/rescue_rate"] == 0.5
    assert figures["trust/control_rate"] == 0.0
    assert figures["trust/cost_per_rescue_usd"] == 0.25
    assert figures["trust/tokens_per_rescue"] == 150.0
    assert figures["trust/difference_low"] == rate_difference_interval(2, 4, 0, 1, 0.9).low
    guard.note_cost(usd=None, tokens=0)
    guard.note_cost(usd=0.5, tokens=0)
    assert "trust/cost_per_rescue_usd" not in guard.figures()


def test_a_restored_guard_goes_on_where_it_was() -> None:
    guard = _guard()
    guard.note_refinements(critiqued=_rates(3, 20), control=_rates(2, 19))
    guard.note_scores([0.5] * 20, [True, False] * 10)
    guard.note_cost(usd=0.1, tokens=10)
    again = _guard()
    again.load_state_dict(json.loads(json.dumps(guard.state_dict())))
    assert again.figures() == guard.figures()
    assert again.verdict() == guard.verdict()
    for one in (guard, again):
        one.note_refinements(critiqued=[], control=[False])
    assert not again.asks_critic
    assert again.verdict() == guard.verdict()
    assert again.state_dict() == guard.state_dict()


@pytest.mark.parametrize("state", [{"critiqued": {"rescued": "many"}}, {"values": 3}])
def test_a_broken_state_is_refused(state: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="critic trust in the checkpoint: field"):
        _guard().load_state_dict(state)
