"""Reading an answer out of a completion."""

from __future__ import annotations

import pytest

from critique_rl.errors import ConfigError
from critique_rl.rewards.answer_form import AnswerForm

BRACKETS = r"\[\[(.+?)\]\]"


@pytest.mark.parametrize(
    ("pattern", "text", "answer"),
    [
        (None, " 42\n", "42"),
        (None, " \n", None),
        (BRACKETS, "so [[ 42 ]].", "42"),
        (BRACKETS, "first [[41]], no: [[42]]", "42"),
        (BRACKETS, "42", None),
        (BRACKETS, "[[ ]]", None),
        (r"answer:(?: (\d+))?", "answer: 5 answer:", "5"),  # a match without the group changes nothing
    ],
)
def test_read(pattern: str | None, text: str, answer: str | None) -> None:
    assert AnswerForm.of(pattern).read(text) == answer


def test_what_a_critic_is_told() -> None:
    assert AnswerForm.of(BRACKETS, "[[...]]").missing == "no answer in the form [[...]] found"
    assert AnswerForm.of(BRACKETS).missing == rf"no answer in the form {BRACKETS} found"
    assert AnswerForm.of(None).missing == "the answer is empty"


@pytest.mark.parametrize(
    ("pattern", "complaint"),
    [("(", "is not a regular expression"), ("x", "has 0 groups"), ("(a)(b)", "has 2 groups")],
)
def test_unusable_patterns(pattern: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        AnswerForm.of(pattern)
