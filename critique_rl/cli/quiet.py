"""Keeps the libraries' progress bars and advice off the console; their errors still come through."""

from __future__ import annotations

import os


def quiet_libraries() -> None:
    """Takes effect on libraries that are imported afterwards; what the user has set stays."""
    for name, value in {
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
    }.items():
        os.environ.setdefault(name, value)
