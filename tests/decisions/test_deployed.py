"""What answers are worth at a price, by hand: by abstaining and by calibrated confidence, on one half of the tasks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from critique_rl.config.ablation import DecisionsConfig
from critique_rl.decisions.deployed import HeldOutAnswer, deployed_figures, stated_figures
from critique_rl.errors import DataError

PRICES = DecisionsConfig(penalties=(0, 1, 4))


def answer(task: int, text: str, confidence: float | None = 0.5) -> HeldOutAnswer:
    """ "y" is right, "n" wrong, "abstain" an abstention that cannot be read, "?" one that the verifier reads."""
    readable = text != "abstain"
    return HeldOutAnswer(
        task=f"t{task:03d}",
        kind="n1",
        text=text,
        correct=text == "y",
        readable=readable,
        confidence=confidence if readable else None,
    )


def test_by_abstaining_by_hand() -> None:
    # Every task has the same four answers, so that either half is worth the same: 2 of 4 right, 1 wrong, 1 none.
    answers = [answer(task, text) for task in range(6) for text in ("y", "y", "n", "abstain")]
    found = deployed_figures(answers, PRICES, by_confidence=False)
    # (2 - L) / 4 for L = 0, 1, 4
    assert found == pytest.approx(
        {
            "utility@0": 0.5,
            "utility@1": 0.25,
            "utility@4": -0.5,
            **{f"coverage@{price}": 0.75 for price in (0, 1, 4)},
            **{f"precision@{price}": 2 / 3 for price in (0, 1, 4)},
        }
    )


def test_an_abstention_that_the_verifier_reads_needs_its_pattern() -> None:
    answers = [answer(task, text) for task in range(4) for text in ("y", "?")]
    assert deployed_figures(answers, PRICES, by_confidence=False)["utility@1"] == 0.0
    told = PRICES.model_copy(update={"abstains": r"\?"})
    assert deployed_figures(answers, told, by_confidence=False)["utility@1"] == 0.5


def test_by_confidence_by_hand() -> None:
    # Stated 0.9 is right in 9 of 10, stated 0.5 in 5 of 10, in every task: isotonic maps both to themselves.
    sure = [("y", 0.9)] * 9 + [("n", 0.9)]
    unsure = [("y", 0.5)] * 5 + [("n", 0.5)] * 5
    answers = [answer(task, text, stated) for task in range(6) for text, stated in (*sure, *unsure)]
    config = DecisionsConfig(penalties=(0.5, 4, 19), by_confidence=("a",), calibrator="isotonic")
    found = deployed_figures(answers, config, by_confidence=True)
    # L = 0.5, t = 1/3: all, (14 - 0.5 * 6) / 20; L = 4, t = 0.8: the sure half, (9 - 4) / 20; L = 19, t = 0.95: none
    assert [found[f"utility@{price}"] for price in ("0.5", "4", "19")] == pytest.approx([0.55, 0.25, 0.0])
    assert [found[f"coverage@{price}"] for price in ("0.5", "4", "19")] == pytest.approx([1.0, 0.5, 0.0])
    assert found["precision@4"] == pytest.approx(0.9)
    assert "precision@19" not in found


def test_confidences_are_calibrated_before_a_threshold_looks_at_them() -> None:
    # All say 0.9 or 0.8 and 3 of 10 are right: believed as stated, every one would be given at L = 1.
    texts = [("y", 0.9), ("y", 0.9), ("y", 0.8), *[("n", 0.9)] * 3, *[("n", 0.8)] * 4]
    answers = [answer(task, text, stated) for task in range(8) for text, stated in texts]
    config = DecisionsConfig(penalties=(1,), by_confidence=("a",))
    assert deployed_figures(answers, config, by_confidence=True)["utility@1"] == 0.0


def test_an_answer_without_a_confidence_is_never_given_by_confidence() -> None:
    answers = [
        answer(task, text, stated) for task in range(4) for text, stated in (("y", 0.9), ("n", 0.2), ("y", None))
    ]
    config = DecisionsConfig(penalties=(0,), by_confidence=("a",))
    assert deployed_figures(answers, config, by_confidence=True)["coverage@0"] == pytest.approx(2 / 3)


def test_every_policy_is_judged_by_the_same_half() -> None:
    # One right answer each to the tasks of one half: found by which tasks count.
    def counted(order: list[int]) -> set[int]:
        return {
            one
            for one in order
            if deployed_figures([answer(t, "y" if t == one else "n") for t in order], PRICES, by_confidence=False)[
                "precision@1"
            ]
        }

    order = list(range(8))
    assert counted(order) == counted(order[::-1])
    assert len(counted(order)) == 4


def test_one_task_and_answers_that_are_all_alike_are_refused() -> None:
    with pytest.raises(DataError, match="1 held-out tasks; wanted at least two"):
        deployed_figures([answer(0, "y")], PRICES, by_confidence=False)
    with pytest.raises(DataError, match="all right or all wrong"):
        deployed_figures([answer(task, "n") for task in range(4)], PRICES, by_confidence=True)
    with pytest.raises(DataError, match="0 answers with a confidence"):
        deployed_figures([answer(task, "y", None) for task in range(4)], PRICES, by_confidence=True)


def test_stated_figures_are_of_all_answers_together() -> None:
    found = stated_figures([answer(0, "y", 0.75), answer(1, "n", 0.75), answer(2, "y", None)])
    # |0.75 - 0.5| in one bin, and one answer of three says nothing
    assert found["confidence/ece"] == pytest.approx(0.25)
    assert found["confidence/valid"] == pytest.approx(2 / 3)


@given(st.lists(st.sampled_from(["y", "n", "abstain"]), min_size=4, max_size=40), st.floats(0, 20))
def test_utility_is_what_coverage_and_precision_say(texts: list[str], price: float) -> None:
    config = DecisionsConfig(penalties=(price,))
    found = deployed_figures([answer(t, text) for t, text in enumerate(texts)], config, by_confidence=False)
    precision = found.get(f"precision@{price:g}", 0.0)
    wanted = found[f"coverage@{price:g}"] * (precision - price * (1 - precision))
    assert np.isclose(found[f"utility@{price:g}"], wanted)
