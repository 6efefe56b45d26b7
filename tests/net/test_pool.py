"""Calls from plan to result: order, deadlines, shared sends, and nothing left behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from critique_rl.errors import CriticError, CriticSetupError, CriticTimeoutError
from critique_rl.net import CallLimits, CallPool, CallResult, LoopThread, Spent
from tests.net.fakes import HANG, Answered, InstantThread, Script, final, flaky, planned, pool_on


@pytest.fixture
def threaded() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.close()


def test_results_keep_the_order_of_calls(instant: InstantThread) -> None:
    calls = [planned(Script((delay_s, text)).send) for delay_s, text in ((3.0, "a"), (1.0, "b"), (2.0, "c"))]
    seen: list[int] = []
    one = pool_on(instant)
    results = one.run_all(calls, on_result=lambda index, _: seen.append(index))
    assert [result.answer.text for result in results if result.answer] == ["a", "b", "c"]
    assert seen == [1, 2, 0]
    assert results[0].latency_s == pytest.approx(3.0)
    assert not any(result.shared for result in results)
    assert one.run_all([]) == []


def test_at_most_max_in_flight_at_once(instant: InstantThread) -> None:
    now, most = 0, 0

    async def send() -> Answered:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(1)
        now -= 1
        return Answered("ok")

    start_s = instant.loop.time()
    pool_on(instant, CallLimits(max_in_flight=3)).run_all([planned(send)] * 20)
    assert most == 3
    assert instant.loop.time() - start_s == pytest.approx(7.0)


def test_the_stage_deadline_ends_what_is_left(instant: InstantThread) -> None:
    limits = CallLimits(stage_deadline_s=10.0, max_in_flight=2)
    scripts = [Script("ok"), Script(HANG), Script(HANG), Script(HANG)]
    results = pool_on(instant, limits).run_all([planned(script.send) for script in scripts])
    assert results[0].answer == Answered("ok")
    assert all(isinstance(result.error, CriticTimeoutError) for result in results[1:])
    assert "stage's 10 s" in str(results[3].error)
    # The last one never got a slot.
    assert [result.attempts for result in results] == [1, 1, 1, 0]


def test_what_on_result_raises_ends_the_stage(instant: InstantThread) -> None:
    hanging = Script(HANG)

    def stop(_index: int, _result: CallResult[Answered]) -> None:
        raise CriticSetupError("no such model")

    with pytest.raises(CriticSetupError, match="no such model"):
        pool_on(instant).run_all([planned(hanging.send), planned(Script("ok").send)], on_result=stop)
    assert hanging.given_up == 1


def test_equal_keys_in_flight_share_one_send(instant: InstantThread) -> None:
    script, other = Script((2.0, "once"), (2.0, "again")), Script("other")
    one = pool_on(instant)
    calls = [planned(script.send, key="a"), planned(other.send, key="b"), planned(script.send, key="a")]
    leader, apart, follower = one.run_all(calls)
    assert (leader.answer, leader.attempts, leader.shared) == (Answered("once"), 1, False)
    assert (follower.answer, follower.attempts, follower.shared) == (Answered("once"), 0, True)
    assert follower.latency_s == pytest.approx(2.0)
    assert (apart.answer, apart.shared) == (Answered("other"), False)
    assert one.spent == Spent(calls=2, tokens=30, cost_usd=0.02)
    # Only what is in flight is shared; nothing is remembered.
    assert one.run_all([planned(script.send, key="a")])[0].answer == Answered("again")


def test_empty_keys_share_nothing(instant: InstantThread) -> None:
    script = Script((1.0, "ok"))
    pool_on(instant).run_all([planned(script.send)] * 3)
    assert script.sent == 3


def test_a_shared_failure_fails_all_and_its_retries_are_shared(instant: InstantThread) -> None:
    script = Script(flaky(), final())
    results = pool_on(instant).run_all([planned(script.send, key="a")] * 3)
    assert script.sent == 2
    assert [str(result.error) for result in results] == ["bad request"] * 3
    assert [(result.attempts, result.shared) for result in results] == [(2, False), (0, True), (0, True)]


def test_cancelling_the_leader_leaves_the_followers_their_answer(instant: InstantThread) -> None:
    script = Script((5.0, "ok"))
    one = pool_on(instant)

    async def main() -> list[CallResult[Answered]]:
        calls = [asyncio.create_task(one.call(planned(script.send, key="a"))) for _ in range(3)]
        await asyncio.sleep(1)
        calls[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await calls[0]
        return [await call for call in calls[1:]]

    second, third = instant.run(main())
    assert (script.sent, script.given_up) == (1, 0)
    assert second.answer == third.answer == Answered("ok")
    # The next in line answers for the send, so that somebody does.
    assert (second.attempts, second.shared, third.attempts, third.shared) == (1, False, 0, True)


def test_a_send_that_nobody_waits_for_is_given_up_and_not_joined(instant: InstantThread) -> None:
    script = Script(HANG, "fresh")
    one = pool_on(instant)

    async def main() -> CallResult[Answered]:
        calls = [asyncio.create_task(one.call(planned(script.send, key="a"))) for _ in range(2)]
        await asyncio.sleep(1)
        for call in calls:
            call.cancel()
        await asyncio.sleep(0)
        result = await one.call(planned(script.send, key="a"))
        await asyncio.wait(calls)
        return result

    assert instant.run(main()).answer == Answered("fresh")
    assert (script.sent, script.given_up) == (2, 1)
    assert one.spent.tokens == 35


def test_a_follower_without_a_deadline_outlives_a_leader_with_one(instant: InstantThread) -> None:
    script = Script((5.0, flaky()), (5.0, "ok"))
    one = pool_on(instant, CallLimits(stage_deadline_s=4.0, backoff_s=0.0))

    async def main() -> tuple[CallResult[Answered], CallResult[Answered]]:
        leader = asyncio.create_task(one._run_all([planned(script.send, key="a")], None))
        await asyncio.sleep(1)
        follower = await one.call(planned(script.send, key="a"))
        return (await leader)[0], follower

    leader, follower = instant.run(main())
    assert isinstance(leader.error, CriticTimeoutError)
    assert (follower.answer, follower.shared) == (Answered("ok"), False)
    # Each send is reported by one of them: one before the leader's deadline, one after.
    assert (leader.attempts, follower.attempts) == (1, 1)


def test_an_answer_that_comes_with_the_deadline_is_returned_or_paid(instant: InstantThread) -> None:
    for key in ("", "a"):
        one = pool_on(instant, CallLimits(stage_deadline_s=5.0))
        result = one.run_all([planned(Script((5.0, "ok")).send, key=key)])[0]
        assert one.spent.calls == result.attempts == 1
        assert one.spent.tokens == (15 if result.answer else 20)


def test_a_call_goes_on_while_its_caller_does_something_else(threaded: LoopThread) -> None:
    one = pool_on(threaded)
    go = threading.Event()

    async def send() -> Answered:
        while not go.is_set():
            await asyncio.sleep(0.001)
        return Answered("ok")

    future = one.start(one.call(planned(send)))
    assert not future.done()
    go.set()
    assert future.result(5).answer == Answered("ok")


def test_cancelling_a_started_call_gives_it_up(threaded: LoopThread) -> None:
    one = pool_on(threaded)
    sent, given_up = threading.Event(), threading.Event()

    async def send() -> Answered:
        sent.set()
        try:
            await asyncio.sleep(60)
        finally:
            given_up.set()
        return Answered("late")

    for key in ("", "a"):
        sent.clear()
        given_up.clear()
        future = one.start(one.call(planned(send, key=key)))
        assert sent.wait(5)
        assert future.cancel()
        assert given_up.wait(5)


def test_closing_ends_started_calls() -> None:
    thread = LoopThread()
    one = pool_on(thread)
    sent = threading.Event()

    async def send() -> Answered:
        sent.set()
        await asyncio.sleep(60)
        return Answered("late")

    futures = [one.start(one.call(planned(send, key=key))) for key in ("", "a", "a")]
    assert sent.wait(5)
    thread.close()
    assert all(future.done() for future in futures)


def test_a_traceback_does_not_keep_the_request_alive(instant: InstantThread) -> None:
    result = pool_on(instant).run_all([planned(Script(CriticError("bare")).send)])[0]
    assert result.error is not None
    assert result.error.__traceback__ is None


def kept_by(one: CallPool) -> int:
    """Entries in every container below a pool."""
    seen, left, total = set[int](), list[object]([one]), 0
    while left:
        thing = left.pop()
        if id(thing) in seen or isinstance(thing, LoopThread):
            continue
        seen.add(id(thing))
        if isinstance(thing, dict | list | set) or type(thing).__name__ == "deque":
            total += len(thing)  # type: ignore[arg-type]
        elif type(thing).__module__.startswith("critique_rl.net"):
            left.extend(getattr(thing, "__dict__", {}).values())
    return total


def test_five_thousand_calls_leave_nothing_behind(instant: InstantThread) -> None:
    limits = CallLimits(max_in_flight=64, hedge_after_s=60.0, tokens_per_minute=10**9, requests_per_minute=10**9)
    one = pool_on(instant, limits)
    for key in ("", "key"):
        results = one.run_all([planned(Script("ok").send, key=key and f"{key}{index}") for index in range(2_500)])
        assert all(result.answer is not None for result in results)

    async def settle() -> None:
        await asyncio.sleep(0)

    instant.run(settle())
    assert one.spent.calls == 5_000
    assert kept_by(one) == 0
