"""Adapters on two processes, repeated or split: the steps, teachers and files of one process."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from tests.ranks.adapters import main
from tests.ranks.pair import finish, start

SCRIPT = str(Path(main.__code__.co_filename))


@pytest.mark.slow
@pytest.mark.parametrize(("teacher", "sharded"), [("frozen", False), ("ema", True)])
def test_two_processes_are_as_good_as_one(teacher: str, sharded: bool, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    main(tmp_path / "one", teacher)
    for code, _, errors in finish(start([SCRIPT, str(tmp_path / "two"), teacher], sharded=sharded)):
        assert code == 0, errors
    one, two = (json.loads((tmp_path / name / "found.json").read_text()) for name in ("one", "two"))
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=0, atol=1e-10)
    for ours, theirs in zip(two["taught"], one["taught"], strict=True):
        assert all(np.allclose(a, b, rtol=0, atol=1e-10) for a, b in zip(ours, theirs, strict=True))
    files = ["policy/adapter_model.safetensors", *(["teacher.safetensors"] if teacher == "ema" else [])]
    for file in files:
        weights, expected = (load_file(tmp_path / name / file) for name in ("two", "one"))
        assert weights.keys() == expected.keys()
        for name, weight in expected.items():
            np.testing.assert_allclose(weights[name].numpy(), weight.numpy(), rtol=0, atol=1e-10)
