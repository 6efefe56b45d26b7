"""Secrets leave text; ordinary words stay."""

from __future__ import annotations

import pytest

from critique_rl.critics.redaction import Redactor

SECRET = "correct-horse-battery"


@pytest.mark.parametrize(
    "key",
    [
        "sk-" + "a1B2" * 8,
        "sk-ant-api03-" + "a1B2" * 8,
        "sk-proj-" + "a1_B" * 8,
        "hf_" + "a1B2" * 8,
        "gsk_" + "a1B2" * 8,
        "xai-" + "a1B2" * 8,
        "ghp_" + "a1B2" * 8,
        "github_pat_" + "a1B2" * 8,
        "AIza" + "a1B2" * 8,
        "AKIA" + "A1B2" * 4,
        "xoxb-123456789012-abcdef",
        "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.c2lnbmF0dXJl",
        "a1B2" * 12,
        SECRET,
    ],
)
def test_keys_are_hidden(key: str) -> None:
    redactor = Redactor([SECRET])
    for text in (key, f"Incorrect API key provided: {key}.", f'{{"key": "{key}"}}', f"x={key}&y=1"):
        assert key not in redactor.text(text)
        assert "[redacted]" in redactor.line(text)
    assert SECRET not in repr(redactor)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Bearer abcdefgh1234", "Authorization: Bearer [redacted]"),
        ("x-api-key: abcdef123", "x-api-key: [redacted]"),
        ('{"api_key": "abcdef123"}', '{"api_key": "[redacted]"}'),
        ("http://me:pass@host/v1", "http://[redacted]@host/v1"),
        ("model Qwen2.5-7B-Instruct not found, try task-3", "model Qwen2.5-7B-Instruct not found, try task-3"),
        (
            "key 0123456789abcdef0123456789abcdef0123456789abcdef",
            "key 0123456789abcdef0123456789abcdef0123456789abcdef",
        ),
        ("tokens: 12, password reset, basic rules", "tokens: 12, password reset, basic rules"),
    ],
)
def test_values_after_names_are_hidden_and_plain_words_are_not(text: str, shown: str) -> None:
    assert Redactor([]).text(text) == shown


def test_a_short_secret_would_hide_everything_and_is_left_out() -> None:
    assert Redactor(["abc", ""]).text("abcabc") == "abcabc"
    assert Redactor(["long-secret", "long-secret-two"]).text("long-secret-two") == "[redacted]"


def test_a_line_is_one_short_line() -> None:
    line = Redactor([]).line("a\nb " * 300)
    assert "\n" not in line
    assert len(line) == 300
