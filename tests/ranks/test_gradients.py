"""Joined gradients and the measured conflict: two ranks against one process, weights repeated (DDP) or split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from critique_rl.ops.gradient_combiners import GradientCombiner
from critique_rl.policy.crew import Crew
from critique_rl.protocols import GRADIENT_CONFLICT
from tests.ranks.gradients import METHODS, build, three_steps
from tests.ranks.pair import finish, start

KINDS = ("ddp", "fsdp2")
Found = Mapping[str, list[Mapping[str, float]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gradients")


@pytest.fixture(scope="module")
def pairs(folder: Path) -> Mapping[str, Found]:
    running = {}
    for kind in KINDS:
        for method in METHODS:
            (folder / kind / str(method)).mkdir(parents=True)
        running[kind] = start(["tests/ranks/gradients.py", str(folder / kind)], sharded=kind == "fsdp2")
    ended = {kind: finish(pair) for kind, pair in running.items()}
    for kind, outcome in ended.items():
        assert [code for code, _, _ in outcome] == [0, 0], (kind, *(errors[-3000:] for _, _, errors in outcome))
    return {kind: torch.load(folder / kind / "seen.pt", weights_only=False) for kind in KINDS}


@pytest.mark.parametrize("method", METHODS)
def test_two_ranks_do_what_one_process_does(
    folder: Path, pairs: Mapping[str, Found], method: GradientCombiner | None
) -> None:
    alone = build(Crew(), method)
    wanted = three_steps(alone)
    assert [GRADIENT_CONFLICT in step for step in wanted] == [True, False, True]
    final = dict(alone.model.named_parameters())
    for kind in KINDS:
        for mine, other in zip(pairs[kind][str(method)], wanted, strict=True):
            assert mine.keys() == other.keys()
            for name, value in mine.items():
                # the model takes its norms in float32, and Adam enlarges what their rounding leaves
                assert value == pytest.approx(other[name], rel=1e-5, abs=1e-6), (kind, name)
        saved = load_file(folder / kind / str(method) / "policy" / "model.safetensors")
        assert all((weight - final[name]).abs().max() < 1e-5 for name, weight in saved.items())
