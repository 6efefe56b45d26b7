"""What may load what, seen from a fresh interpreter (the import contracts in pyproject.toml see only the source)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "litellm", "openai", "matplotlib", "scipy", "accelerate")
HELP = """
import sys
sys.argv = ["critique-rl", *{arguments!r}]
from critique_rl.cli.main import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
"""


def loaded_by(code: str) -> tuple[set[str], str]:
    """Top-level modules in sys.modules after `code`, and what it printed."""
    script = f"{code}\nimport sys\nprint('LOADED', *sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    printed, _, names = done.stdout.rpartition("LOADED ")
    return set(names.split()), printed


@pytest.mark.parametrize(
    "module", ["critique_rl", "critique_rl.config.load", "critique_rl.types", "critique_rl.protocols"]
)
def test_describing_a_run_loads_nothing_heavy(module: str) -> None:
    names, _ = loaded_by(f"import {module}")
    assert "critique_rl" in names
    assert names.isdisjoint(HEAVY)


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["demo", "--help"], ["prompts"]], ids=" ".join)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    names, printed = loaded_by(HELP.format(arguments=arguments))
    assert printed.strip()
    assert names.isdisjoint(HEAVY)


@pytest.mark.parametrize("folder", ["tasks", "rewards", "prompting", "feedback"])
def test_text_never_loads_torch(folder: str) -> None:
    modules = sorted(path.stem for path in (ROOT / "critique_rl" / folder).glob("*.py") if path.stem != "__init__")
    names, _ = loaded_by("\n".join(f"import critique_rl.{folder}.{module}" for module in modules))
    assert names.isdisjoint({"torch", "transformers"})
