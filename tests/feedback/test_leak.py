"""Which texts give an answer away."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critique_rl.feedback.leak import leaks
from critique_rl.lab.critic import directives_for
from critique_rl.lab.problems import Problem


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


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Redo step 2 before you go on", "2"),
        ("Line 3 does not follow from line 2", "3"),
        ("Add the second column again", "2"),
        ("Look at steps 1, 2 and 3 once more", "3"),
        ("In equations 2-4 a sign is lost", "4"),
        ("Equation (2) has the wrong sign", "2"),
        ("Case 2 is missing", "2"),
        ("Look at Fig. 2 and at question 2", "2"),
        ("Go back to step two", "2"),
        ("The 2nd column and the 3rd row differ", "2"),
        ("Raise x_2 and y2 to a common level", "2"),
        ("Compare the two sides, one at a time", "2"),
        ("Carry one into the tens", "1"),
        ("The twenty-second line is off", "20"),
        ("There is no need to carry", "no"),
        ("That is true of all even numbers", "No"),
        ("Add 1 and 9 again, they make ten, not eleven", "0011"),
        ("Add 0 and 0 again", "0001"),
        ("Point B lies on the line", "C"),
        ("Keep the loop, but start it later", "def f(xs):\n    return sum(x * x for x in xs if x > 0)"),
    ],
)
def test_a_label_an_ordinal_or_a_pronoun_is_no_leak(text: str, answer: str) -> None:
    assert not leaks(text, answer)


@pytest.mark.parametrize(
    ("text", "answer", "question"),
    [
        ("The result is 2", "2", "Solve 2x + 3 = 7."),
        ("In step 2 you get 2", "2", ""),
        ("Step 3 gives x = 2", "2", "Solve 2x + 3 = 7."),
        ("So there are twelve of them", "12", ""),
        ("It makes two thousand three hundred and five", "2305", ""),
        ("The answer is two", "2", ""),
        ("You should write four two", "42", ""),
        ("Write zero three five one", "0351", ""),
        ("Write 0351", "0351", ""),
        ("The sum in reverse is 351", "0351", ""),
        ("It is 3 1/2", "7/2", ""),
        ("It is half of it", "0.5", ""),
        ("It is 1.2 x 10^3", "1200", ""),
        ("so 50 is right", "50%", ""),
        ("You should find 2", "x = 2", ""),
        ("So 12 in the end", "12 kg", ""),
        ("Write 90 there", r"90^\\circ".replace("\\\\", "\\"), ""),
        ("It comes to 42", "Add both.\n#### 42", ""),
        ("It comes to 42", r"Add both, so we have \boxed{42}.", ""),
        ("The answer is B", "B", "Which one? (A) Rome (B) Paris (C) Oslo"),
        ("Choose b here", "(B)", "Which one? (A) Rome (B) Paris (C) Oslo"),
        ("The answer is yes", "Yes", "Is it?"),
        ("So the answer: no", "no", ""),
        (
            "Write return sum ( x*x for x in xs if x>0 ) there",
            "def f(xs):\n    return sum(x * x for x in xs if x > 0)",
            "",
        ),
    ],
)
def test_a_statement_is_a_leak(text: str, answer: str, question: str) -> None:
    assert leaks(text, answer, question=question)


def test_ngrams_that_the_question_has_too_are_no_leak() -> None:
    shared = "a train leaves the station at nine in the morning"
    reference = f"Since {shared} and runs for two hours we see it at noon by the sea"
    assert not leaks(f"Read again: {shared}", reference, question=f"{shared.capitalize()}. When is it there?")
    assert leaks(f"Read again: {shared}", reference, question="When is it there?")
    assert leaks("it runs for two hours we see it at noon by the sea", reference, question=shared)


@given(
    st.integers(10, 9999), st.sampled_from(["{}", "So {} it is", "x={}", "({})", "{}kg", "{}.0 or so", r"\boxed{{{}}}"])
)
def test_a_number_of_two_or_more_digits_is_found_in_any_dress(value: int, dress: str) -> None:
    assert leaks(dress.format(value), str(value))
    assert not leaks(dress.format(value), str(value + 1))


@given(
    st.sampled_from(["step", "line", "column", "part", "equation", "case", "figure", "question"]), st.integers(1, 99)
)
def test_a_label_never_leaks_but_the_same_number_beside_it_does(label: str, value: int) -> None:
    assert not leaks(f"Redo {label} {value} with care", str(value))
    assert leaks(f"Redo {label} {value}: the result is {value}", str(value))


@given(st.text(max_size=80), st.text(max_size=30), st.text(max_size=60))
def test_any_texts_have_an_answer(text: str, answer: str, question: str) -> None:
    assert leaks(text, answer, question=question) in (True, False)


def test_long_and_hostile_texts_are_read() -> None:
    for piece in ("1 ", "1/", "9", "step 1, ", "one ", "\\frac{", "\\boxed{", "{", "=", "a ", "1,234", "1e9"):
        long = piece * (20_000 // len(piece))
        leaks(long, "42")
        leaks("It is 42", long)


def test_no_directive_of_the_lab_leaks() -> None:
    rng = random.Random(0)
    for _ in range(400):
        digits = rng.randint(2, 6)
        low = 10 ** (digits - 1)
        problem = Problem(left=rng.randrange(low, 10 * low), right=rng.randrange(low, 10 * low), digits=digits)
        # Sums such as 1000 are written "0001": every word for one is near.
        if rng.random() < 0.4:
            right = rng.choice([10, 11, 12, 15]) * low - problem.left
            problem = Problem(left=problem.left, right=right, digits=digits) if low <= right < 10 * low else problem
        mixed = "".join(c if rng.random() < 0.6 else str(rng.randrange(10)) for c in problem.answer)
        for attempt in (problem.dropped_answer, mixed, problem.answer[::-1], "7"):
            for directive in directives_for(problem, attempt, wording=rng.randrange(6)):
                assert not leaks(directive.text, problem.answer, question=problem.question)
