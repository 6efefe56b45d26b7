"""Scripts of texts: what counts as foreign, and where nothing can be told."""

from __future__ import annotations

import pytest

from critique_rl.feedback.language import is_foreign

ENGLISH = "How many apples are left after lunch?"
CHINESE = "午饭后还剩下几个苹果？请一步一步地回答。"
RUSSIAN = "Сколько яблок осталось после обеда?"


@pytest.mark.parametrize(
    ("text", "others", "foreign"),
    [
        ("Вычтите ещё раз", (ENGLISH,), True),
        ("请你重新计算一遍这一步", (ENGLISH, "I had 7 apples."), True),
        ("Subtract the apples again", (CHINESE,), True),
        ("Subtract the apples again", (CHINESE, "I had seven apples, so two."), False),
        ("Вычтите ещё раз", (RUSSIAN,), False),
        ("请你重新计算一遍这一步", (CHINESE,), False),
        # Japanese and Chinese are one family here; French and English are one script.
        ("もう一度引き算をしてください", (CHINESE,), False),
        ("Soustrayez encore une fois", (ENGLISH,), False),
        # Too few letters on one side: nothing can be told.
        ("Вычтите ещё раз", ("27+38=", "560"), False),
        ("ещё раз", (ENGLISH,), False),
        ("", (ENGLISH,), False),
        # Notation is no language: LaTeX commands and single letters do not count.
        (r"\frac{a}{b} \alpha \beta \gamma \sqrt{x} 请先通分，然后再把两个分数相加", (CHINESE,), False),
        ("Use α, β and γ for the three angles", (ENGLISH,), False),
        ("Половина on half", (ENGLISH,), False),
    ],
)
def test_foreign(text: str, others: tuple[str, ...], foreign: bool) -> None:
    assert is_foreign(text, *others) is foreign
