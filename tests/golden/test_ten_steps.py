"""The lab's loop gives the numbers that it always gave, and again within one process."""

from __future__ import annotations

from tests.golden.ten_steps import COLUMNS, GOLDEN, ten_steps


def test_ten_steps_are_those_of_the_golden_file_twice() -> None:
    wanted = GOLDEN.read_text(encoding="utf-8")
    assert ten_steps() == wanted
    assert ten_steps() == wanted


def test_every_channel_acts_within_the_ten_steps() -> None:
    head, *told = GOLDEN.read_text(encoding="utf-8").splitlines()
    assert head.split()[1:-1] == list(COLUMNS) and len(told) == 10
    columns = dict(zip(COLUMNS, zip(*(map(float, line.split()[1:-1]) for line in told), strict=True), strict=True))
    for channel in ("loss/pg", "loss/distill", "loss/imitate", "grad/norm"):
        assert sum(value != 0.0 for value in columns[channel]) >= 4, channel
    assert len(set(columns["reward/mean"])) > 2
