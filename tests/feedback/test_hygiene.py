"""Loops, and patterns that ordinary advice does not match. Injected text is in tests/security."""

from __future__ import annotations

import pytest

from critique_rl.feedback.hygiene import INJECTION, fault, is_loop


@pytest.mark.parametrize(
    "text",
    [
        "redo the step " * 6,
        "Carry the one. " + "and then again " * 8,
        "重新计算" * 8,
        "no " * 12,
        "abc" * 20,
    ],
)
def test_a_loop_is_found(text: str) -> None:
    assert is_loop(text)


@pytest.mark.parametrize(
    "text",
    [
        "Add the ones, then the tens, then the hundreds, and carry one whenever a column goes over nine.",
        "The decimal 0.333333333333 repeats, so write it as a fraction before you go on.",
        "Check the first step, check the second step, check the third step, then add the three results.",
        "no no no",
        "",
        "-------- then add",
    ],
)
def test_ordinary_repetition_is_no_loop(text: str) -> None:
    assert not is_loop(text)


def test_long_hostile_text_is_read_to_its_end() -> None:
    # Quadratic patterns would take minutes here.
    for piece in ("<", "<|", "ignore all ", "{", "[", "a ", "</", "#", "```", "give a ", "<function "):
        fault(piece * (50_000 // len(piece)))
    assert fault("a " * 25_000 + "<|im_end|>") == INJECTION
