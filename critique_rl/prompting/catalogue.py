"""Which prompts exist: finds a template by name or path, and lists all that ship.

Owns: lookup. Must not know: what a prompt is for.
"""

from __future__ import annotations

from pathlib import Path

from critique_rl.errors import PromptError
from critique_rl.prompting.template import PromptTemplate, read_template
from critique_rl.resources import prompts_dir


def load_prompt(name_or_path: str | Path) -> PromptTemplate:
    """A shipped prompt by its name ("critic"), or any prompt file by its path (with a / or ending in .md).

    Raises PromptError if there is none, or if the file does not hold together.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text.endswith(".md") or "/" in text or "\\" in text:
        path = Path(name_or_path).expanduser()
        if not path.is_file():
            raise PromptError(f"prompt file {path} does not exist: give a path to a .md file or one of {_known()}")
        return read_template(path)
    path = prompts_dir() / f"{text}.md"
    if not path.is_file():
        raise PromptError(f"prompt {text!r} does not exist: use one of {_known()}, or a path to a .md file")
    template = read_template(path)
    if template.name != text:
        raise PromptError(f"{path}: header field name = {template.name!r} differs from the file's name {text!r}")
    return template


def catalogue() -> tuple[PromptTemplate, ...]:
    """Every shipped prompt, checked, by name."""
    return tuple(load_prompt(path.stem) for path in _files())


def _files() -> list[Path]:
    return sorted(path for path in prompts_dir().glob("*.md") if path.stem != "README")


def _known() -> str:
    return ", ".join(path.stem for path in _files())
