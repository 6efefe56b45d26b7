"""The bucket: never more than the rate over any window plus the burst, and no less than it may."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critique_rl.net.rates import RateBucket


def test_a_burst_passes_at_once_and_the_rest_at_the_rate() -> None:
    # 60 a minute is 1 a second; a burst of 3, then one each second.
    bucket, now_s, taken_at = RateBucket(60, burst=3), 50.0, list[float]()
    for _ in range(6):
        now_s += bucket.wait_s(1, now_s)
        bucket.take(1, now_s)
        taken_at.append(now_s)
    assert taken_at == pytest.approx([50, 50, 50, 51, 52, 53])


def test_an_idle_bucket_saves_up_one_burst_and_no_more() -> None:
    bucket = RateBucket(60, burst=2)
    bucket.take(2, 0.0)
    assert bucket.wait_s(2, 1000.0) == 0.0
    bucket.take(2, 1000.0)
    assert bucket.wait_s(1, 1000.0) == pytest.approx(1.0)


def test_what_is_given_back_may_be_taken_again_but_does_not_exceed_the_burst() -> None:
    bucket = RateBucket(60, burst=10)
    bucket.take(10, 0.0)
    assert bucket.wait_s(6, 0.0) == pytest.approx(6.0)
    bucket.take(-7, 0.0)
    assert bucket.wait_s(6, 0.0) == 0.0
    bucket.take(-100, 0.0)
    bucket.take(10, 0.0)
    assert bucket.wait_s(1, 0.0) == pytest.approx(1.0)


def test_what_was_underestimated_is_waited_for_afterwards() -> None:
    bucket = RateBucket(60, burst=10)
    bucket.take(10, 0.0)
    bucket.take(20, 0.0)
    # 30 out, a burst of 10: one more fits when 21 have drained.
    assert bucket.wait_s(1, 0.0) == pytest.approx(21.0)


def test_an_amount_larger_than_the_bucket_passes_when_it_is_empty() -> None:
    bucket = RateBucket(60, burst=5)
    assert bucket.wait_s(30, 0.0) == 0.0
    bucket.take(30, 0.0)
    assert bucket.wait_s(30, 0.0) == pytest.approx(30.0)


def test_a_clock_that_steps_back_gives_nothing_away() -> None:
    bucket = RateBucket(60, burst=1)
    bucket.take(1, 10.0)
    assert bucket.wait_s(1, 5.0) == pytest.approx(1.0)


@given(
    per_minute=st.floats(1.0, 1e6),
    burst=st.floats(1.0, 1e4),
    asks=st.lists(st.tuples(st.floats(0.0, 30.0), st.floats(0.5, 2e4)), min_size=1, max_size=25),
)
def test_no_window_lets_pass_more_than_rate_and_burst(
    per_minute: float, burst: float, asks: list[tuple[float, float]]
) -> None:
    bucket, now_s, taken = RateBucket(per_minute, burst=burst), 1000.0, list[tuple[float, float]]()
    for idle_s, amount in asks:
        now_s += idle_s
        while (wait_s := bucket.wait_s(amount, now_s)) > 0:
            now_s += wait_s
        bucket.take(amount, now_s)
        taken.append((now_s, amount))
    at_once = max(burst, *(amount for _, amount in taken))
    for first, (start_s, _) in enumerate(taken):
        passed = 0.0
        for end_s, amount in taken[first:]:
            passed += amount
            allowed = at_once + (end_s - start_s) * per_minute / 60.0
            assert passed <= allowed * (1 + 1e-9) + 1e-3


@given(amounts=st.lists(st.floats(0.5, 100.0), min_size=2, max_size=30))
def test_the_rate_is_used_up_when_calls_queue(amounts: list[float]) -> None:
    bucket, now_s = RateBucket(600, burst=100), 0.0
    for amount in amounts:
        now_s += bucket.wait_s(amount, now_s)
        bucket.take(amount, now_s)
    # 10 a second: everything but the first burst has to be waited for, and nothing else.
    assert now_s == pytest.approx(max(0.0, (sum(amounts) - 100) / 10), abs=1e-6)
