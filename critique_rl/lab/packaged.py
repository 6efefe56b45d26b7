"""Where the packaged lab policy lies, and what was measured when it was built.

Owns: the path of `policy/`. Must not know: torch, transformers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast


def policy_dir() -> Path:
    """The folder that `AutoModelForCausalLM.from_pretrained` loads the lab's starting policy from."""
    return Path(__file__).resolve().parent / "policy"


def lab_facts(directory: Path | None = None) -> dict[str, object]:
    """LAB.json of a built policy (default: the packaged one): success rates, seed, steps, versions, parameters."""
    text = ((directory or policy_dir()) / "LAB.json").read_text(encoding="utf-8")
    return cast("dict[str, object]", json.loads(text))
