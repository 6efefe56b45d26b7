"""One tracker in front of several."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from critique_rl.protocols import Tracker
from critique_rl.trackers.fanout import FanoutTracker


class Diary:
    def __init__(self, name: str, book: list[tuple[object, ...]], *, broken: bool = False) -> None:
        self.name, self.book, self.broken = name, book, broken

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.book.append((self.name, "log", step, dict(values)))

    def event(self, step: int, kind: str, message: str) -> None:
        self.book.append((self.name, "event", step, kind, message))

    def sample(self, step: int, record: Mapping[str, object]) -> None:
        self.book.append((self.name, "sample", step, dict(record)))

    def close(self) -> None:
        self.book.append((self.name, "close"))
        if self.broken:
            raise OSError("disk gone")


def test_every_call_reaches_every_tracker_in_order() -> None:
    book: list[tuple[object, ...]] = []
    tracker: Tracker = FanoutTracker([Diary("a", book), Diary("b", book)])
    tracker.log(1, {"x": 2.0})
    tracker.event(1, "stall", "m")
    tracker.sample(1, {"k": "v"})
    tracker.close()
    assert [entry[:2] for entry in book] == [(n, c) for c in ("log", "event", "sample", "close") for n in "ab"]
    assert book[0] == ("a", "log", 1, {"x": 2.0})


def test_all_are_closed_even_if_one_fails() -> None:
    book: list[tuple[object, ...]] = []
    with pytest.raises(OSError, match="disk gone"):
        FanoutTracker([Diary("a", book, broken=True), Diary("b", book)]).close()
    assert book == [("a", "close"), ("b", "close")]


def test_no_tracker_at_all_is_fine() -> None:
    FanoutTracker([]).log(0, {})
