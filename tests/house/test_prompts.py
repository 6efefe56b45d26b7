"""Every shipped prompt holds together: its header's inputs are exactly its placeholders, found here by plain text."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from critique_rl.prompting.catalogue import catalogue, load_prompt
from critique_rl.prompting.template import PromptTemplate

ROOT = Path(__file__).parents[2]
FILES = sorted(path for path in (ROOT / "prompts").glob("*.md") if path.stem != "README")
PLACEHOLDER = re.compile(r"\{\{-?\s*([A-Za-z_]\w*)|\{%-?\s*(?:el)?if\s+(?:not\s+)?([A-Za-z_]\w*)")


def test_the_catalogue_lists_every_file() -> None:
    assert [prompt.name for prompt in catalogue()] == [path.stem for path in FILES]
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_declared_inputs_equal_the_placeholders(path: Path) -> None:
    _, header, body = path.read_text(encoding="utf-8").split("+++", 2)
    fields = tomllib.loads(header)
    used = {a or b for a, b in PLACEHOLDER.findall(body + fields.get("system", ""))}
    assert used == set(fields["inputs"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_prompt_fills_and_leaves_no_placeholder(path: Path) -> None:
    prompt = load_prompt(path.stem)
    assert isinstance(prompt, PromptTemplate)
    values = {name: f"<{name}>" for name in prompt.inputs}
    text = "\n".join(message.content for message in prompt.messages(**values))
    assert "{{" not in text
    assert "{%" not in text
    assert prompt.version >= 1
    assert prompt.description
