"""Where prompts/ and feedback/ are found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from critique_rl import resources


def test_checkout_folders_hold_their_files() -> None:
    assert (resources.prompts_dir() / "critic.md").is_file()
    assert (resources.feedback_dir() / "reply.schema.json").is_file()


def test_installed_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "critique_rl"
    (package / "_prompts").mkdir(parents=True)
    (tmp_path / "prompts").mkdir()
    monkeypatch.setattr(resources, "_PACKAGE", package)
    assert resources.prompts_dir() == package / "_prompts"


def test_neither_folder_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "critique_rl")
    with pytest.raises(FileNotFoundError, match=r"feedback/ is neither at .*_feedback .*reinstall"):
        resources.feedback_dir()


def test_config_prompting_and_feedback_import_nothing_heavy() -> None:
    code = (
        "import sys, critique_rl.config.critic, critique_rl.resources, critique_rl.prompting.catalogue, "
        "critique_rl.feedback.split, critique_rl.feedback.store, critique_rl.critics.rules; "
        "print([m for m in ('torch', 'transformers', 'litellm', 'openai') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
