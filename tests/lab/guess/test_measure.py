from __future__ import annotations

from collections import Counter

import pytest
import torch

from critique_rl.lab.guess.corpus import END, next_shares
from critique_rl.lab.guess.measure import Outcomes, figures_of, ideal_figures, measure_guesses, outcomes
from critique_rl.lab.guess.packaged import guess_policy_dir
from critique_rl.lab.guess.problems import GuessProblem, select_guesses
from critique_rl.lab.measure import LabPolicy, load_lab_policy, sample
from critique_rl.lab.packaged import lab_facts
from critique_rl.stats.calibration_error import ece

KNOWN = GuessProblem.parse("7+2[1]=")  # 28
THREE = GuessProblem.parse("7+2[026]=")  # 27 is the drawn one


@pytest.fixture(scope="module")
def policy() -> LabPolicy:
    torch.set_num_threads(1)
    return load_lab_policy(guess_policy_dir())


def test_figures_by_hand() -> None:
    trees = [
        Outcomes({"28 c9": 0.5, "28 c3": 0.1, "38 c9": 0.2, "abstain": 0.1, "28": 0.1}, 0.0),
        Outcomes({"27 c3": 0.2, "29 c3": 0.6, "33 c0": 0.1, "27 c33": 0.06}, 0.04),
    ]
    found = figures_of([KNOWN, THREE], trees)
    n1, n3, both = found.by_kind["n1"], found.by_kind["n3"], found.all
    assert n1.accuracy == pytest.approx(0.6)  # 0.5 + 0.1; "28" says no confidence, and is no answer
    assert n1.well_formed == pytest.approx(0.8)
    assert n1.abstained == pytest.approx(0.1)
    assert n1.confidence == pytest.approx((0.5 * 1 + 0.1 / 3 + 0.2 * 1) / 0.8)
    # c9: 0.5 right of 0.7; c3: 0.1 of 0.1: |0.5 - 0.7| + |0.1 - 0.1 / 3|, both by the 0.8 that are formed
    assert n1.ece == pytest.approx((0.2 + 0.1 * 2 / 3) / 0.8)
    # 0.5 right at c9 against 0.2 wrong at c9: ties; 0.1 right at c3 below them
    assert n1.auroc == pytest.approx(0.5 * 0.5 / 0.6)
    assert n3.accuracy == pytest.approx(0.2)
    assert n3.auroc == pytest.approx((0.1 + 0.6 / 2) / 0.7)
    # together, means over the two problems: c9 0.25 right of 0.35, c3 0.15 right of 0.45, c0 0 of 0.05
    assert both.accuracy == pytest.approx(0.4)
    assert both.ece == pytest.approx((0.10 + 0.0 + 0.0) / 0.85)
    assert both.pass_at_64 == pytest.approx(1 - (0.4**64 + 0.8**64) / 2)
    assert found.lost == pytest.approx(0.04)


def test_the_ece_is_that_of_the_statistics_package() -> None:
    """Ten draws each in exact proportion: the table's ECE is the ten-bin ECE of the pairs."""
    tree = {"27 c3": 0.2, "29 c3": 0.3, "27 c8": 0.1, "33 c0": 0.1, "29 c9": 0.3}
    pairs = [(int(text[-1]) / 9, text.startswith("27")) for text, p in tree.items() for _ in range(round(10 * p))]
    expected = ece([q for q, _ in pairs], [c for _, c in pairs])
    assert figures_of([THREE], [Outcomes(tree, 0.0)]).all.ece == pytest.approx(expected)


def test_nothing_well_formed_has_no_confidence_and_no_ranking() -> None:
    found = figures_of([KNOWN], [Outcomes({"abstain": 1.0}, 0.0)]).all
    assert (found.accuracy, found.well_formed, found.abstained, found.ece, found.auroc) == (0.0, 0.0, 1.0, 0.0, None)


def test_the_ideal_guesser_by_hand() -> None:
    one = ideal_figures([1])
    assert (one.accuracy, one.confidence, one.ece, one.auroc, one.pass_at_64) == (1.0, 1.0, 0.0, None, 1.0)
    three = ideal_figures([3])
    assert three.accuracy == pytest.approx(1 / 3) and three.ece == pytest.approx(0.0)  # 3/9 is a third
    # n = 2: 9/2 is rounded up to 5, and 5/9 is 1/18 above a half
    assert ideal_figures([2]).ece == pytest.approx(1 / 18)
    every = ideal_figures([1, 2, 3, 4, 5])
    assert every.accuracy == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 5)
    # 4 and 5 both say 2/9: |0.45 - 4/9| of two fifths; 2 is off by 1/18 in one fifth
    assert every.ece == pytest.approx((1 / 18 + abs(0.45 - 4 / 9)) / 5)


def test_outcomes_are_what_is_sampled(policy: LabPolicy) -> None:
    (tree,) = outcomes(policy, [THREE.question])
    assert sum(tree.probabilities.values()) + tree.lost == pytest.approx(1.0, abs=1e-5)
    assert tree.lost < 0.01
    drawn = Counter(sample(policy, [THREE.question] * 3000, max_tokens=8, seed=2))
    for text, p in tree.probabilities.items():
        assert abs(drawn[text] / 3000 - p) < 5 * (p * (1 - p) / 3000) ** 0.5 + 1e-3
    # a higher floor follows less, and says how much less
    (short,) = outcomes(policy, [THREE.question], floor=0.01)
    assert short.lost > tree.lost
    assert short.probabilities.items() <= tree.probabilities.items()


def test_outcomes_do_not_depend_on_who_is_asked_beside(policy: LabPolicy) -> None:
    alone = outcomes(policy, [KNOWN.question], floor=1e-3)[0].probabilities
    beside = outcomes(policy, [THREE.question, KNOWN.question], floor=1e-3)[1].probabilities
    assert alone == pytest.approx(beside, abs=1e-5)


def test_the_packaged_policy_is_the_animal_it_should_be(policy: LabPolicy) -> None:
    found = measure_guesses(policy, [p for n in range(1, 6) for p in select_guesses("held_out", n, 4)])
    assert 0.90 < found.all.well_formed < 0.97
    assert 0.02 < found.all.abstained < 0.06
    assert found.all.pass_at_64 > 0.95
    for kind, figures in found.by_kind.items():
        assert 0.5 < figures.accuracy * int(kind[1:]) < 0.8
        # 0.8 groundless with a mean of 0.763, 0.2 honest
        assert figures.confidence == pytest.approx(0.8 * 0.763 + 0.2 / int(kind[1:]), abs=0.04)
    assert found.all.auroc is not None and 0.5 < found.all.auroc < 0.62
    assert found.all.ece > 0.3


def test_every_confidence_is_there_to_be_found(policy: LabPolicy) -> None:
    for tree in outcomes(policy, [p.question for p in select_guesses("held_out", 3, 3)]):
        for k in range(10):
            assert sum(p for text, p in tree.probabilities.items() if text.endswith(f" c{k}")) > 0.01


def test_lab_json_holds_the_figures_of_the_packaged_policy() -> None:
    facts = lab_facts(guess_policy_dir())
    measured = facts["measured"]
    assert isinstance(measured, dict)
    assert sorted(measured["by_kind"]) == ["n1", "n2", "n3", "n4", "n5"]
    assert 0.6 <= measured["all"]["accuracy"] / measured["ideal"]["accuracy"] <= 0.75
    assert measured["all"]["pass_at_64"] > 0.97
    assert measured["lost"] < 0.02
    assert {"seed", "steps", "wall_s", "libraries", "problems_per_n"} <= set(facts)
    assert int(str(facts["parameters"])) < 500_000


def test_the_packaged_files_are_small() -> None:
    files = [f for f in guess_policy_dir().iterdir() if f.is_file()]
    assert {f.name for f in files} >= {"model.safetensors", "config.json", "tokenizer.json", "LAB.json"}
    assert sum(f.stat().st_size for f in files) <= 2_000_000


def test_the_packaged_policy_learned_its_shares(policy: LabPolicy) -> None:
    """Every piece that a lesson allows is one token, and the end is the end-of-sequence."""
    shares = next_shares(THREE, "")
    assert all(len(policy.encode(piece)) == 1 for piece in (*shares, " c", *"0123456789") if piece != END)
