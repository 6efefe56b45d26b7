"""A critic in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BeforeValidator, TypeAdapter, ValidationError

from critique_rl.config.critic import CriticConfig
from critique_rl.config.shorthand import critic_from_text, critic_tree
from critique_rl.errors import ConfigError

SECTION: TypeAdapter[CriticConfig] = TypeAdapter(Annotated[CriticConfig, BeforeValidator(critic_tree)])


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("none", {"kind": "none"}),
        (" policy ", {"kind": "policy"}),
        ("lab_rules", {"kind": "lab_rules"}),
        ("lab_school_rules", {"kind": "lab_school_rules"}),
        ("anthropic/claude-x", {"kind": "litellm", "model": "anthropic/claude-x"}),
        ("openai/gpt-x", {"kind": "litellm", "model": "openai/gpt-x"}),
        ("vertex_ai/google/gemini@001", {"kind": "litellm", "model": "vertex_ai/google/gemini@001"}),
        ("m@http://localhost:8000/v1", {"kind": "openai", "model": "m", "base_url": "http://localhost:8000/v1"}),
        ("org/m@rev@https://h/v1", {"kind": "openai", "model": "org/m@rev", "base_url": "https://h/v1"}),
        ("some/path/x.jsonl", {"kind": "recorded", "path": "some/path/x.jsonl"}),
        ("my critic.py", {"kind": "python", "path": "my critic.py"}),
        ("a/x.py:judge", {"kind": "python", "path": "a/x.py", "function": "judge"}),
    ],
)
def test_each_form(text: str, tree: dict[str, object]) -> None:
    assert critic_from_text(text) == tree
    assert SECTION.validate_python(text) == SECTION.validate_python(tree)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gpt-x", r"'gpt-x' is no critic: write one of \"none\".*PROVIDER/MODEL.*FILE.toml"),
        ("", "is no critic"),
        ("./x/y", "is no critic"),
        ("/etc/critic", "is no critic"),
        ("anthropic/", "is no critic"),
        ("two words/x y", "is no critic"),
        ("http://localhost:8000/v1", "needs a model before it"),
        ("m@http://localhost:8000/v1 x", "no spaces"),
        ("x.py:a b", "'a b' cannot name a function"),
        ("x.py:", "'' cannot name a function"),
    ],
)
def test_anything_else_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        critic_from_text(text)


@pytest.mark.parametrize("text", ["m@https://me:hunter22@host/v1", "mhttps://me:hunter22@host/v1"])
def test_a_password_in_an_address_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ConfigError, match="api_key_env") as caught:
        critic_from_text(text)
    assert "hunter22" not in str(caught.value)


def test_a_file_with_a_critic_table(tmp_path: Path) -> None:
    path = tmp_path / "judge.toml"
    path.write_text('[critic]\nkind = "policy"\nmax_tokens = 64\n[other]\nx = 1\n')
    assert critic_from_text(str(path)) == {"kind": "policy", "max_tokens": 64}
    path.write_text('critic = "anthropic/x"\n')
    assert critic_from_text(str(path)) == {"kind": "litellm", "model": "anthropic/x"}
    path.write_text('[critic]\nmodel = "m"\nbase_url = "http://h/v1"\n')
    assert critic_from_text(str(path))["kind"] == "openai"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "does not exist"),
        ("x = 1", r"no \[critic\] table"),
        ("x =", "not valid TOML"),
        ("critic = 3", r"a \[critic\] table was wanted"),
        ('critic = "judge.toml"', "another file"),
        ("x = 'é'", "cannot be read"),
    ],
)
def test_a_file_without_one(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "judge.toml"
    if content is not None:
        path.write_text(content, encoding="latin-1")
    with pytest.raises(ConfigError, match=said):
        critic_from_text(str(path))


@pytest.mark.parametrize(
    ("value", "tree"),
    [
        ({"base_url": "http://h/v1", "model": "m"}, {"kind": "openai", "base_url": "http://h/v1", "model": "m"}),
        ({"model": "a/b", "seed": 1}, {"kind": "litellm", "model": "a/b", "seed": 1}),
        ({"kind": "policy"}, {"kind": "policy"}),
        ({"path": "x"}, {"path": "x"}),
        ({}, {}),
        (3, 3),
        (None, None),
        (
            {"members": ["a/b", {"model": "c/d"}, {"kind": "policy"}], "quorum": 2},
            {
                "kind": "panel",
                "members": [
                    {"kind": "litellm", "model": "a/b"},
                    {"kind": "litellm", "model": "c/d"},
                    {"kind": "policy"},
                ],
                "quorum": 2,
            },
        ),
        ({"kind": "panel", "members": ["policy"]}, {"kind": "panel", "members": [{"kind": "policy"}]}),
        ({"kind": "panel", "members": "policy"}, {"kind": "panel", "members": "policy"}),
    ],
)
def test_a_table_without_a_kind_gets_the_one_its_keys_imply(value: object, tree: object) -> None:
    assert critic_tree(value) == tree


def test_the_given_table_stays_as_it_was() -> None:
    given: dict[str, object] = {"members": ["a/b", "policy"]}
    critic_tree(given)
    assert given == {"members": ["a/b", "policy"]}


def test_inside_a_config_a_bad_line_is_a_validation_fault() -> None:
    with pytest.raises(ValidationError, match="is no critic"):
        SECTION.validate_python("nobody")
    with pytest.raises(ValidationError, match="panel"):
        SECTION.validate_python({"members": ["none", "policy"]})
