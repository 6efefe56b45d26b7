"""One tracker in front of several.

Owns: the order (as given) and that every tracker is closed even if one of them fails. Must not know: any tracker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from critique_rl.protocols import Tracker


class FanoutTracker:
    """Passes each call on to all trackers, in order; an exception of one stops the call and reaches the caller."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = tuple(trackers)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            tracker.log(step, values)

    def event(self, step: int, kind: str, message: str) -> None:
        for tracker in self._trackers:
            tracker.event(step, kind, message)

    def sample(self, step: int, record: Mapping[str, object]) -> None:
        for tracker in self._trackers:
            tracker.sample(step, record)

    def close(self) -> None:
        with ExitStack() as stack:
            for tracker in reversed(self._trackers):
                stack.callback(tracker.close)
