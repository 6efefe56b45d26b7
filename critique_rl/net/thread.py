"""The thread on which all calls run.

Owns: one event loop, its start and its end. Must not know: calls.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")
_LOG = logging.getLogger(__name__)


class LoopThread:
    """One event loop on one daemon thread, started at the first use and closed once. Any thread may use it."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._lock = threading.Lock()

    def start(self, coroutine: Coroutine[object, object, T]) -> Future[T]:
        """Run on the loop while the caller goes on; cancelling the future cancels the coroutine.

        Raises RuntimeError if the thread is closed.
        """
        with self._lock:
            if self._closed:
                coroutine.close()
                raise RuntimeError("the call thread is closed; make a new critic for a new run")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._loop.set_exception_handler(_report)
                self._thread = threading.Thread(target=self._loop.run_forever, name="critique-rl-calls", daemon=True)
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def run(self, coroutine: Coroutine[object, object, T]) -> T:
        """Run to the end on the loop and return the result; an interrupt here cancels it there.

        Raises RuntimeError if the thread is closed, or is the caller's own and would wait for itself.
        """
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError("waiting for a call on the thread that makes the calls: await it there, or use start")
        future = self.start(coroutine)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Cancel what still runs, stop the thread, close the loop; a second call does nothing."""
        with self._lock:
            loop, thread, closed = self._loop, self._thread, self._closed
            self._closed = True
        if closed or loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(_cancel_others(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _cancel_others() -> None:
    while others := [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]:
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()


def _report(_loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """The loop's own report prints the exception, and with it whatever the exception quotes: a key, for one."""
    error = context.get("exception")
    _LOG.warning("call thread: %s (%s)", context.get("message"), type(error).__name__ if error else "no exception")
