"""Where a result came from: device, commit, versions.

Must not know: what the result is. torch is imported only to ask for an accelerator's name.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

VERSIONED = ("critique-rl", "torch", "transformers", "accelerate")


def versions() -> Mapping[str, str]:
    """Installed versions of what decides a run's numbers."""
    return {name: version(name) for name in VERSIONED}


def device_name(*, cpu: bool = False) -> str:
    """The accelerator's name, or the processor's with its number of usable cores if `cpu` or if there is no other."""
    if not cpu:
        import torch

        if torch.cuda.is_available():
            return torch.cuda.get_device_name()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{platform.machine()} CPU, {cores} cores"


def commit() -> str | None:
    """The checkout's commit, with "+" if tracked files differ from it; None outside a checkout."""
    try:
        if not _git("ls-files", Path(__file__).name):
            return None  # installed inside of somebody else's checkout
        head = _git("rev-parse", "--short", "HEAD")
        return head and head + ("+" if _git("status", "-uno", "--porcelain") else "")
    except OSError:
        return None


def _git(*arguments: str) -> str | None:
    done = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
