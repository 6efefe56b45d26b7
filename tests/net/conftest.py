"""A loop in virtual time for each test that asks for one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.net.fakes import InstantThread


@pytest.fixture
def instant() -> Iterator[InstantThread]:
    thread = InstantThread()
    yield thread
    thread.close()
