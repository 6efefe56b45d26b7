"""The numbers in a text, by hand and against a plain speller."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critique_rl.feedback.numerals import digit_runs, normal_form, number, stated

SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def spell(value: int, joint: str) -> str:
    if value < 20:
        return SMALL[value]
    if value < 100:
        return TENS[value // 10] + (f"-{SMALL[value % 10]}" if value % 10 else "")
    word, scale = ("hundred", 100) if value < 1000 else ("thousand", 1000)
    rest = f"{joint}{spell(value % scale, joint)}" if value % scale else ""
    return f"{spell(value // scale, joint)} {word}{rest}"


def values(text: str) -> set[Fraction]:
    return {found.value for found in stated(normal_form(text))}


@given(st.integers(0, 9999), st.sampled_from([" ", " and "]))
def test_every_number_below_ten_thousand_is_read_from_words(value: int, joint: str) -> None:
    words = spell(value, joint)
    assert values(f"So it comes to {words.upper()}, I think") == {Fraction(value)}
    assert [found.in_words for found in stated(words)] == [True]


@given(st.integers(-(10**6), 10**6), st.integers(1, 10**4))
def test_equal_values_in_other_forms(above: int, below: int) -> None:
    value = Fraction(above, below)
    for form in (f"{above}/{below}", rf"\frac{{{abs(above)}}}{{{below}}}", f"{2 * above} / {2 * below}"):
        assert abs(number(form) or 0) == abs(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,234", 1234),
        ("1{,}234", 1234),
        (r"1\,234", 1234),
        ("12.0", 12),
        (".5", Fraction(1, 2)),
        ("50%", Fraction(1, 2)),
        (r"50\%", Fraction(1, 2)),
        ("50 percent", Fraction(1, 2)),
        ("1.2e3", 1200),
        (r"1.2 \times 10^{3}", 1200),
        ("1.2 × 10³", 1200),
        ("5*10**-1", Fraction(1, 2)),
        (r"\dfrac{3}{4}", Fraction(3, 4)),
        (r"\frac34", Fraction(3, 4)),
        ("3 1/2", Fraction(7, 2)),
        ("½", Fraction(1, 2)),
        ("\u22127", -7),
        ("minus 7", -7),
        (r"\boxed{42}", 42),
        ("$42$", 42),
        ("\uff14\uff12", 42),
        ("4\u200b2", 42),
    ],
)
def test_one_number(text: str, value: Fraction | int) -> None:
    assert number(text) == value


@pytest.mark.parametrize("text", ["", "x", "1/0", "12 kg", "1 2", "1e9999", "forty", "--3", "1.2.3", "9" * 401])
def test_no_number(text: str) -> None:
    assert number(text) is None


def test_words_of_one_number_and_of_several() -> None:
    assert values("seven and eight") == {7, 8}
    assert values("two three") == {2, 3}
    assert values("twenty-second of the month") == set()
    assert values("three quarters of a minus five") == {Fraction(3, 4), -5}
    assert values("thousands of hundreds, someone, tension, often") == set()


def test_spelled_digits() -> None:
    assert set(digit_runs("0 3 5 1 or four two, not 12 34")) >= {"0351", "42"}
    assert list(digit_runs("one and two. three")) == []
