"""What every test runs under: one thread, no display, no network but loopback."""

from __future__ import annotations

import os
import signal
import socket

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["MPLBACKEND"] = "Agg"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest

LOOPBACK = ("127.", "::1", "localhost")
_connect = socket.socket.connect


def _connect_to_loopback(self: socket.socket, address: object) -> None:
    host = address[0] if isinstance(address, tuple) else ""
    if self.family in (socket.AF_INET, socket.AF_INET6) and not str(host).startswith(LOOPBACK):
        raise PermissionError(f"a test tried to reach {host!r}; tests may only use loopback addresses")
    _connect(self, address)  # pyright: ignore[reportArgumentType]


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that would leave the machine fails, wherever it runs."""
    monkeypatch.setattr(socket.socket, "connect", _connect_to_loopback)


def pytest_configure() -> None:
    """A process started in the background ignores Ctrl-C, and hands that on: tests of it would wait for ever."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
