"""Which phrases give away that an answer was written after a critique, and which only look like it."""

from __future__ import annotations

import pytest

from critique_rl.loop.meta_talk import talks_of_feedback


@pytest.mark.parametrize(
    "text",
    [
        "Following the feedback, I add the ones first. 42",
        "Based on your critique, the carry was missing.",
        "As per the above hint we carry one.",
        "The critic said to carry. As the reviewer pointed out, 7+8 is 15.",
        "The feedback suggests adding the ones.",
        "The hint above says to carry.",
        "My previous answer was wrong.",
        "In my first incorrect attempt I forgot the carry.",
        "Unlike the previous attempt, we carry.",
        "You pointed out that I forgot the carry.",
        "I was told to carry one.",
        "Here is the corrected solution: 42",
        "Here's my revised answer: 42",
        "Corrected answer: 42",
        "**Revised solution**\n42",
        "The partial solution above gives 6.",
        "YOUR FEEDBACK IS RIGHT",
        "Nach dem Hinweis addiere ich zuerst die Einer.",
        "Meine vorherige Antwort war falsch.",
        "D'apr\u00e8s la remarque, on ajoute un.",
        "Ma r\u00e9ponse pr\u00e9c\u00e9dente \u00e9tait fausse.",
        "Siguiendo la sugerencia, sumo las unidades.",
        "Mi respuesta anterior era incorrecta.",
        "\u6839\u636e\u53cd\u9988\uff0c\u5148\u52a0\u4e2a\u4f4d\u3002",
        "\u4e4b\u524d\u7684\u5c1d\u8bd5\u662f\u9519\u7684\u3002",
    ],
)
def test_phrases_that_point_at_the_exchange(text: str) -> None:
    assert talks_of_feedback(text)


@pytest.mark.parametrize(
    "text",
    [
        "We attempt to divide both sides by 3.",
        "The first attempt to divide fails, so try 5.",
        "A previous attempt to reach the top took 3 hours.",
        "Using the feedback loop, the gain is 1/(1+AB).",
        "With the feedback resistor of 10 kOhm the gain is 5.",
        "The critique of pure reason was written by Kant.",
        "The initial solution held 5 g of salt.",
        "The first solution is x = 2 and the second solution is x = 3.",
        "From the previous step, x = 4.",
        "Per the earlier result, the sum is 12.",
        "The wrong answer is B, so the answer is C.",
        "Let me check the answer: 6*7 = 42.",
        "The critical point is at 0.",
        "She advised him to buy 3 apples.",
        "Der erste Versuch dauert 5 Minuten.",
        "La r\u00e9ponse est 42.",
        "La respuesta es 42.",
        "\u7b54\u6848\u662f42\u3002",
        "",
    ],
)
def test_words_that_only_look_like_it(text: str) -> None:
    assert not talks_of_feedback(text)


def test_what_the_question_speaks_of_may_be_spoken_of() -> None:
    asked = "A player throws darts. Each attempt scores twice the previous attempt. Hint: use powers of 2."
    assert talks_of_feedback("The previous attempt scored 8. Using the hint, 2^4 = 16.")
    assert not talks_of_feedback("The previous attempt scored 8. Using the hint, 2^4 = 16.", question=asked)
    assert talks_of_feedback("Using the feedback, it is 16.", question=asked)
    assert talks_of_feedback("My previous answer was 8.", question=f"{asked} Give your answer as a number.")


def test_hostile_length_costs_little() -> None:
    assert not talks_of_feedback("following the " * 20_000)
    assert not talks_of_feedback("my previous " + " " * 200_000)
