"""When a call is sent again, when not, and who is kept waiting meanwhile."""

from __future__ import annotations

import asyncio
import random

import pytest

from critique_rl.errors import CriticError, CriticRateLimitError
from critique_rl.net import CallLimits
from tests.net.fakes import Answered, InstantThread, Script, final, flaky, limited, planned, pool_on


def test_a_retryable_failure_is_sent_again_and_another_is_not(instant: InstantThread) -> None:
    scripts = comes_back, never, bad = Script(flaky(), flaky(), "ok"), Script(flaky()), Script(final())
    results = pool_on(instant).run_all([planned(one.send) for one in scripts])
    assert [one.sent for one in (comes_back, never, bad)] == [3, 4, 1]
    assert [result.attempts for result in results] == [3, 4, 1]
    assert results[0].answer == Answered("ok")
    assert [str(result.error) for result in results[1:]] == ["server error 503", "bad request"]


def test_waits_grow_up_to_the_cap(instant: InstantThread) -> None:
    script = Script(flaky())
    limits = CallLimits(max_attempts=40, backoff_s=1.0, backoff_cap_s=4.0)
    pool_on(instant, limits).run_all([planned(script.send)])
    waits = [after - before for before, after in zip(script.times_s, script.times_s[1:], strict=False)]
    assert len(waits) == 39
    assert all(wait <= min(4.0, 2.0**index) for index, wait in enumerate(waits))
    assert max(waits) > 2.0


def test_retry_after_is_waited_for_exactly(instant: InstantThread) -> None:
    script = Script(limited(7.0), "ok")
    result = pool_on(instant).run_all([planned(script.send)])[0]
    assert result.answer is not None
    assert script.times_s[1] - script.times_s[0] == pytest.approx(7.0)
    assert result.latency_s == pytest.approx(7.0)


def test_a_rate_limit_pauses_every_call_of_the_pool(instant: InstantThread) -> None:
    first, second = Script((1.0, limited(30.0)), "ok"), Script((2.0, "ok"))
    pool_on(instant, CallLimits(max_in_flight=1)).run_all([planned(first.send), planned(second.send)])
    start_s = first.times_s[0]
    # Refused after 1 s, so nothing leaves before 31 s; the second call was asked for earlier than the retry.
    assert second.times_s == [pytest.approx(start_s + 31.0)]
    assert first.times_s[1] == pytest.approx(start_s + 33.0)


def test_a_call_that_waits_for_its_retry_holds_no_slot(instant: InstantThread) -> None:
    busy = flaky()
    busy.retry_after_s = 50.0
    waiting, others = Script(busy, "ok"), Script((1.0, "ok"))
    calls = [planned(waiting.send), *[planned(others.send)] * 5]
    results = pool_on(instant, CallLimits(max_in_flight=1)).run_all(calls)
    assert all(result.answer is not None for result in results)
    # A server error's wish holds for that call alone: the other five take 5 s through the only slot.
    assert others.times_s == pytest.approx([waiting.times_s[0] + second for second in range(5)])
    assert waiting.times_s[1] - waiting.times_s[0] == pytest.approx(50.0)


def test_a_wish_over_the_cap_fails_and_is_never_sent_early(instant: InstantThread) -> None:
    script = Script(limited(3600.0), "ok")
    result = pool_on(instant).run_all([planned(script.send)])[0]
    assert script.sent == 1
    assert isinstance(result.error, CriticRateLimitError)
    assert result.error.retry_after_s == 3600.0


def test_a_pause_is_no_longer_than_the_cap(instant: InstantThread) -> None:
    refused, other = Script((1.0, limited(3600.0))), Script("ok")
    limits = CallLimits(max_in_flight=1, retry_after_cap_s=60.0)
    pool_on(instant, limits).run_all([planned(refused.send), planned(other.send)])
    assert other.times_s == pytest.approx([refused.times_s[0] + 61.0])


def test_no_wait_is_begun_that_would_outlast_the_stage(instant: InstantThread) -> None:
    script = Script(limited(30.0), "ok")
    result = pool_on(instant, CallLimits(stage_deadline_s=20.0)).run_all([planned(script.send)])[0]
    assert isinstance(result.error, CriticRateLimitError)
    assert result.latency_s == 0.0


def test_the_rates_hold_for_retries_too(instant: InstantThread) -> None:
    script = Script(flaky(), flaky(), flaky(), "ok")
    limits = CallLimits(requests_per_minute=6, backoff_s=0.0)
    pool_on(instant, limits).run_all([planned(script.send)])
    assert script.times_s == pytest.approx([script.times_s[0] + 10.0 * sends for sends in range(4)])


def test_tokens_per_minute_are_settled_by_use(instant: InstantThread) -> None:
    # 60 tokens a minute, 5 at once; an estimate of 20 passes when the bucket is empty; 15 are used at once.
    script = Script("ok")
    pool_on(instant, CallLimits(tokens_per_minute=60)).run_all([planned(script.send)] * 3)
    assert script.times_s == pytest.approx([script.times_s[0] + 15.0 * sends for sends in range(3)])


def test_a_client_that_cancels_its_own_call_is_a_failure_and_not_a_cancellation(instant: InstantThread) -> None:
    script = Script("ok")

    async def send() -> Answered:
        if not script.sent:
            await script.send()
            raise asyncio.CancelledError
        return await script.send()

    result = pool_on(instant).run_all([planned(send)])[0]
    assert (result.answer, result.attempts) == (Answered("ok"), 2)
    once = CallLimits(max_attempts=1, hedge_after_s=1.0)
    script.times_s.clear()
    result = pool_on(instant, once).run_all([planned(send)])[0]
    assert isinstance(result.error, CriticError)
    assert str(result.error) == "the client cancelled its own call"


def test_retries_leave_the_global_generator_alone(instant: InstantThread) -> None:
    random.seed(1)
    before = random.getstate()
    pool_on(instant).run_all([planned(Script(flaky(), flaky(), "ok").send)])
    assert random.getstate() == before
