"""Slots, rates and pauses are taken together and in order, and given back whoever gives up."""

from __future__ import annotations

import asyncio

import pytest

from critique_rl.net.gate import SendGate
from tests.net.fakes import InstantThread


def test_the_order_of_asking_is_the_order_of_sending(instant: InstantThread) -> None:
    order: list[int] = []

    async def one(gate: SendGate, index: int) -> None:
        await gate.enter(0)
        order.append(index)
        await asyncio.sleep(1)
        gate.leave(0, 0)

    async def main() -> None:
        gate = SendGate(slots=2)
        await asyncio.gather(*[one(gate, index) for index in range(7)])

    instant.run(main())
    assert order == list(range(7))


def test_a_place_that_comes_together_with_a_cancellation_is_given_back(instant: InstantThread) -> None:
    async def main() -> None:
        gate = SendGate(slots=1, requests_per_minute=60_000)
        await gate.enter(0)
        waiting = asyncio.create_task(gate.enter(0))
        behind = asyncio.create_task(gate.enter(0))
        await asyncio.sleep(0.01)
        gate.leave(0, 0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await behind
        gate.leave(0, 0)
        assert gate.try_enter(0)

    instant.run(main())


def test_who_gives_up_in_the_queue_holds_nobody_up(instant: InstantThread) -> None:
    async def main() -> float:
        gate = SendGate(slots=8, tokens_per_minute=6_000)
        start_s = asyncio.get_running_loop().time()
        # 100 tokens a second, 500 at once: the large one would wait 10 s, the small one behind it need not.
        await gate.enter(500)
        large = asyncio.create_task(gate.enter(1000))
        small = asyncio.create_task(gate.enter(100))
        await asyncio.sleep(2)
        assert not small.done()
        large.cancel()
        await small
        return asyncio.get_running_loop().time() - start_s

    assert instant.run(main()) == pytest.approx(2.0)


def test_a_pause_that_begins_while_calls_wait_for_a_slot_holds_for_them(instant: InstantThread) -> None:
    async def main() -> float:
        gate = SendGate(slots=1)
        await gate.enter(0)
        start_s = asyncio.get_running_loop().time()
        waiting = asyncio.create_task(gate.enter(0))
        await asyncio.sleep(1)
        gate.pause(5)
        gate.pause(2)
        gate.leave(0, 0)
        assert not gate.try_enter(0)
        await waiting
        return asyncio.get_running_loop().time() - start_s

    assert instant.run(main()) == pytest.approx(6.0)


def test_nobody_overtakes_the_queue(instant: InstantThread) -> None:
    async def main() -> None:
        gate = SendGate(slots=4, tokens_per_minute=60)
        await gate.enter(5)
        waiting = asyncio.create_task(gate.enter(5))
        await asyncio.sleep(0)
        assert not gate.try_enter(0)
        await waiting

    instant.run(main())


def test_tokens_are_corrected_when_a_call_ends(instant: InstantThread) -> None:
    async def second_at(used: int) -> float:
        gate = SendGate(slots=4, tokens_per_minute=6_000)
        start_s = asyncio.get_running_loop().time()
        await gate.enter(500)
        waiting = asyncio.create_task(gate.enter(500))
        await asyncio.sleep(1)
        gate.leave(500, used)
        await waiting
        return asyncio.get_running_loop().time() - start_s

    # 100 a second. All 500 used: 5 s. 200 used: the 300 left over save 3 s. 700 used: 2 s more.
    assert instant.run(second_at(500)) == pytest.approx(5.0)
    assert instant.run(second_at(200)) == pytest.approx(2.0)
    assert instant.run(second_at(700)) == pytest.approx(7.0)
    assert instant.run(second_at(0)) == pytest.approx(1.0)
