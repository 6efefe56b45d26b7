"""Two ranks against one process: the same numbers, repeated weights (DDP) or split ones (FSDP2)."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from critique_rl.policy.crew import Crew
from critique_rl.policy.hf import HFPolicy
from tests.policy.test_step_reference import batch
from tests.ranks.pair import finish, start
from tests.ranks.scenario import CONFIG, Rank, batches, lead, ranked_policy, referenced
from tests.tiny import gradient, weights

Seen = Mapping[str, Any]
KINDS = ("ddp", "fsdp2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def alone(folder: Path) -> Seen:
    (folder / "one").mkdir()
    return lead(Rank(Crew()), Crew(), folder / "one")


@pytest.fixture(scope="module")
def pairs(folder: Path, alone: Seen) -> Mapping[str, Seen]:
    running = {}
    for kind in KINDS:
        (folder / kind).mkdir()
        shutil.copytree(folder / "one" / "saved", folder / kind / "alone")
        command = ["-m", "tests.ranks.scenario", str(folder / kind)]
        running[kind] = start(command, sharded=kind == "fsdp2")
    ended = {kind: finish(pair) for kind, pair in running.items()}
    for kind, outcome in ended.items():
        assert [code for code, _, _ in outcome] == [0, 0], (kind, *(errors[-3000:] for _, _, errors in outcome))
        assert outcome[1][1:] == ("", ""), f"the following rank of {kind} wrote something"
    return {kind: torch.load(folder / kind / "seen.pt", weights_only=False) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", list(batches()))
def test_the_gradient_is_that_of_one_process(alone: Seen, pairs: Mapping[str, Seen], kind: str, name: str) -> None:
    policy = ranked_policy(Crew())
    samples = referenced(policy, batches()[name])
    whole = gradient(policy, samples, max_tokens=10_000)
    eighths = gradient(policy, samples, max_tokens=1)
    assert whole.norm() > 1e-3
    for other in (eighths, alone[f"gradient/{name}"], pairs[kind][f"gradient/{name}"]):
        assert (other - whole).norm() < 1e-10 * whole.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_the_reports_are_those_of_one_process(alone: Seen, pairs: Mapping[str, Seen], kind: str) -> None:
    for name in batches():
        assert_same_report(pairs[kind][f"report/{name}"], alone[f"report/{name}"])
    assert pairs[kind]["nothing"] == "no sample carries a gradient"


@pytest.mark.parametrize("kind", KINDS)
def test_rollouts_are_those_of_one_process_and_told_in_its_order(
    alone: Seen, pairs: Mapping[str, Seen], kind: str
) -> None:
    for (ids, logprobs), (ids_alone, logprobs_alone) in zip(
        pairs[kind]["completions"], alone["completions"], strict=True
    ):
        assert ids == ids_alone
        assert np.allclose(logprobs, logprobs_alone, rtol=0, atol=1e-12)
    assert pairs[kind]["told in"] == alone["told in"]


@pytest.mark.parametrize("kind", KINDS)
def test_scores_come_back_in_the_callers_order(alone: Seen, pairs: Mapping[str, Seen], kind: str) -> None:
    for mine, theirs in zip(pairs[kind]["logprobs"], alone["logprobs"], strict=True):
        assert np.allclose(mine, theirs, rtol=0, atol=1e-12)
    for (ids, teacher, student), (ids_alone, *others) in zip(pairs[kind]["topk"], alone["topk"], strict=True):
        assert np.array_equal(ids, ids_alone)
        assert np.allclose([teacher, student], others, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_those_of_one_process_and_all_ranks_skip_alike(
    alone: Seen, pairs: Mapping[str, Seen], kind: str
) -> None:
    assert [step["applied"] for step in pairs[kind]["steps"]] == [True, False, True]
    assert "the loss is" in pairs[kind]["steps"][1]["reason"]
    for at in (0, 2):
        assert_same_report(pairs[kind]["steps"][at], alone["steps"][at])


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_two_ranks_is_one_of_one_process(
    folder: Path, alone: Seen, pairs: Mapping[str, Seen], kind: str
) -> None:
    here, there = restored(folder / "one" / "saved"), restored(folder / kind / "saved")
    names = {path.name: path.stat().st_size for path in sorted((folder / "one" / "saved" / "policy").iterdir())}
    assert {p.name: p.stat().st_size for p in sorted((folder / kind / "saved" / "policy").iterdir())} == names
    assert (weights(there) - weights(here)).abs().max() < 1e-10
    assert there.version == here.version == 2
    assert_same_report(there.step(batch())._asdict(), alone["after restoring"])
    assert_same_report(pairs[kind]["after restoring"], alone["after restoring"])
    resumed = restored(folder / kind / "resumed")
    assert (weights(resumed) - weights(there)).abs().max() < 1e-10
    assert resumed.version == 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_one_process_goes_on_at_two_ranks(alone: Seen, pairs: Mapping[str, Seen], kind: str) -> None:
    assert_same_report(pairs[kind]["after one process"], alone["after restoring"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_followers_error_reaches_the_leader_and_the_crew_goes_on(pairs: Mapping[str, Seen], kind: str) -> None:
    assert pairs[kind]["failures"] == [
        ("ConfigError", "rank 1: loss.kl_weight came as -1; wanted 0 or more"),
        ("ModelError", "rank 1: ZeroDivisionError: by nothing"),
        ("", ""),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_leader_finds_its_crew_in_step(pairs: Mapping[str, Seen], kind: str) -> None:
    assert pairs[kind]["interrupted"] == (True, [3, 3])


@pytest.mark.parametrize("who", ["--follower", "--leader"])
def test_an_error_in_what_all_ranks_do_together_ends_the_process(tmp_path: Path, who: str) -> None:
    pair = start(["-m", "tests.ranks.scenario", str(tmp_path), "--shared-failure", who])
    failing = pair if who == "--leader" else pair[1:]
    for process in failing:
        _, errors = process.communicate(timeout=90)
        assert process.returncode == 1
        assert "ZeroDivisionError: in the middle of it" in errors
        assert "failed in work that all 2 ranks do together" in errors
    if who == "--follower":
        (_, _, errors), *_ = finish(pair[:1])
        assert "Connection" in errors  # a launcher would have ended it as well
        assert pair[0].returncode != 0


def restored(directory: Path) -> HFPolicy:
    policy = ranked_policy(Crew(), CONFIG)
    policy.restore(directory)
    return policy


def assert_same_report(mine: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    assert mine["diagnostics"].keys() == other["diagnostics"].keys()
    for left, right in ((mine, other), (mine["diagnostics"], other["diagnostics"])):
        for key, value in left.items():
            if isinstance(value, float):
                assert value == pytest.approx(cast(float, right[key]), rel=1e-10, abs=1e-10), key
            elif key != "diagnostics":
                assert value == right[key], key
