"""Two processes on this machine, started as a launcher starts them: by environment variables alone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

SHARDED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
ROOT = Path(__file__).parents[2]


def start(command: Sequence[str], *, size: int = 2, sharded: bool = False) -> list[subprocess.Popen[str]]:
    """`python COMMAND` as ranks 0 to size - 1 of one group."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared: Mapping[str, str] = {
        **os.environ,
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "TQDM_DISABLE": "1",
        **(SHARDED if sharded else {}),
    }
    return [
        subprocess.Popen(
            [sys.executable, "-W", "error", *command],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def finish(processes: Sequence[subprocess.Popen[str]], *, timeout_s: float = 120.0) -> list[tuple[int, str, str]]:
    """Each process's exit code, stdout and stderr. Processes that have not ended by then are killed."""
    ends_at = time.monotonic() + timeout_s
    outcomes: list[tuple[int, str, str]] = []
    for process in processes:
        try:
            output = process.communicate(timeout=max(0.1, ends_at - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            output = process.communicate()
        outcomes.append((process.returncode, *output))
    return outcomes
