"""How many ids a stop string leaves: the first prefix whose text holds it, whatever the tokens are."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from critique_rl.engines.stopping import StopStrings

PIECES = ["", "a", "b", "ab", "ba", " a", "<", "</", "</a>", ">", "b>c", "é"]
SPECIAL = 0


def joined(ids: Sequence[int]) -> str:
    """Pieces side by side; id 0 is special and reads as nothing."""
    return "".join(PIECES[i] for i in ids)


def as_bytes(ids: Sequence[int]) -> str:
    return bytes(ids).decode("utf-8", errors="replace")


def first(ids: Sequence[int], strings: Sequence[str]) -> int | None:
    """Prefix by prefix."""
    for count in range(1, len(ids) + 1):
        if any(one in joined(ids[:count]) for one in strings):
            return count
    return None


def piece_ids(*pieces: str) -> list[int]:
    return [PIECES.index(piece) for piece in pieces]


@pytest.mark.parametrize(
    ("pieces", "strings", "kept"),
    [
        (("a", "</a>", "b"), ("</a>",), 2),  # a token of its own
        (("a", "</", "a", ">", "b"), ("</a>",), 4),  # of three tokens
        (("<", "b>c", "a"), ("b>",), 2),  # inside a token, which is kept whole
        (("</a>", "b"), ("</a>",), 1),  # at the first token
        (("a", "b", "ab"), ("ab",), 2),  # the first of two places
        (("b", "a", "</a>"), ("</a>", "ba"), 2),  # the first of two strings
        (("a", "", "", "b"), ("ab",), 4),  # special tokens in between read as nothing
        (("a", "b"), ("</a>",), None),
        (("<", "a", ">"), ("</a>",), None),
        ((), ("a",), None),
        (("a", "b"), (), None),
    ],
)
def test_the_first_id_with_which_the_text_holds_one(
    pieces: tuple[str, ...], strings: tuple[str, ...], kept: int | None
) -> None:
    assert StopStrings(strings, joined).cut(piece_ids(*pieces)) == kept


TEXTS = st.lists(st.sampled_from(["a", "ab", "</a>", "b a", ">", "é"]), max_size=3)
ROWS = st.lists(st.integers(0, len(PIECES) - 1), max_size=24)


@given(ids=ROWS, strings=TEXTS)
@example(ids=[1, *([SPECIAL] * 20), 2], strings=["ab"])
def test_it_is_what_looking_at_every_prefix_finds(ids: list[int], strings: list[str]) -> None:
    stops = StopStrings(strings, joined)
    assert stops.cut(ids) == first(ids, strings)
    assert bool(stops) == bool(strings)


@given(ids=ROWS.map(lambda ids: [i for i in ids if i != SPECIAL]), strings=TEXTS)
def test_asking_at_every_id_finds_the_same(ids: list[int], strings: list[str]) -> None:
    stops = StopStrings(strings, joined)
    asked = next((count for count in range(1, len(ids) + 1) if stops.ends(ids[:count])), None)
    assert asked == stops.cut(ids)


def test_asking_reads_a_bounded_number_of_ids() -> None:
    read: list[int] = []

    def decode(ids: Sequence[int]) -> str:
        read.append(len(ids))
        return joined(ids)

    stops = StopStrings(["</a>", "é"], decode)
    for count in range(1, 200):
        assert not stops.ends(piece_ids("b") * count)
    assert max(read) == 12  # four bytes and eight more


def test_special_ids_that_hide_a_stop_string_from_asking_do_not_hide_it_from_the_cut() -> None:
    ids = [*piece_ids("a"), *([SPECIAL] * 20), *piece_ids("b")]
    stops = StopStrings(["ab"], joined)
    assert not stops.ends(ids)
    assert stops.cut(ids) == 22


def test_a_tail_that_only_seems_to_hold_one_is_no_hit() -> None:
    # A decoder that leaves out the blank at a text's start; the stop string says that the text begins with "b".
    def decode(ids: Sequence[int]) -> str:
        return f"|{joined(ids).removeprefix(' ')}"

    stops = StopStrings(["|ab"], decode)
    row = [*piece_ids(*["b"] * 9), *piece_ids(" a", *["b"] * 10)]
    tail = row[-11:]
    assert decode(tail).startswith("|ab") and not stops.ends(row)
    assert stops.ends(tail[:2])


@pytest.mark.parametrize("before", ["", "é", "日本"])
def test_bytes_that_are_no_whole_character_yet_hide_nothing(before: str) -> None:
    row = list(f"{before}<é>日".encode())
    end = len(f"{before}<é>".encode())
    stops = StopStrings(["<é>"], as_bytes)
    for count in range(len(row) + 1):
        assert stops.cut(row[:count]) == (end if count >= end else None)
        assert stops.ends(row[:count]) == (count >= end)


@pytest.mark.parametrize("strings", [("",), ("a", ""), ("\ufffd",), ("a\ufffdb",)])
def test_a_string_that_says_nothing_is_refused(strings: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"every text or a half-read one holds; leave it out"):
        StopStrings(strings, joined)


def test_one_string_is_no_list_of_them() -> None:
    with pytest.raises(ValueError, match=r"wanted a sequence of them, such as \['</a>'\]"):
        StopStrings("</a>", joined)
