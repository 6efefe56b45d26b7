"""Ctrl-C waits for the end of the block, and nothing else changes."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from critique_rl.loop.interrupts import interrupts_held


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_the_block_is_finished_first() -> None:
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt), interrupts_held():
        press()
        done.append(1)
        press()
        done.append(2)
    assert done == [1, 2]


def test_the_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interrupts_held():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(ValueError, match="wrong"), interrupts_held():
        raise ValueError("wrong")
    assert signal.getsignal(signal.SIGINT) is before


def test_where_ctrl_c_is_ignored_it_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts_held():
            press()
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_can_use_it_too() -> None:
    done: list[int] = []

    def work() -> None:
        with interrupts_held():
            done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [1]
