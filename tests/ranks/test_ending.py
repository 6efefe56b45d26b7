"""Every way in which a crew of two can end: exit codes, what is said, and no thread left to abort it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ranks import ending
from tests.ranks.ending import THREADS_LEFT
from tests.ranks.pair import finish, start

SCRIPT = str(Path(ending.__file__))


@pytest.mark.parametrize(
    ("how", "codes", "said"),
    [
        ("done", (0, 0), ("", "")),
        ("a leader's error", (1, 0), ("ZeroDivisionError: by nothing", "")),
        ("Ctrl-C", (130, 0), ("", "")),
        ("a follower dies", (2, 3), ("error: a following process has ended (", None)),
        ("the leader dies", (3, 1), (None, "critique-rl: rank 1: the leading process is gone: ")),
    ],
)
def test_both_processes_end_with_their_code_and_without_threads(
    how: str, codes: tuple[int, int], said: tuple[str | None, str | None]
) -> None:
    ended = finish(start([SCRIPT, how]), timeout_s=90)
    assert tuple(code for code, _, _ in ended) == codes, ended
    for (_, output, errors), expected in zip(ended, said, strict=True):
        if expected is None:  # it was not asked for its last words
            continue
        assert expected in errors and ("--resume" in errors or how != "a follower dies")
        assert expected or not errors
        # A group that something still held would have left two of them.
        assert output.splitlines() == [f"{THREADS_LEFT}0"]
