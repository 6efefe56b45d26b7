"""The format monitor: shares that sum to 1, figures against the first observation, alerts only beyond chance."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from critique_rl.errors import CheckpointError
from critique_rl.monitors.counting import Tally
from critique_rl.monitors.detectors import Rules, by_patterns, default_detectors
from critique_rl.monitors.format_alerts import format_alerts, most_accurate
from critique_rl.monitors.formats import FormatMonitor
from critique_rl.monitors.prompts import prompts_of
from critique_rl.types import Group
from tests.monitors.answers import PATTERNS, answers, batch

P0, A = [0.28, 0.62, 0.10], [0.35, 0.20, 0.10]


def monitor(kl_weight: float = 0.2, early_steps: int = 50) -> FormatMonitor:
    return FormatMonitor(Rules(by_patterns(PATTERNS)), kl_weight=kl_weight, early_steps=early_steps)


def observe(watch: FormatMonitor, step: int, groups: list[Group]) -> tuple[dict[str, float], list[str]]:
    return watch.observe(step, prompts_of(groups))


def test_9_5_figures_of_a_first_observation() -> None:
    figures, told = observe(monitor(), 0, batch(P0, A))
    assert told == []
    assert [figures[f"share/{name}"] for name in "abc"] == pytest.approx(P0)
    assert [figures[f"accuracy/{name}"] for name in "abc"] == pytest.approx([98 / 280, 0.2, 0.1])
    assert figures["entropy"] == pytest.approx(0.883071, abs=1e-6)
    assert figures["entropy_corrected"] == pytest.approx(0.883071 + 2 / 2000, abs=1e-6)
    assert figures["effective"] == pytest.approx(2.418315, abs=1e-6)
    assert figures["simpson"] == pytest.approx(0.5272)
    assert figures["dominant_share"] == pytest.approx(0.62)
    assert figures["tv"] == figures["js"] == figures["gain_mix"] == figures["gain_within"] == 0.0
    # Normalised by all formats that there could be, `other` too, so that it does not jump when one dies out.
    assert figures["entropy_normalised"] == pytest.approx(0.883071 / 1.386294, abs=1e-6)
    assert [figures[f"predicted_inside/{name}"] for name in "abc"] == pytest.approx([0.4184, 0.5369, 0.0447], abs=1e-4)


def test_9_5_a_collapse_against_it() -> None:
    watch = monitor()
    observe(watch, 0, batch(P0, A))
    figures, _ = observe(watch, 1, batch([0.99, 0.01, 0.0], A))
    assert figures["tv"] == pytest.approx(0.71)
    assert figures["js"] == pytest.approx(0.332506, abs=1e-6)
    assert "share/c" in figures and figures["share/c"] == 0.0
    assert figures["dominant_since"] == 1.0


def test_9_5_a_gain_is_split_into_mix_and_within() -> None:
    watch = monitor()
    observe(watch, 0, batch(P0, A))
    figures, _ = observe(watch, 5, batch([0.90, 0.08, 0.02], [0.45, 0.22, 0.10]))
    assert figures["gain_mix"] == pytest.approx(0.1266, abs=2e-3)  # whole answers: 17.6 of 80 right are 18
    assert figures["gain_within"] == pytest.approx(0.0660, abs=2e-3)


def test_excess_dominance_is_what_reward_does_not_explain() -> None:
    watch = monitor(kl_weight=1.0)
    observe(watch, 0, batch(P0, A))
    figures, _ = observe(watch, 1, batch([0.02, 0.97, 0.01], A))
    bracket = max(figures["predicted_inside/b"], figures["predicted_formats/b"])
    assert figures["excess_dominance"] == pytest.approx(0.97 - bracket)
    assert figures["excess_dominance"] > 0.3


@settings(max_examples=30)
@given(st.lists(st.lists(st.sampled_from(["A: x", "B: y", "?", ""]), min_size=1, max_size=4), min_size=1, max_size=4))
def test_shares_sum_to_one_whatever_was_answered(texts: list[list[str]]) -> None:
    """Answers that could not be read, or on which the verifier failed, are answers too: nothing is skipped."""
    groups = [answers(str(g), *((t, None if i % 2 else 0.0) for i, t in enumerate(ts))) for g, ts in enumerate(texts)]
    figures, _ = observe(monitor(), 0, groups)
    assert sum(value for key, value in figures.items() if key.startswith("share/")) == pytest.approx(1.0)


def test_means_by_format() -> None:
    groups = [answers("p", ("A: 1", 1.0), ("A: 22", 0.0), ("B: 3", 0.0)), answers("q", ("A: 4", 0.0), ("B: 5", 1.0))]
    figures, _ = observe(monitor(), 0, groups)
    assert figures["reward/a"] == pytest.approx(1 / 3)
    assert figures["tokens/a"] == pytest.approx((4 + 5 + 4) / 3)
    # rewards minus their group's mean: 2/3, -1/3 in p (mean 1/3), -1/2 in q (mean 1/2)
    assert figures["advantage/a"] == pytest.approx((2 / 3 - 1 / 3 - 1 / 2) / 3)
    assert figures["solved/a"] == 0.5  # p by format a, q not
    assert figures["solved/b"] == 0.5


def test_the_substring_def_is_no_code() -> None:
    watch = FormatMonitor(Rules(default_detectors()), kl_weight=0.0, early_steps=50)
    figures, _ = observe(watch, 0, [answers("p", ("It is definitely 4.", 1.0), ("def f():\n  return 4", 0.0))])
    assert figures["share/other"] == figures["share/python_function"] == 0.5
    assert figures["accuracy/other"] == 1.0


def test_a_rise_within_the_early_steps_is_told_once_while_it_lasts() -> None:
    watch = monitor()
    observe(watch, 0, batch(P0, A))
    _, told = observe(watch, 10, batch([0.65, 0.30, 0.05], A))
    assert len(told) == 1 and "'a' has risen from 28% to 65%" in told[0]
    assert observe(watch, 11, batch([0.70, 0.25, 0.05], A))[1] == []
    assert observe(watch, 12, batch(P0, A))[1] == []
    assert len(observe(watch, 13, batch([0.65, 0.30, 0.05], A))[1]) == 1


def test_a_slow_rise_to_the_best_format_is_no_alert() -> None:
    watch = monitor(early_steps=5)
    observe(watch, 0, batch(P0, A))
    assert observe(watch, 6, batch([0.65, 0.30, 0.05], A))[1] == []


def test_a_format_that_is_not_the_best_takes_over() -> None:
    watch = monitor()
    observe(watch, 0, batch(P0, A))
    _, told = observe(watch, 40, batch([0.20, 0.75, 0.05], A))
    assert len(told) == 1
    assert "'b' (75% of the answers, 62% at first) is taking over, although 'a'" in told[0]
    assert "(35% against 20%)" in told[0]


def test_the_best_format_is_lost() -> None:
    watch = monitor()
    observe(watch, 0, batch([0.62, 0.10, 0.28], [0.20, 0.60, 0.20]))
    _, told = observe(watch, 60, batch([0.64, 0.03, 0.33], [0.2, 0.6, 0.2]))
    assert len(told) == 1 and "'b'" in told[0] and "from 10% to 3%" in told[0]


def tally(counts: dict[str, int], right: dict[str, int]) -> Tally:
    return Tally(counts=counts, judged=counts, right=right)


def test_no_alert_within_three_standard_errors() -> None:
    # 4 of 10 to 8 of 10: 0.4 / sqrt(0.6 * 0.4 * 0.2) = 1.83 errors
    assert format_alerts(tally({"a": 4, "b": 6}, {"a": 4}), tally({"a": 8, "b": 2}, {}), early=True) == {}
    # the same shares of 100: 5.8 errors
    found = format_alerts(tally({"a": 40, "b": 60}, {"a": 40}), tally({"a": 80, "b": 20}, {}), early=True)
    assert set(found) == {"rise"}
    # b is better by 2 of 60 against 0 of 40: that may be chance
    found = format_alerts(tally({"a": 40, "b": 60}, {"b": 2}), tally({"a": 80, "b": 20}, {}), early=False)
    assert found == {}


def test_the_best_format_of_nothing() -> None:
    assert most_accurate(Tally()) is None
    assert format_alerts(Tally(), tally({"a": 1}, {}), early=True) == {}
    assert most_accurate(tally({"a": 1, "b": 3}, {"a": 1, "b": 3})) == "b"


def test_a_batch_without_rollouts_is_no_observation() -> None:
    watch = monitor()
    assert observe(watch, 0, [replace(answers("p"), rollouts=(), scores=())]) == ({}, [])
    assert observe(watch, 0, []) == ({}, [])


def test_where_every_verifier_failed_shares_are_still_known() -> None:
    figures, _ = observe(monitor(), 0, [answers("p", ("A: 1", None), ("B: 2", None))])
    assert figures["share/a"] == 0.5
    assert not any(key.startswith(("accuracy", "gain", "predicted", "reward")) for key in figures)


def test_a_resumed_monitor_goes_on_alike() -> None:
    straight, first = monitor(), monitor()
    for watch in (straight, first):
        observe(watch, 0, batch(P0, A))
        observe(watch, 10, batch([0.65, 0.30, 0.05], A))
    resumed = monitor()
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    later = batch([0.95, 0.05, 0.0], [0.5, 0.2, 0.1])
    assert observe(resumed, 11, later) == observe(straight, 11, later)
    assert resumed.state_dict() == straight.state_dict()
    with pytest.raises(CheckpointError, match="format monitor"):
        resumed.load_state_dict({"first": 3})
