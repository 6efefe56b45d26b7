"""The prompts that ship, and how they are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from critique_rl.errors import PromptError
from critique_rl.prompting.catalogue import catalogue, load_prompt


def test_every_shipped_prompt_is_whole_and_renders() -> None:
    prompts = catalogue()
    assert {"critic", "refine", "refine_bare", "teacher"} <= {prompt.name for prompt in prompts}
    assert len({prompt.hash for prompt in prompts}) == len(prompts)
    for prompt in prompts:
        filled = prompt.render(**{name: f"<{name}>" for name in prompt.inputs})
        assert all(f"<{name}>" in filled for name in prompt.inputs)
        assert "{{" not in filled
        assert not filled.endswith("\n")


def test_inputs_of_the_general_prompts() -> None:
    assert load_prompt("refine").inputs == ("question", "attempt", "directive")
    assert load_prompt("refine_bare").inputs == ("question", "attempt")
    assert load_prompt("teacher").inputs == ("question", "directive")


@pytest.mark.parametrize("name", ["refine", "refine_bare", "teacher"])
def test_question_comes_first_and_the_directive_after_it(name: str) -> None:
    prompt = load_prompt(name)
    filled = prompt.render(**{key: f"<{key}>" for key in prompt.inputs})
    assert filled.startswith("<question>")


def test_a_path_is_loaded_as_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.md"
    path.write_text('+++\nname = "other"\nversion = 1\ndescription = ""\ninputs = ["question"]\n+++\n{{ question }}\n')
    assert load_prompt(path).name == "other"
    assert load_prompt(str(path)).render(question="q") == "q"


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(PromptError, match=r"prompt 'critics' does not exist: use one of critic, .*refine"):
        load_prompt("critics")
    with pytest.raises(PromptError, match=r"nowhere/x\.md does not exist"):
        load_prompt("nowhere/x.md")
