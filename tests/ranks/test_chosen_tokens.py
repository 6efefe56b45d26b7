"""Tokens chosen over the whole batch, several updates and knobs: two ranks against one process, repeated or split."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from critique_rl.policy.crew import Crew
from tests.ranks.chosen_tokens import OPTIONS, build, two_steps
from tests.ranks.pair import finish, start


def test_two_ranks_choose_and_learn_as_one_process_does(tmp_path: Path) -> None:
    running = {}
    for kind in ("ddp", "fsdp2"):
        (tmp_path / kind).mkdir()
        running[kind] = start(["tests/ranks/chosen_tokens.py", str(tmp_path / kind)], sharded=kind == "fsdp2")
    for kind, pair in running.items():
        outcome = finish(pair)
        assert [code for code, _, _ in outcome] == [0, 0], (kind, *(errors[-3000:] for _, _, errors in outcome))
        seen = torch.load(tmp_path / kind / "seen.pt", weights_only=False)
        for name, options in OPTIONS.items():
            for mine, other in zip(seen[name], two_steps(build(Crew(), options)), strict=True):
                assert mine.keys() == other.keys()
                for key, value in mine.items():
                    assert value == pytest.approx(other[key], rel=1e-5, abs=1e-6), (kind, name, key)
