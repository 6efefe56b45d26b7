"""Which samples are told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from critique_rl.report.choice import choose_stories
from critique_rl.report.load import load_run_set

MakeRun = Callable[..., Path]


def test_the_fullest_stories_are_spread_over_the_run(tmp_path: Path, make_run: MakeRun) -> None:
    chosen = choose_stories(load_run_set(make_run(tmp_path)))
    assert len(chosen) == 6
    assert len({story.sample.task_id for story in chosen}) == 6
    told = [story for story in chosen if story.sample.critiques]
    assert {story.arm for story in told[:4]} == {"two_channel"}
    assert (min(s.sample.step for s in told), max(s.sample.step for s in told)) == (14, 154)
    assert not chosen[-1].sample.critiques, "one story shows a prompt without a critic"


def test_a_scalar_run_has_stories_too(tmp_path: Path, make_run: MakeRun) -> None:
    chosen = choose_stories(load_run_set(make_run(tmp_path, ("grpo",), (1,))))
    assert len(chosen) == 6
    assert chosen[0].told[0].pushes == (("none", "policy gradient: 0 on every token"),)
    assert choose_stories(load_run_set(tmp_path), count=0) == []
