"""Which tokens of a rollout stand inside a phrase: characters of the decoded text, then tokens, any overlap counting.

Owns: that only what the policy itself said is looked at, turn by turn, so that no phrase begins in a prompt or in a
tool's words. Must not know: which phrases, what they are for.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from critique_rl.stats.grams import Grams
from critique_rl.types import Array, Rollout, TokenIds

Decode = Callable[[Sequence[int]], str]
Spans = Sequence[tuple[int, int]]


class Part(NamedTuple):
    """A stretch of a rollout in the policy's own words: the tokens [start, end), and their text."""

    start: int
    end: int
    text: str


def own_parts(rollout: Rollout) -> list[Part]:
    """The whole completion, or the turns of an episode."""
    if rollout.turns:
        return [Part(turn.start, turn.end, turn.text) for turn in rollout.turns]
    return [Part(0, len(rollout.completion_ids), rollout.text)]


def planning_mask(rollout: Rollout, grams: Grams, *, decode: Decode, pieces: dict[int, str]) -> Array | None:
    """[T]: 1 on tokens that reach into a phrase; None where ids do not decode to their text.

    `pieces` remembers what single ids decode to, from rollout to rollout.
    """
    mask_T = np.zeros(len(rollout.completion_ids))
    for part in own_parts(rollout):
        spans = grams.spans(part.text)
        ids = rollout.completion_ids[part.start : part.end]
        inside = tokens_inside(ids, part.text, spans, decode=decode, pieces=pieces) if spans else []
        if inside is None:
            return None
        for first, end in inside:
            mask_T[part.start + first : part.start + end] = 1.0
    return mask_T


def tokens_inside(
    ids: TokenIds, text: str, spans: Spans, *, decode: Decode, pieces: dict[int, str]
) -> list[tuple[int, int]] | None:
    """Per span of characters the tokens [first, end) that overlap it; None where the ids do not decode to the text.

    Where single ids decode to parts of the text, one pass does it. Else (a character in several tokens, blanks that
    stand between tokens) beginnings of the ids are decoded, a few for each span.
    """
    for one in ids:
        if one not in pieces:
            pieces[one] = decode([one])
    lengths = [len(pieces[one]) for one in ids]
    if "".join(pieces[one] for one in ids) == text:
        ends = list(accumulate(lengths))
        starts = [end - length for end, length in zip(ends, lengths, strict=True)]
        return [(bisect_right(ends, start), bisect_left(starts, end)) for start, end in spans]
    if decode(ids) != text:
        return None
    return [_by_beginnings(ids, text, span, decode) for span in spans]


def _by_beginnings(ids: TokenIds, text: str, span: tuple[int, int], decode: Decode) -> tuple[int, int]:
    start, end = span

    def reaches_in(count: int) -> bool:
        # Lengths alone mislead: while a character lacks bytes, one to three replacement marks stand in its place.
        decoded = decode(ids[:count])
        return len(decoded) > start and decoded.startswith(text[:start])

    def holds_all(count: int) -> bool:
        return decode(ids[:count]).startswith(text[:end])

    counts = range(len(ids) + 1)
    return bisect_left(counts, True, key=reaches_in) - 1, bisect_left(counts, True, key=holds_all)
