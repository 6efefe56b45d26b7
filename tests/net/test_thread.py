"""One loop on one daemon thread, closed once."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import threading

import pytest

from critique_rl.net import LoopThread
from tests.net.fakes import Script, planned, pool_on


def test_one_thread_serves_all_calls_and_is_closed_once() -> None:
    async def where() -> str:
        return f"{threading.current_thread().name} {threading.current_thread().daemon} {id(asyncio.get_running_loop())}"

    before = threading.active_count()
    thread = LoopThread()
    assert threading.active_count() == before
    seen = {thread.run(where()) for _ in range(3)} | {thread.start(where()).result(5)}
    assert len(seen) == 1
    assert next(iter(seen)).startswith("critique-rl-calls True")
    assert threading.active_count() == before + 1
    thread.close()
    thread.close()
    assert threading.active_count() == before
    for use in (thread.run, thread.start):
        with pytest.raises(RuntimeError, match="closed"):
            use(where())


def test_a_pool_closes_its_own_thread_after_its_cleanup_and_leaves_a_shared_one() -> None:
    thread = LoopThread()
    cleaned: list[str] = []

    async def cleanup() -> None:
        cleaned.append(threading.current_thread().name)

    for _ in range(2):
        one = pool_on(thread)
        result = one.run_all([planned(Script("ok").send)])[0]
        assert result.answer is not None
        one.close(cleanup)
    assert cleaned == ["critique-rl-calls"] * 2
    thread.close()


def test_closing_ends_what_runs_and_what_is_begun_meanwhile() -> None:
    thread = LoopThread()
    started, ended, begun = threading.Event(), list[str](), list[asyncio.Task[None]]()

    async def late() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("late")

    async def stubborn() -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            begun.append(asyncio.create_task(late()))
            await asyncio.sleep(0)
            ended.append("stubborn")

    future = thread.start(stubborn())
    assert started.wait(5)
    thread.close()
    assert sorted(ended) == ["late", "stubborn"]
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(5)


def test_cancelling_the_future_cancels_the_coroutine() -> None:
    thread = LoopThread()
    started, cancelled = threading.Event(), threading.Event()

    async def hang() -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    future = thread.start(hang())
    assert started.wait(5)
    assert future.cancel()
    assert cancelled.wait(5)
    thread.close()


def test_waiting_on_the_calls_own_thread_is_an_error_and_no_deadlock() -> None:
    thread = LoopThread()

    async def inner() -> None:
        """Never begun."""

    async def outer() -> None:
        thread.run(inner())

    with pytest.raises(RuntimeError, match="use start"):
        thread.run(outer())
    thread.close()


def test_an_interrupt_while_waiting_cancels_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(concurrent.futures.Future[None]):
        def result(self, timeout: float | None = None) -> None:
            raise KeyboardInterrupt

    async def nothing() -> None:
        """Never begun."""

    thread, future, coroutine = LoopThread(), Interrupted(), nothing()
    monkeypatch.setattr(thread, "start", lambda _: future)
    with pytest.raises(KeyboardInterrupt):
        thread.run(coroutine)
    assert future.cancelled()
    coroutine.close()


def test_what_nobody_waits_for_is_reported_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    thread = LoopThread()

    async def fails() -> None:
        raise KeyError("sk-secret")

    async def main() -> None:
        task = asyncio.create_task(fails())
        await asyncio.sleep(0)
        assert task.done()

    with caplog.at_level(logging.WARNING):
        thread.run(main())
        gc.collect()
        thread.close()
    assert "KeyError" in caplog.text
    assert "secret" not in caplog.text
