"""Whatever calls do, and whoever gives up when: every send is counted once, every slot comes back, nothing is left."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from critique_rl.net import CallLimits, CallPool, CallResult
from tests.net.fakes import HANG, Answered, InstantThread, Script, final, flaky, limited, planned, pool_on

SLOTS = 5


def steps(rng: random.Random) -> list[Exception | str | tuple[float, Exception | str]]:
    what: list[Exception | str] = ["ok", "ok", "ok", flaky(), limited(3.0), limited(None), final(), KeyError("sk")]
    return [rng.choice([HANG, *[(rng.uniform(0.0, 8.0), rng.choice(what))] * 6]) for _ in range(3)] + ["ok"]


async def all_slots_are_free(pool: CallPool) -> None:
    await asyncio.sleep(3600)
    loop, slow = asyncio.get_running_loop(), Script((1.0, "ok"))
    start_s = loop.time()
    await asyncio.gather(*[pool.call(planned(slow.send)) for _ in range(2 * SLOTS)])
    assert loop.time() - start_s == pytest.approx(2.0)


async def one_storm(pool: CallPool, rng: random.Random, scripts: list[Script]) -> None:
    calls: list[tuple[Script, str, asyncio.Task[CallResult[Answered]]]] = []
    for script in scripts:
        keys = ["", rng.choice("abc") + str(len(calls))]
        for key in keys if rng.random() < 0.5 else [keys[1]] * 3:
            calls.append((script, key, asyncio.create_task(pool.call(planned(script.send, key=key)))))
        await asyncio.sleep(rng.choice([0.0, 0.0, 1.0]))
        if rng.random() < 0.3:
            rng.choice(calls)[2].cancel()
    await asyncio.wait([task for _, _, task in calls])
    results = [task.result() for _, _, task in calls if not task.cancelled()]
    assert all((result.answer is None) != (result.error is None) for result in results)
    assert all(result.attempts == 0 for result in results if result.shared)
    sends = sum(script.sent for script in scripts)
    assert pool.spent.calls == sends
    if len(results) == len(calls):
        assert sum(result.attempts for result in results) == sends
    answered = sum(result.answer is not None and not result.shared for result in results)
    assert answered * 15 <= pool.spent.tokens <= sends * 20


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), hedge_after_s=st.sampled_from([None, 2.0]))
def test_every_send_is_counted_once_and_every_slot_comes_back(seed: int, hedge_after_s: float | None) -> None:
    rng, thread = random.Random(seed), InstantThread()
    limits = CallLimits(
        timeout_s=6.0, max_in_flight=SLOTS, max_attempts=3, hedge_after_s=hedge_after_s, tokens_per_minute=60_000
    )
    pool = pool_on(thread, limits)
    thread.run(one_storm(pool, rng, [Script(*steps(rng)) for _ in range(12)]))
    thread.run(all_slots_are_free(pool))
    thread.close()


def test_a_large_stage_under_a_token_rate_keeps_its_rate(instant: InstantThread) -> None:
    # 6000 tokens a minute are 100 a second; 200 calls estimated at 20 use 15 each: 3000 in all, 500 of them at once.
    script = Script((2.0, "ok"))
    one = pool_on(instant, CallLimits(tokens_per_minute=6_000, max_in_flight=64))
    start_s = instant.loop.time()
    one.run_all([planned(script.send)] * 200)
    took_s = instant.loop.time() - start_s
    assert (3000 - 500) / 100 <= took_s <= 1.15 * (3000 - 500) / 100 + 2.0 + 500 / 100
    assert one.spent.tokens == 3000
