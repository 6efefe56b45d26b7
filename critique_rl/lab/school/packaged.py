"""Where the packaged policy of the school world lies. Must not know: torch, transformers."""

from __future__ import annotations

from pathlib import Path


def school_policy_dir() -> Path:
    """The folder that `policy.model = "lab_school"` stands for; `lab_facts` of it is what was measured."""
    return Path(__file__).resolve().parent / "policy"
