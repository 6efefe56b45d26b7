"""Which texts give an answer away."""

from __future__ import annotations

import pytest

from critique_rl.feedback.leak import leaks


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The total is 42.", "42"),
        ("The total is 42.0 exactly", "42"),
        ("x=42, so stop", "42"),
        ("It weighs 42kg", "42"),
        ("You need 1,234 in the end", "1234"),
        ("You need 1234 in the end", "1,234"),
        ("Write 1 2 3 4 as digits", "1234"),
        ("Write 4-2", "42"),
        ("Half, that is 0.5", "1/2"),
        ("Take 50% of it", "0.5"),
        (r"It is \frac{3}{4} of it", "0.75"),
        (r"So \boxed{42}", "42"),
        ("So it is -7", r"\boxed{-7}"),
        ("So it is \u22127", "-7"),
        ("The capital is PARIS!", "Paris"),
        ("think of new   york, surely", "New York"),
        ("Pick option b", "B"),
        ("It is (C)", "C"),
        ("The answer is A", "A"),
        ("It must be D then", "D"),
        ("say <<>>", "<<>>"),
        (
            "Recall: the quick brown fox jumps over the lazy dog at night",
            "x the quick brown fox jumps over the lazy dog y",
        ),
    ],
)
def test_found(text: str, answer: str) -> None:
    assert leaks(text, answer)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Carry the one into the tens.", "42"),
        ("The year 1420 and the number 142 are others", "42"),
        ("It is 4.25", "4.2"),
        ("Add 17 and 26 again", "43"),
        ("Think of Parisian food", "Paris"),
        ("A better way is to check each step", "A"),
        ("Be brief", "B"),
        ("anything", ""),
        ("", "42"),
        ("the quick brown fox", "x the quick brown fox jumps over the lazy dog y"),
    ],
)
def test_not_found(text: str, answer: str) -> None:
    assert not leaks(text, answer)


def test_what_the_question_says_itself_is_no_leak() -> None:
    assert leaks("Use 42 here", "42", question="What is 40 + 2?")
    assert not leaks("Use 42 here", "42", question="Is 42 larger than 41?")
    assert not leaks("Choose between Paris and Rome", "Rome", question="Rome or Paris?")
