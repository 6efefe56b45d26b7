"""Where a completion ends for the sake of a text: stop strings, and the one answer to how many ids are kept.

Owns: that answer, and a cheap look for engines that sample token by token. Must not know: models, prompts, what a stop
string is for.
Trap: a tail of the ids can read otherwise than the whole (a character that began before it, a blank that is left out at
a text's start), so it may only say where to look; `cut` alone decides.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

_SLACK = 8
"""Ids of a tail beyond one for each byte: special ones between them read as nothing."""


class StopStrings:
    """The stop strings of one call, for completions that `decode` reads.

    `decode` is what makes the completion's text, with special tokens left out. A text that holds a stop string is taken
    to hold it whatever ids follow: bytes that are no whole character yet stand at its end, as U+FFFD, and spoil nothing
    before them. Errors: ValueError for a stop string that is empty or holds U+FFFD.
    """

    def __init__(self, strings: Sequence[str], decode: Callable[[Sequence[int]], str]) -> None:
        if isinstance(strings, str):
            raise ValueError(f"stop = {strings!r} is one string; wanted a sequence of them, such as [{strings!r}]")
        for one in strings:
            if not one or "\ufffd" in one:
                raise ValueError(
                    f"stop = {list(strings)} holds {one!r}, which every text or a half-read one holds; leave it out"
                )
        self.strings = tuple(strings)
        self._decode = decode
        self.tail = max((len(one.encode()) for one in self.strings), default=0) + _SLACK

    def __bool__(self) -> bool:
        return bool(self.strings)

    def cut(self, ids: Sequence[int]) -> int | None:
        """How many ids are kept: up to the first at which the text so far holds a stop string, that one included.
        None if the whole text holds none."""
        if not self.strings or not self._holds(ids):
            return None
        return bisect_left(range(len(ids)), True, lo=1, key=lambda count: self._holds(ids[:count]))

    def ends(self, ids: Sequence[int]) -> bool:
        """Whether the last of `ids` is one to stop at; for an engine that asks at every id, at a cost that does not
        grow with their number."""
        return self.may_end(ids) and self.cut(ids) is not None

    def may_end(self, ids: Sequence[int]) -> bool:
        """Whether the last `tail` of `ids` read as if they held a stop string; the rest of them is not looked at.

        `tail` is one id for each byte of the longest stop string and some more: every other id adds a byte at least.
        Special ids read as nothing, and more of them than that hide a stop string; it is found when the row is cut.
        """
        return self._holds(ids[-self.tail :])

    def _holds(self, ids: Sequence[int]) -> bool:
        text = self._decode(ids)
        return any(one in text for one in self.strings)
