"""Formats are told by anchored rules: one format for every text, and none for words that only look like code."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critique_rl.monitors.detectors import Detector, Rules, by_patterns, default_detectors

DEFAULT = Rules(default_detectors())


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ("the same " * 100, "degenerate"),
        ("<tool_call>\n{}\n</tool_call>", "tool_tag"),
        ('I look it up.\n<search query="x">', "tool_tag"),
        ("Code:\n<llm-code>\nprint(1)\n</llm-code>", "tool_tag"),
        ("<think>\nhm\n</think>\n4", "think_tag"),
        ("Here:\n```python\nx = 1\n```", "fenced_code"),
        ("~~~\nx\n~~~", "fenced_code"),
        ("def simple_math_problem():\n    return 4", "python_function"),
        ("Sure.\n  async def f(x):\n    pass", "python_function"),
        ("The answer is 四十二個蘋果 in all", "mixed_scripts"),
        ("The answer is \\boxed{42}.", "boxed"),
        ("| a | b |\n|---|:-:|\n| 1 | 2 |", "table"),
        ("1. Add.\n2. Carry.\n", "numbered_steps"),
        ("Step 1: add\nstep 2: carry", "numbered_steps"),
        ("- one\n- two", "list"),
        ("Add them, and it is 42.", "other"),
    ],
)
def test_one_of_each(text: str, wanted: str) -> None:
    assert DEFAULT.label([text]) == [wanted]


@pytest.mark.parametrize(
    "text",
    [
        "It is definitely 4, by the default of the undefined case.",  # a bare "def" finds code in all of these
        "By def of a sum, 4.",
        "We define f(x) = 2x, so f(2) = 4.",
        "We ask for a tool_call or a think about it; a ``` in a line is no fence.",
        "2 < x and x > 1, so x is large; a<search>b is no tag at a line's start",
        "3. May was a Tuesday.",
        "- 4 is less than 0",
        "The angle is \u03b1, and \u0394 is small; \u041f\u0435\u0442\u0440 said so",
        "boxed 4",
    ],
)
def test_prose_that_looks_like_something_else_is_other(text: str) -> None:
    assert DEFAULT.label([text]) == ["other"]


def test_japanese_mixes_no_scripts_though_it_writes_with_three() -> None:
    assert DEFAULT.label(["\u7b54\u3048\u306f\u56db\u3067\u3059\u3002\u30c6\u30b9\u30c8"]) == ["other"]


def test_a_short_repetition_is_an_answer() -> None:
    assert DEFAULT.label(["7 7 7 7 7"]) == ["other"]


@given(st.lists(st.text(max_size=60), max_size=6))
def test_every_text_has_one_format_whatever_its_neighbours(texts: list[str]) -> None:
    labels = DEFAULT.label(texts)
    assert len(labels) == len(texts)
    assert set(labels) <= set(DEFAULT.names)
    assert labels == [DEFAULT.label([text])[0] for text in texts]


def test_the_first_that_holds_wins() -> None:
    rules = Rules([Detector("long", lambda text: len(text) > 2), Detector("any", bool)])
    assert rules.label(["abc", "a", ""]) == ["long", "any", "other"]
    assert rules.names == ("long", "any", "other")


def test_own_patterns_see_lines() -> None:
    rules = Rules(by_patterns({"answer": r"^Answer: \d+$", "plan": r"^Plan"}))
    assert rules.label(["I think\nAnswer: 4\nbye", "Plan: Answer: 4", "the Plan"]) == ["answer", "plan", "other"]
    assert rules.state_dict() == {}
