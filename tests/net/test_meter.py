"""The budget: checked before each send by estimate, settled by use, never double."""

from __future__ import annotations

import pytest

from critique_rl.errors import CriticBudgetError, CriticError, CriticTimeoutError
from critique_rl.net import Budget, CallFailed, CallLimits, SpendMeter, Spent
from critique_rl.types import Usage
from tests.net.fakes import ESTIMATE, HANG, USED, Answered, InstantThread, Script, flaky, planned, pool_on


def test_reservations_and_use_add_up() -> None:
    meter = SpendMeter(Budget(max_tokens=45), spent=Spent(calls=3, tokens=4, cost_usd=0.5, unpriced_calls=1))
    meter.reserve(ESTIMATE)
    meter.reserve(ESTIMATE)
    # 4 used + 2 * 20 in flight leave room for 1.
    with pytest.raises(CriticBudgetError, match=r"max_total_tokens = 45: 44 used or in flight, .* may need 20"):
        meter.reserve(ESTIMATE)
    meter.settle(ESTIMATE, USED)
    meter.settle(ESTIMATE, None)
    assert meter.spent == Spent(calls=5, tokens=19, cost_usd=0.51, unpriced_calls=1)
    # Nothing is in flight any more: 19 + 20 fit.
    meter.reserve(ESTIMATE)


def test_every_send_counts_against_max_calls_before_it_is_made(instant: InstantThread) -> None:
    retried, refused = Script(flaky(), "ok"), Script("ok")
    one = pool_on(instant, budget=Budget(max_calls=2))
    first = one.run_all([planned(retried.send)])[0]
    second = one.run_all([planned(refused.send)])[0]
    assert first.answer is not None
    assert isinstance(second.error, CriticBudgetError)
    assert str(second.error).startswith("max_calls = 2: 2 used")
    assert refused.sent == 0


def test_a_retry_that_cannot_be_paid_for_ends_as_what_it_was_wanted_for(instant: InstantThread) -> None:
    script = Script(flaky())
    result = pool_on(instant, budget=Budget(max_calls=2)).run_all([planned(script.send)])[0]
    assert (script.sent, str(result.error)) == (2, "server error 503")


@pytest.mark.parametrize(
    ("budget", "field"),
    [(Budget(max_tokens=34), "max_total_tokens"), (Budget(max_cost_usd=0.029), "max_cost_usd")],
)
def test_tokens_and_money_are_reserved_by_estimate_and_settled_by_use(
    instant: InstantThread, budget: Budget, field: str
) -> None:
    # Estimate 20 tokens and 0.02 usd; use 15 and 0.01. After one call 15 + 20 = 35 > 34 and 0.01 + 0.02 = 0.03 > 0.029.
    script = Script("ok")
    one = pool_on(instant, budget=budget)
    results = [one.run_all([planned(script.send)])[0] for _ in range(2)]
    assert results[0].answer is not None
    assert field in str(results[1].error)
    assert one.spent == Spent(calls=1, tokens=15, cost_usd=0.01)


def test_calls_in_flight_count_with_their_estimates(instant: InstantThread) -> None:
    # Three calls at once may need 60 tokens; only two estimates of 20 fit into 45.
    one = pool_on(instant, budget=Budget(max_tokens=45))
    results = one.run_all([planned(Script((1.0, "ok")).send)] * 3)
    assert [isinstance(result.error, CriticBudgetError) for result in results] == [False, False, True]


def test_what_the_budget_refuses_takes_no_share_of_the_rates(instant: InstantThread) -> None:
    one = pool_on(instant, CallLimits(requests_per_minute=1, tokens_per_minute=1), Budget(max_calls=0))
    start_s = instant.loop.time()
    results = one.run_all([planned(Script("ok").send)] * 10)
    assert all(isinstance(result.error, CriticBudgetError) for result in results)
    assert instant.loop.time() == start_s


def test_an_unknown_price_is_counted_and_is_not_zero(instant: InstantThread) -> None:
    async def send() -> Answered:
        return Answered("ok", Usage(prompt_tokens=1, completion_tokens=1))

    one = pool_on(instant)
    one.run_all([planned(send, estimate=Usage(prompt_tokens=1, completion_tokens=1))])
    assert one.spent == Spent(calls=1, tokens=2, unpriced_calls=1)


@pytest.mark.parametrize("estimate", [ESTIMATE, Usage(prompt_tokens=20)])
@pytest.mark.parametrize("failure", [flaky(), KeyError("sk"), CriticError("bare")])
def test_a_failed_send_without_an_answer_used_nothing(
    instant: InstantThread, failure: Exception, estimate: Usage
) -> None:
    one = pool_on(instant, CallLimits(max_attempts=1))
    assert one.run_all([planned(Script(failure).send, estimate=estimate)])[0].error is not None
    assert one.spent == Spent(calls=1)


@pytest.mark.parametrize(
    "slow", [HANG, TimeoutError(), CallFailed(CriticTimeoutError("no answer in time"), retryable=True)]
)
def test_a_send_that_timed_out_may_be_billed(instant: InstantThread, slow: Exception | tuple[float, str]) -> None:
    one = pool_on(instant, CallLimits(max_attempts=2))
    result = one.run_all([planned(Script(slow).send)])[0]
    assert isinstance(result.error, CriticTimeoutError)
    assert one.spent == Spent(calls=2, tokens=40, cost_usd=0.04)


def test_a_failure_that_is_known_to_be_billed_is_counted(instant: InstantThread) -> None:
    one = pool_on(instant)
    refused = CallFailed(CriticError("refused by the model"), retryable=False, used=USED)
    one.run_all([planned(Script(refused).send)])
    assert one.spent == Spent(calls=1, tokens=15, cost_usd=0.01)
