"""Prompts from which nothing could be learned return to later batches. The model is a fake."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from critique_rl.loop.recall import Recalled
from critique_rl.loop.resample import Resampler
from critique_rl.types import Message
from tests.lab_runs import Tree
from tests.loop.banks import TEXTS, Bank, Course, Sampler, asked, figures, make
from tests.loop.fakes import group, task


def test_dropped_prompts_return_until_they_differ(tmp_path: Path) -> None:
    """The wrong one waits a step, returns in the first place, and leaves when one of its rollouts is right."""
    sampler = Sampler(dict(TEXTS))
    bank = Course("mixed-0", "mixed-1", "wrong-0", first=("mixed-0", "wrong-0"))
    changes: Tree = {
        "budget": {"max_steps": 4},
        "sampling": {"dynamic": False, "recycle": True, "recycle_share": 0.5, "recycle_wait_steps": 2},
    }
    trainer = make(bank, tmp_path, changes, sampler=sampler)
    trainer.run()
    assert asked(trainer) == [
        ["mixed-0", "wrong-0"],
        ["mixed-0", "mixed-1"],
        ["wrong-0", "mixed-1"],
        ["mixed-0", "mixed-1"],
    ]
    seen = figures(trainer)
    assert [step["sampling/recycled"] for step in seen] == [0, 0, 1, 0]
    assert [step["sampling/pool"] for step in seen] == [1, 1, 1, 1]
    assert [step["sampling/recycled_differ"] for step in seen] == [0, 0, 0, 0] and "sampling/kept" not in seen[0]
    sampler.texts["wrong"] = ("8", "1")
    again = make(bank, tmp_path / "again", changes, sampler=sampler)
    assert again.parts.recycle is not None
    bank.first = ("mixed-0", "mixed-1")
    again.parts.recycle.put(bank.tasks["wrong-0"], step=-2)
    again.run()
    assert figures(again)[0]["sampling/recycled_differ"] == 1.0 and len(again.parts.recycle) == 0


@pytest.mark.parametrize(("which", "pool"), [("all", 2.0), ("unsolved", 1.0)])
def test_which_prompts_are_kept_for_later(tmp_path: Path, which: str, pool: float) -> None:
    changes: Tree = {"sampling": {"recycle": True, "recycle_from": which}}
    trainer = make(Bank("wrong-0", "right-0", first=("wrong-0", "right-0")), tmp_path, changes)
    trainer.run()
    assert figures(trainer)[0]["sampling/pool"] == pool


def test_a_broken_off_step_leaves_the_pool_as_it_was(tmp_path: Path) -> None:
    sampler = Sampler(stop_at=2)
    changes: Tree = {"sampling": {"recycle": True}, "budget": {"max_steps": 1}}
    trainer = make(Bank("wrong-0", "wrong-1", "wrong-2", "wrong-3"), tmp_path, changes, sampler=sampler)
    trainer.run()
    assert trainer.stopped_because == "interrupted" and trainer.parts.recycle is not None
    assert len(trainer.parts.recycle) == 0 and trainer.progress.generated_tokens == 0


def test_what_is_recycled_is_the_prompt_as_it_was_drawn(tmp_path: Path) -> None:
    """A step may dress its tasks before they are sampled; the next one dresses them anew."""
    trainer = make(Bank("wrong-0"), tmp_path, {"sampling": {"recycle": True}})
    config = trainer.config
    resampler = Resampler(config, trainer.parts)
    bare = task("wrong-0")
    resampler.start(0, [bare])
    dressed = replace(bare, messages=(Message(role="system", content="skills"), *bare.messages))
    assert resampler.sift(0, [(group(dressed, "8", "9", plateaued=False), Recalled())]) == []
    assert trainer.parts.recycle is not None
    assert list(trainer.parts.recycle.waiting(step=1, apart_from=())) == [bare]
