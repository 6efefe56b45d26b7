"""Scalars as short texts."""

from __future__ import annotations

import pytest

from critique_rl.trackers.figures import (
    count,
    critic_line,
    duration,
    loss_line,
    plain_line,
    progress_share,
    reward_line,
    sparkline,
    stall_line,
    token_line,
)


@pytest.mark.parametrize(
    ("step", "values", "share"),
    [
        (0, {}, 0.0),
        (30, {"steps/total": 120.0}, 0.25),
        (30, {"steps/total": 120.0, "tokens/generated": 50.0, "tokens/budget": 100.0}, 0.5),
        (130, {"steps/total": 120.0}, 1.0),
    ],
)
def test_progress_is_of_steps_or_tokens_whichever_is_further(step: int, values: dict[str, float], share: float) -> None:
    assert progress_share(step, values) == share


def test_rewards_start_with_the_mean() -> None:
    assert reward_line({"reward/hard": 0.112, "loss/pg": 1.0, "reward/mean": 0.5, "reward/easy": 0.9}) == (
        "mean 0.50  easy 0.90  hard 0.11"
    )


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({}, ""),
        ({"critic/calls": 0.0}, "not asked yet"),
        ({"critic/calls": 5.0, "critic/ok": 3.0}, "5 calls · 3 ok · 2 failed · unpriced"),
        (
            {"critic/calls": 5.0, "critic/ok": 3.0, "critic/failed": 1.0, "critic/cost_usd": 0.0},
            "5 calls · 3 ok · 1 failed · $0.0000",
        ),
    ],
)
def test_an_unknown_price_is_not_zero(values: dict[str, float], line: str) -> None:
    assert critic_line(values) == line


def test_the_other_lines() -> None:
    assert stall_line({"plateau/plateaued": 3.0, "plateau/dormant": 0.0}) == "3 plateaued · 0 dormant"
    assert loss_line({"loss/distill": 0.25, "loss/pg": -0.5, "grad/norm": 1.25}) == (
        "pg -0.5000  distill 0.2500  |grad| 1.25"
    )
    assert token_line({"tokens/generated": 1_234.0, "tokens/budget": 2e6}) == "1.23k of 2M generated"
    assert token_line({}) == ""
    values = {"reward/mean": 0.5, "steps/total": 10.0}
    assert plain_line("", 2, values, None) == "step 2/10 | reward mean 0.50"
    assert plain_line("grpo", 2, values, 62.0) == "grpo | step 2/10 | reward mean 0.50 | 1:02 left"


def test_the_sparkline_averages_down_and_stays_in_its_characters() -> None:
    assert sparkline([0.5]) == ""
    assert sparkline([0.0, 1.0]) == "▁█"
    assert sparkline([-3.0, 9.0]) == "▁█"
    assert sparkline([0.0] * 50 + [1.0] * 50, width=4) == "▁▁██"


@pytest.mark.parametrize(("value", "text"), [(999, "999"), (12_345, "12.3k"), (999_700, "1M"), (4_560_000, "4.56M")])
def test_counts(value: float, text: str) -> None:
    assert count(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(42.2, "0:42"), (727, "12:07"), (11_100, "3:05:00")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
