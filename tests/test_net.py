"""The one owner of calls: retry, clocks, concurrency, budget, the loop thread. Calls are coroutines, not sockets."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import pytest

from critique_rl.errors import (
    CriticBudgetError,
    CriticError,
    CriticRateLimitError,
    CriticSetupError,
    CriticTimeoutError,
)
from critique_rl.net import Budget, CallFailed, CallLimits, CallPool, CallResult, LoopThread, PlannedCall, SpendMeter
from critique_rl.types import Usage

QUICK = CallLimits(timeout_s=5.0, backoff_s=0.001, backoff_cap_s=0.002)
USED = Usage(prompt_tokens=10, completion_tokens=5, cost_usd=0.01)


@dataclass(frozen=True)
class Answered:
    text: str
    usage: Usage = USED


def pool(limits: CallLimits = QUICK, budget: Budget | None = None) -> CallPool:
    return CallPool(limits, SpendMeter(budget or Budget()))


@pytest.fixture
def closing() -> Iterator[Callable[[CallPool], CallPool]]:
    made: list[CallPool] = []

    def keep(one: CallPool) -> CallPool:
        made.append(one)
        return one

    yield keep
    for one in made:
        one.close()


class Script:
    """A call that raises or answers in turn."""

    def __init__(self, *steps: Exception | str) -> None:
        self.steps = list(steps)
        self.sent = 0

    async def send(self) -> Answered:
        step = self.steps[min(self.sent, len(self.steps) - 1)]
        self.sent += 1
        if isinstance(step, Exception):
            raise step
        return Answered(step)


def planned(send: Callable[[], Awaitable[Answered]], estimate: Usage | None = None) -> PlannedCall[Answered]:
    return PlannedCall(send=send, estimate=estimate or Usage(prompt_tokens=10, completion_tokens=10, cost_usd=0.02))


def flaky() -> CallFailed:
    return CallFailed(CriticError("server error 503"), retryable=True)


def limited(wish_s: float | None) -> CallFailed:
    return CallFailed(CriticRateLimitError("slow down", wish_s), retryable=True, retry_after_s=wish_s)


Closing = Callable[[CallPool], CallPool]


def test_results_keep_the_order_of_calls(closing: Closing) -> None:
    async def send(delay_s: float, text: str) -> Answered:
        await asyncio.sleep(delay_s)
        return Answered(text)

    calls = [planned(lambda d=d, t=t: send(d, t)) for d, t in ((0.03, "a"), (0.0, "b"), (0.01, "c"))]
    seen: list[int] = []
    results = closing(pool()).run_all(calls, on_result=lambda index, _: seen.append(index))
    assert [result.answer.text for result in results if result.answer] == ["a", "b", "c"]
    assert seen == [1, 2, 0]
    assert results[0].latency_s >= 0.03
    assert pool().run_all([]) == []


def test_a_retryable_failure_is_sent_again_and_another_is_not(closing: Closing) -> None:
    comes_back = Script(flaky(), flaky(), "ok")
    never = Script(flaky())
    final = Script(CallFailed(CriticError("bad request"), retryable=False))
    results = closing(pool()).run_all([planned(one.send) for one in (comes_back, never, final)])
    assert [one.sent for one in (comes_back, never, final)] == [3, 4, 1]
    assert [result.attempts for result in results] == [3, 4, 1]
    assert results[0].answer == Answered("ok")
    assert [str(result.error) for result in results[1:]] == ["server error 503", "bad request"]


def test_retry_after_is_waited_for(closing: Closing) -> None:
    script = Script(limited(0.2), "ok")
    result = closing(pool()).run_all([planned(script.send)])[0]
    assert result.answer is not None
    assert result.latency_s >= 0.2


def test_a_rate_limit_pauses_every_call_of_the_pool(closing: Closing) -> None:
    one_at_a_time = CallLimits(max_in_flight=1, timeout_s=5.0)
    start = 0.0
    sent_after: list[float] = []

    async def first() -> Answered:
        nonlocal start
        if not start:
            start = asyncio.get_running_loop().time()
            raise limited(0.2)
        return Answered("first")

    async def second() -> Answered:
        sent_after.append(asyncio.get_running_loop().time() - start)
        return Answered("second")

    closing(pool(one_at_a_time)).run_all([planned(first), planned(second)])
    assert sent_after[0] >= 0.199


def test_a_wish_over_the_cap_fails_and_is_never_sent_early(closing: Closing) -> None:
    script = Script(limited(3600.0), "ok")
    result = closing(pool(CallLimits(retry_after_cap_s=0.01))).run_all([planned(script.send)])[0]
    assert script.sent == 1
    assert isinstance(result.error, CriticRateLimitError)
    assert result.error.retry_after_s == 3600.0


def test_the_timeout_starts_when_the_call_is_sent(closing: Closing) -> None:
    async def send() -> Answered:
        await asyncio.sleep(0.1)
        return Answered("ok")

    # Eight calls of 0.1 s through one slot take 0.8 s: queueing must not count against 0.5 s.
    limits = CallLimits(timeout_s=0.5, max_in_flight=1)
    results = closing(pool(limits)).run_all([planned(send)] * 8)
    assert all(result.answer is not None for result in results)


def test_a_hanging_call_times_out_and_its_estimate_stays_spent(closing: Closing) -> None:
    async def hang() -> Answered:
        await asyncio.sleep(60)
        return Answered("late")

    one = closing(pool(CallLimits(timeout_s=0.02, max_attempts=2, backoff_s=0.001)))
    result = one.run_all([planned(hang)])[0]
    assert isinstance(result.error, CriticTimeoutError)
    assert result.attempts == 2
    assert (one.spent.calls, one.spent.tokens) == (2, 40)


def test_the_stage_deadline_ends_what_is_left(closing: Closing) -> None:
    async def hang() -> Answered:
        await asyncio.sleep(60)
        return Answered("late")

    async def fine() -> Answered:
        return Answered("ok")

    limits = CallLimits(timeout_s=30.0, stage_deadline_s=0.1, max_in_flight=2)
    results = closing(pool(limits)).run_all([planned(fine), planned(hang), planned(hang), planned(hang)])
    assert results[0].answer == Answered("ok")
    assert all(isinstance(result.error, CriticTimeoutError) for result in results[1:])
    assert "stage's 0.1 s" in str(results[3].error)
    # The last one never got a slot.
    assert results[3].attempts == 0


def test_no_wait_is_begun_that_would_outlast_the_stage(closing: Closing) -> None:
    limits = CallLimits(stage_deadline_s=0.5, retry_after_cap_s=60.0)
    script = Script(limited(30.0), "ok")
    result = closing(pool(limits)).run_all([planned(script.send)])[0]
    assert isinstance(result.error, CriticRateLimitError)
    assert result.latency_s < 0.4


def test_at_most_max_in_flight_at_once(closing: Closing) -> None:
    now, most = 0, 0

    async def send() -> Answered:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.005)
        now -= 1
        return Answered("ok")

    closing(pool(CallLimits(max_in_flight=3))).run_all([planned(send)] * 20)
    assert most == 3


def test_every_send_counts_against_max_calls_before_it_is_made(closing: Closing) -> None:
    retried, refused = Script(flaky(), "ok"), Script("ok")
    one = closing(pool(CallLimits(max_in_flight=1, backoff_s=0.0), Budget(max_calls=2)))
    first = one.run_all([planned(retried.send)])[0]
    second = one.run_all([planned(refused.send)])[0]
    assert first.answer is not None
    assert isinstance(second.error, CriticBudgetError)
    assert str(second.error).startswith("max_calls = 2: 2 used")
    assert refused.sent == 0


def test_a_retry_that_cannot_be_paid_for_ends_as_what_it_was_wanted_for(closing: Closing) -> None:
    script = Script(flaky())
    result = closing(pool(budget=Budget(max_calls=2))).run_all([planned(script.send)])[0]
    assert (script.sent, str(result.error)) == (2, "server error 503")


@pytest.mark.parametrize(
    ("budget", "field"),
    [(Budget(max_tokens=34), "max_total_tokens"), (Budget(max_cost_usd=0.029), "max_cost_usd")],
)
def test_tokens_and_money_are_reserved_by_estimate_and_settled_by_use(
    closing: Closing, budget: Budget, field: str
) -> None:
    # Estimate 20 tokens and 0.02 usd; use 15 and 0.01. After one call 15 + 20 = 35 > 34 and 0.01 + 0.02 = 0.03 > 0.029.
    script = Script("ok")
    one = closing(pool(QUICK, budget))
    results = [one.run_all([planned(script.send)])[0] for _ in range(2)]
    assert results[0].answer is not None
    assert field in str(results[1].error)
    assert (one.spent.calls, one.spent.tokens, one.spent.cost_usd) == (1, 15, 0.01)


def test_calls_in_flight_count_with_their_estimates(closing: Closing) -> None:
    async def send() -> Answered:
        await asyncio.sleep(0.02)
        return Answered("ok")

    # Three calls at once may need 60 tokens; only two estimates of 20 fit into 45.
    results = closing(pool(QUICK, Budget(max_tokens=45))).run_all([planned(send)] * 3)
    assert [isinstance(result.error, CriticBudgetError) for result in results] == [False, False, True]


def test_an_unknown_price_is_counted_and_is_not_zero(closing: Closing) -> None:
    async def send() -> Answered:
        return Answered("ok", Usage(prompt_tokens=1, completion_tokens=1, cost_usd=None))

    one = closing(pool())
    one.run_all([planned(send, Usage(prompt_tokens=1, completion_tokens=1))])
    assert (one.spent.unpriced_calls, one.spent.cost_usd) == (1, 0.0)


def test_an_unforeseen_error_is_a_failure_that_shows_its_type_and_place_only(closing: Closing) -> None:
    result = closing(pool()).run_all([planned(Script(KeyError("sk-secret")).send)])[0]
    assert str(result.error).startswith("unexpected KeyError at send, line ")
    assert "secret" not in str(result.error)


def test_what_on_result_raises_ends_the_stage(closing: Closing) -> None:
    cancelled = threading.Event()

    async def hang() -> Answered:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()
        return Answered("late")

    def stop(_index: int, _result: CallResult[Answered]) -> None:
        raise CriticSetupError("no such model")

    with pytest.raises(CriticSetupError, match="no such model"):
        closing(pool()).run_all([planned(hang), planned(Script("ok").send)], on_result=stop)
    assert cancelled.wait(5)


def test_one_thread_serves_all_stages_and_is_closed_once() -> None:
    seen: set[str] = set()

    async def send() -> Answered:
        seen.add(f"{threading.current_thread().name} {id(asyncio.get_running_loop())}")
        return Answered("ok")

    before = threading.active_count()
    one = pool()
    assert threading.active_count() == before
    for _ in range(3):
        one.run_all([planned(send)])
    assert len(seen) == 1
    assert threading.active_count() == before + 1
    cleaned: list[str] = []

    async def cleanup() -> None:
        cleaned.append(threading.current_thread().name)

    one.close(cleanup)
    assert cleaned == ["critique-rl-calls"]
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="closed"):
        one.run_all([planned(send)])


def test_a_shared_thread_outlives_its_pools() -> None:
    thread = LoopThread()
    for _ in range(2):
        one = CallPool(QUICK, SpendMeter(Budget()), thread=thread)
        assert one.run_all([planned(Script("ok").send)])[0].answer == Answered("ok")
        one.close()
    thread.close()
    thread.close()


def test_retries_leave_the_global_generator_alone(closing: Closing) -> None:
    random.seed(1)
    before = random.getstate()
    closing(pool()).run_all([planned(Script(flaky(), flaky(), "ok").send)])
    assert random.getstate() == before
