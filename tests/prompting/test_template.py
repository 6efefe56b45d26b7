"""One prompt file: header, declared inputs, one-pass fill, hash."""

from __future__ import annotations

from pathlib import Path

import pytest

from critique_rl.errors import PromptError
from critique_rl.prompting.template import MAX_TEMPLATE_CHARS, PromptTemplate, parse_template, read_template
from critique_rl.types import Message

HEADER = 'name = "t"\nversion = 3\ndescription = "d"\n'


def template(body: str, inputs: str = '["question"]', extra: str = "") -> PromptTemplate:
    return parse_template(f"+++\n{HEADER}inputs = {inputs}\n{extra}+++\n{body}\n", source="t.md")


def test_fills_declared_inputs_and_trims_the_trailing_newline() -> None:
    filled = template("Q: {{ question }}\n\n").render(question="2+2?")
    assert filled == "Q: 2+2?"


def test_values_are_never_rendered_again() -> None:
    attack = "{{ 7*7 }} {% for i in range(9) %}x{% endfor %} {{ question.__class__ }}"
    assert template("Q: {{ question }}").render(question=attack) == f"Q: {attack}"


def test_values_are_not_escaped_as_html() -> None:
    assert template("{{ question }}").render(question="1 < 2 & 'x'") == "1 < 2 & 'x'"


@pytest.mark.parametrize(
    ("body", "inputs", "said"),
    [
        ("{{ question }} {{ hint }}", '["question"]', "used but not declared: hint; declared but not used: none"),
        ("{{ question }}", '["question", "hint"]', "used but not declared: none; declared but not used: hint"),
        ("{% if hint %}x{% endif %}{{ question }}", '["question"]', "used but not declared: hint"),
    ],
)
def test_placeholders_must_equal_declared_inputs(body: str, inputs: str, said: str) -> None:
    with pytest.raises(PromptError, match=said) as caught:
        template(body, inputs)
    assert str(caught.value).startswith("t.md: ")
    assert "make the header's inputs list equal to the placeholders" in str(caught.value)


def test_missing_and_extra_render_inputs_are_named() -> None:
    with pytest.raises(PromptError, match="missing: question; not declared: answer"):
        template("{{ question }}").render(answer="4")


def test_messages_has_the_system_part_first_and_it_may_hold_placeholders() -> None:
    made = template("{{ question }}", '["question", "role"]', 'system = "You are {{ role }}."\n')
    assert made.messages(question="q", role="a judge") == (
        Message(role="system", content="You are a judge."),
        Message(role="user", content="q"),
    )
    assert template("{{ question }}").messages(question="q") == (Message(role="user", content="q"),)


def test_messages_from_takes_only_what_is_declared() -> None:
    available = {"question": "q", "attempt": "a"}
    assert template("{{ question }}").messages_from(available)[0].content == "q"
    with pytest.raises(PromptError, match=r"wants hint, but only attempt, question can be filled"):
        template("{{ hint }}", '["hint"]').messages_from(available)


def test_hash_covers_header_and_body() -> None:
    base = template("{{ question }}")
    assert len(base.hash) == 12
    assert base.hash == template("{{ question }}").hash
    assert base.hash != template("{{ question }}!").hash
    assert base.hash != template("{{ question }}", extra='system = "s"\n').hash


def test_line_endings_do_not_change_a_prompt(tmp_path: Path) -> None:
    text = f'+++\n{HEADER}inputs = ["question"]\n+++\n{{{{ question }}}}\n'
    path = tmp_path / "t.md"
    path.write_bytes(text.replace("\n", "\r\n").encode())
    assert read_template(path).hash == parse_template(text, source="t.md").hash


@pytest.mark.parametrize(
    "body",
    [
        "{{ question.__class__.__mro__ }}",
        "{{ question|attr('__class__') }}",
        "{{ question.__init__.__globals__ }}",
        "{% include 'x' %}{{ question }}",
        "{{ question }}{{ 'a'.join(range(10**9)) }}",
    ],
)
def test_the_sandbox_refuses_what_reaches_out(body: str) -> None:
    with pytest.raises(PromptError, match=r"t\.md"):
        template(body).render(question="q")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hello", "line 1 is 'hello'"),
        ("+++\nname = 1", "never closed"),
        ("+++\nname = \n+++\nx", "not TOML"),
        (f'+++\n{HEADER}inputs = []\ncolour = "red"\n+++\nx', "'colour' is unknown"),
        ('+++\nname = "t"\nversion = 1\ninputs = []\n+++\nx', "'description' is missing"),
        ('+++\nname = "t"\nversion = "1"\ndescription = ""\ninputs = []\n+++\nx', "version = '1' is not of type int"),
        ('+++\nname = "t"\nversion = true\ndescription = ""\ninputs = []\n+++\nx', "version = True is not of type int"),
        (f'+++\n{HEADER}inputs = ["a", "a"]\n+++\n{{{{ a }}}}', "distinct identifiers"),
        (f"+++\n{HEADER}inputs = []\n+++\n{{% if %}}", "does not parse"),
        ("+" * (MAX_TEMPLATE_CHARS + 1), "may have at most"),
    ],
)
def test_bad_files_say_what_is_wrong(text: str, said: str) -> None:
    with pytest.raises(PromptError, match=said):
        parse_template(text, source="t.md")
