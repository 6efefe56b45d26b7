"""One send under its clock, and the second send of a slow one."""

from __future__ import annotations

import asyncio

import pytest

from critique_rl.errors import CriticRateLimitError, CriticTimeoutError
from critique_rl.net import Budget, CallLimits, Spent
from tests.net.fakes import HANG, Answered, InstantThread, Script, final, flaky, limited, planned, pool_on

HEDGED = CallLimits(hedge_after_s=2.0, timeout_s=10.0, max_attempts=1)


def test_the_timeout_starts_when_the_call_is_sent(instant: InstantThread) -> None:
    # Eight calls of 3 s through one slot, at one in 4 s: neither queue counts against 5 s.
    limits = CallLimits(timeout_s=5.0, max_in_flight=1, requests_per_minute=15)
    results = pool_on(instant, limits).run_all([planned(Script((3.0, "ok")).send)] * 8)
    assert all(result.answer is not None for result in results)


def test_a_hanging_call_times_out_and_its_estimate_stays_spent(instant: InstantThread) -> None:
    script = Script(HANG)
    one = pool_on(instant, CallLimits(timeout_s=5.0, max_attempts=2, backoff_s=0.0))
    result = one.run_all([planned(script.send)])[0]
    assert isinstance(result.error, CriticTimeoutError)
    assert str(result.error) == "no answer within 5 s of sending"
    assert (result.attempts, script.given_up) == (2, 2)
    assert result.latency_s == pytest.approx(10.0)
    assert one.spent == Spent(calls=2, tokens=40, cost_usd=0.04)


def test_a_cancelled_call_frees_its_slot_and_may_be_billed(instant: InstantThread) -> None:
    script = Script(HANG, "ok")
    one = pool_on(instant, CallLimits(max_in_flight=1))

    async def main() -> None:
        hanging = asyncio.create_task(one.call(planned(script.send)))
        await asyncio.sleep(1)
        hanging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hanging
        assert (await one.call(planned(script.send))).answer == Answered("ok")

    instant.run(main())
    assert script.given_up == 1
    assert one.spent == Spent(calls=2, tokens=35, cost_usd=pytest.approx(0.03))


def test_an_unforeseen_error_shows_its_type_and_place_only(instant: InstantThread) -> None:
    for limits in (CallLimits(), HEDGED):
        result = pool_on(instant, limits).run_all([planned(Script(KeyError("sk-secret")).send)])[0]
        assert str(result.error).startswith("unexpected KeyError at send, line ")
        assert result.error is not None
        assert result.error.__cause__ is result.error.__context__ is result.error.__traceback__ is None


def test_a_fast_call_is_sent_once(instant: InstantThread) -> None:
    script = Script((1.9, "ok"))
    result = pool_on(instant, HEDGED).run_all([planned(script.send)])[0]
    assert (result.answer, result.attempts, script.sent) == (Answered("ok"), 1, 1)


def test_a_hedge_wins_and_the_first_send_is_given_up_but_counted(instant: InstantThread) -> None:
    script = Script(HANG, (1.0, "second"))
    one = pool_on(instant, HEDGED)
    result = one.run_all([planned(script.send)])[0]
    assert (result.answer, result.attempts, script.given_up) == (Answered("second"), 2, 1)
    assert result.latency_s == pytest.approx(3.0)
    # 15 used by the winner, 20 kept for the loser.
    assert one.spent == Spent(calls=2, tokens=35, cost_usd=pytest.approx(0.03))


def test_the_loser_has_ended_when_the_answer_is_returned(instant: InstantThread) -> None:
    ended: list[str] = []
    script = Script((1.0, "second"))

    async def send() -> Answered:
        if script.sent or ended:
            return await script.send()
        script.times_s.append(0.0)
        try:
            await asyncio.sleep(1e6)
        finally:
            await asyncio.sleep(0.5)
            ended.append("first")
        return Answered("late")

    async def main() -> None:
        result = await pool_on(instant, HEDGED).call(planned(send))
        assert result.answer == Answered("second")
        assert ended == ["first"]

    instant.run(main())


def test_a_hedge_loses(instant: InstantThread) -> None:
    script = Script((4.0, "first"), HANG)
    result = pool_on(instant, HEDGED).run_all([planned(script.send)])[0]
    assert (result.answer, result.attempts, script.given_up) == (Answered("first"), 2, 1)
    assert result.latency_s == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("first", "second", "winner"),
    [((3.0, flaky()), (5.0, "second"), "second"), ((5.0, "first"), (0.5, final()), "first")],
)
def test_a_failure_of_one_leaves_the_other_running(
    instant: InstantThread, first: tuple[float, Exception | str], second: tuple[float, Exception | str], winner: str
) -> None:
    one = pool_on(instant, HEDGED)
    result = one.run_all([planned(Script(first, second).send)])[0]
    assert (result.answer, result.attempts) == (Answered(winner), 2)
    assert one.spent == Spent(calls=2, tokens=15, cost_usd=0.01)


def test_two_answers_at_once_are_both_paid_and_one_is_returned(instant: InstantThread) -> None:
    one = pool_on(instant, HEDGED)
    result = one.run_all([planned(Script((4.0, "first"), (2.0, "second")).send)])[0]
    assert result.answer == Answered("first")
    assert one.spent == Spent(calls=2, tokens=30, cost_usd=0.02)


def test_when_both_fail_the_call_fails_as_the_one_that_says_more(instant: InstantThread) -> None:
    limits = CallLimits(hedge_after_s=2.0, max_attempts=2)
    for steps in (((3.0, flaky()), (3.0, final())), ((3.0, final()), (3.0, flaky()))):
        result = pool_on(instant, limits).run_all([planned(Script(*steps).send)])[0]
        assert (str(result.error), result.attempts) == ("bad request", 2)
    script = Script((3.0, flaky()), (3.0, limited(20.0)), "ok")
    result = pool_on(instant, limits).run_all([planned(script.send)])[0]
    assert (result.answer, result.attempts) == (Answered("ok"), 3)
    assert script.times_s[2] - script.times_s[0] == pytest.approx(25.0)


def test_each_attempt_is_hedged_at_most_once(instant: InstantThread) -> None:
    script = Script(HANG)
    limits = CallLimits(hedge_after_s=2.0, timeout_s=10.0, max_attempts=2, backoff_s=0.0)
    one = pool_on(instant, limits)
    result = one.run_all([planned(script.send)])[0]
    assert isinstance(result.error, CriticTimeoutError)
    assert [when - script.times_s[0] for when in script.times_s] == pytest.approx([0, 2, 12, 14])
    assert (result.attempts, one.spent.tokens) == (4, 80)


@pytest.mark.parametrize("budget", [Budget(max_calls=1), Budget(max_tokens=39), Budget(max_cost_usd=0.03)])
def test_a_hedge_that_cannot_be_paid_for_is_no_failure(instant: InstantThread, budget: Budget) -> None:
    script = Script((5.0, "ok"))
    one = pool_on(instant, HEDGED, budget)
    result = one.run_all([planned(script.send)])[0]
    assert (result.answer, result.attempts) == (Answered("ok"), 1)
    assert one.spent == Spent(calls=1, tokens=15, cost_usd=0.01)


@pytest.mark.parametrize(
    "tight",
    [
        CallLimits(hedge_after_s=2.0, max_in_flight=1),
        CallLimits(hedge_after_s=2.0, requests_per_minute=1),
        CallLimits(hedge_after_s=2.0, tokens_per_minute=60),
    ],
)
def test_a_hedge_without_a_free_place_is_not_sent(instant: InstantThread, tight: CallLimits) -> None:
    script = Script((5.0, "ok"))
    result = pool_on(instant, tight).run_all([planned(script.send)])[0]
    assert (result.answer, result.attempts) == (Answered("ok"), 1)


def test_no_hedge_is_sent_into_a_pause(instant: InstantThread) -> None:
    slow, refused = Script((5.0, "ok")), Script((1.0, limited(4.0)), "ok")
    results = pool_on(instant, HEDGED).run_all([planned(slow.send), planned(refused.send)])
    assert (results[0].attempts, results[0].answer) == (1, Answered("ok"))
    assert isinstance(results[1].error, CriticRateLimitError)


def test_cancelling_a_hedged_call_ends_both_sends(instant: InstantThread) -> None:
    script = Script(HANG)
    one = pool_on(instant, CallLimits(hedge_after_s=2.0, max_in_flight=2))

    async def main() -> None:
        call = asyncio.create_task(one.call(planned(script.send)))
        await asyncio.sleep(3)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    instant.run(main())
    assert (script.sent, script.given_up, one.spent.tokens) == (2, 2, 40)
    results = one.run_all([planned(Script((1.0, "ok")).send)] * 3)
    assert all(result.answer is not None for result in results)


def test_a_send_that_is_cancelled_before_its_first_step_gives_its_slot_back(instant: InstantThread) -> None:
    script = Script("ok")
    one = pool_on(instant, CallLimits(hedge_after_s=2.0, max_in_flight=1))

    async def main() -> None:
        call = asyncio.create_task(one.call(planned(script.send)))
        await asyncio.sleep(0)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert len(others) == 2
        for task in others:
            task.cancel()
        await asyncio.wait(others)
        assert call.cancelled()

    instant.run(main())
    assert script.sent == 0
    assert one.run_all([planned(script.send)])[0].answer == Answered("ok")
