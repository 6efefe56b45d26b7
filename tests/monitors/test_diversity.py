"""The table of figures on made-up batches: hand numbers, tool output that is nobody's style, copies of a prompt."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from critique_rl.config.monitors import Metric
from critique_rl.monitors.diversity import measure
from critique_rl.monitors.prompts import own_words, prompts_of
from critique_rl.stats.trajectories import chrf_matrix, cluster_count
from critique_rl.types import Group, Score, Turn
from tests.monitors.answers import answers, rollout, searched, task


def figures(groups: list[Group], *metrics: Metric, max_samples: int = 64) -> dict[str, float]:
    return measure(groups, prompts_of(groups), metrics, max_samples=max_samples)


def test_9_6_distinct_n_and_self_bleu_of_a_prompt() -> None:
    found = figures([answers("p", ("a b c d", 0.0), ("a b c e", 0.0), ("a b c d", 0.0))], "distinct_n", "self_bleu")
    assert found["distinct_1"] == pytest.approx(5 / 12)
    assert found["distinct_2"] == pytest.approx(4 / 9)
    # four words: the two copies are found whole, the other has no four words in common
    assert found["self_bleu_4"] == pytest.approx(2 / 3)


def test_answers_too_short_for_an_order_have_no_self_bleu() -> None:
    assert figures([answers("p", ("a b", 0.0), ("a b", 0.0), ("a b c d", 0.0))], "self_bleu") == {}


def test_the_mean_is_over_prompts_and_marks_are_words() -> None:
    groups = [answers("p", ("1+1=2", 0.0), ("1+1=2", 0.0)), answers("q", ("x", 0.0))]
    # p: 1 + = 2 among ten; q: one of one
    assert figures(groups, "distinct_n")["distinct_1"] == pytest.approx((4 / 10 + 1) / 2)


def test_token_entropy_leaves_the_tools_tokens_out() -> None:
    mask = [True, False, False, True]
    told = rollout(0, "abcd", mask=mask)
    group = Group(task=task(), rollouts=(told,), scores=(Score(reward=0.0),))
    found = figures([group], "token_entropy")
    assert found["token_entropy"] == pytest.approx((0.1 + 0.4) / 2)
    assert found["surprise_p50"] == pytest.approx(0.25)
    assert found["surprise_p95"] == pytest.approx(np.quantile([0.1, 0.4], 0.95))
    # A mask of whole numbers filters, too: it must never be taken for places (0 and 1).
    numbers = replace(told, policy_mask=tuple(int(m) for m in mask))
    assert figures([replace(group, rollouts=(numbers,))], "token_entropy") == found


def test_two_copies_of_a_prompt_are_one_prompt() -> None:
    """As two, each would look less diverse, and less often solved, than the prompt is (Search-R1, issue 88)."""
    one, other = answers("p", ("a b", 1.0), ("a b", 0.0)), answers("p", ("c d", 0.0), ("c d", 0.0))
    (prompt,) = prompts_of([one, other])
    assert len(prompt.rollouts) == 4
    together = answers("p", ("a b", 1.0), ("a b", 0.0), ("c d", 0.0), ("c d", 0.0))
    wanted: tuple[Metric, ...] = ("distinct_n", "vendi", "pass_at_k", "answer_entropy", "trajectory_clusters")
    assert figures([one, other], *wanted) == figures([together], *wanted)
    assert figures([one, other], "pass_at_k")["pass@1"] == 0.25
    # Baselines stay those of the groups: they are what was trained on.
    assert [answer.advantage for answer in prompt.judged] == [0.5, -0.5, 0.0, 0.0]
    assert figures([one, other], "zero_std")["frac_zero_std"] == 0.5


def test_vendi_by_hand() -> None:
    found = figures([answers("p", ("a", 0.0), ("a", 0.0), ("b", 0.0), ("b", 0.0))], "vendi")
    assert found == pytest.approx({"vendi": 2.0, "vendi_share": 0.5})
    assert figures([answers("p", ("a", 0.0), ("a", 0.0))], "vendi")["vendi"] == 1.0
    assert figures([answers("p", ("a", 0.0))], "vendi") == {}
    many = answers("p", *((str(i), 0.0) for i in range(8)))
    assert figures([many], "vendi", max_samples=4) == pytest.approx({"vendi": 4.0, "vendi_share": 1.0})


FRANCE = searched(
    "p",
    [("search", "capital of France", ("1", "2")), ("search", "Paris", ("3",)), ("answer", "Paris", ())],
    [("search", "capital  of france", ("1", "2")), ("search", "Lyon", ("4",)), ("answer", "Lyon", ())],
    [("search", "capital city of france", ("2", "5")), ("answer", "Paris", ())],
    [("answer", "Rome", ())],
)


def test_queries_by_turn() -> None:
    found = figures([FRANCE], "queries")
    assert found["query_unique_ratio/first"] == pytest.approx(2 / 3)
    # Jaccard 1, 3/4, 3/4
    assert found["query_jaccard_div/first"] == pytest.approx(1 - 2.5 / 3)
    assert found["query_unique_ratio/later"] == 1.0
    assert found["query_jaccard_div/later"] == 1.0


def test_evidence_of_the_episodes_that_have_any() -> None:
    # {1 2 3}, {1 2 4}, {2 5}: 2/4, 1/4, 1/4; the fourth episode retrieved nothing
    assert figures([FRANCE], "evidence_overlap") == {"evidence_overlap": pytest.approx(1 / 3)}


def test_strategies_are_sequences_of_tools() -> None:
    found = figures([FRANCE], "strategy_entropy")
    # search search answer twice, search answer, answer
    assert found["strategy_entropy"] == pytest.approx(-(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25)))
    assert found["strategy_bins"] == 3.0


def test_turns() -> None:
    found = figures([FRANCE], "turns")
    assert found["turns/mean"] == pytest.approx((3 + 3 + 2 + 1) / 4)
    assert found["turns/modal_share"] == 0.5
    assert found["searches/mean"] == pytest.approx((2 + 2 + 1 + 0) / 4)
    assert found["searches/entropy"] == found["turns/entropy"] == pytest.approx(1.039721, abs=1e-6)


def test_the_words_of_tools_are_not_the_policys() -> None:
    assert own_words(FRANCE.rollouts[3]) == "answer Rome"
    # four different texts, whatever the tools said (which is the same everywhere)
    assert figures([FRANCE], "distinct_n")["distinct_3"] > 0.5


def test_answers_of_one_turn_say_nothing_of_searches() -> None:
    one_turn = [answers("p", ("a", 1.0), ("b", 0.0))]
    assert figures(one_turn, "queries", "evidence_overlap", "strategy_entropy", "turns") == {}


def test_9_4_answer_entropy() -> None:
    texts = ["x 7", "y 7", "z 7", "x 8", "y 8", ""]
    group = answers("p", *((text, 0.0) for text in texts))
    assert figures([group], "answer_entropy") == {"answer_semantic_entropy": pytest.approx(1.011404, abs=1e-6)}
    assert figures([answers("p", ("", 0.0))], "answer_entropy") == {}


def test_step_decay_counts_steps_with_their_numbers_made_alike() -> None:
    texts = [*["Add 3. Done."] * 10, *["Add 4. Carry."] * 90]
    found = figures([answers("p", *((text, 0.0) for text in texts))], "step_decay")
    # add 0.: 100, carry.: 90, done.: 10
    assert found["step_kinds"] == 3.0
    assert found["step_beta"] == pytest.approx((math.log10(100) - math.log10(10)) / 2)


def test_9_6_pass_at_k_of_a_batch() -> None:
    groups = [answers("p", *((str(i), float(i < 2)) for i in range(8)))]
    found = figures(groups, "pass_at_k")
    assert found["pass@1"] == 0.25
    assert found["pass@4"] == pytest.approx(0.785714, abs=1e-6)
    assert found["pass@8"] == 1.0
    assert found["pass^2"] == pytest.approx(1 / 28)
    assert set(found) == {"pass@1", "pass@2", "pass@4", "pass@8", "pass^2", "pass^4", "pass^8"}


def test_pass_at_k_needs_as_many_answers_of_every_prompt_and_leaves_failed_verifiers_out() -> None:
    groups = [answers("p", ("a", 1.0), ("b", None), ("c", 0.0)), answers("q", ("d", None))]
    assert figures(groups, "pass_at_k") == {"pass@1": 0.5, "pass@2": 1.0, "pass^2": 0.0}


def test_the_surface_of_episodes() -> None:
    scores = tuple(Score(reward=reward) for reward in (1.0, 0.0, 1.0, 0.0))
    found = figures([replace(FRANCE, scores=scores)], "pass_at_k")
    # right: the first (3 turns) and the third (2 turns)
    assert found["pass@1/rounds_1"] == 0.0
    assert found["pass@1/rounds_2"] == 0.25
    assert found["pass@1/rounds_3"] == found["pass@1"] == 0.5
    assert found["pass@4/rounds_2"] == 1.0


def test_9_7_zero_variance_by_sign() -> None:
    groups = [
        answers("a", *(("x", 1.0),) * 4),
        answers("b", ("x", 1.0), ("x", 0.0), ("x", 0.0), ("x", 1.0)),
        answers("c", *(("x", 0.0),) * 4),
        answers("d", ("x", 1.0), ("x", 0.0), ("x", 0.0), ("x", 0.0)),
    ]
    assert figures(groups, "zero_std") == {"frac_zero_std": 0.5, "frac_all_correct": 0.25, "frac_all_wrong": 0.25}


def test_clusters_of_right_and_of_wrong_ways() -> None:
    tens, gauss = "First add the tens and then the ones.", "Use the formula of Gauss here."
    groups = [
        answers("p", (tens, 1.0), (tens + " So.", 1.0), (gauss, 1.0), ("no idea", 0.0)),
        answers("q", (tens, None), (gauss, 0.0)),
        answers("r", (gauss, None)),
    ]
    found = figures(groups, "trajectory_clusters")
    assert cluster_count(chrf_matrix([tens, tens + " So.", gauss])) == 2
    assert found == {"clusters_correct": (2 + 0) / 2, "clusters_incorrect": (1 + 1) / 2}


def test_nothing_observed_is_nothing_measured() -> None:
    every = get_args(Metric)
    assert figures([], *every) == {}
    assert figures([replace(answers("p"), rollouts=(), scores=())], *every) == {}


def test_figures_do_not_depend_on_the_order_of_groups_or_rollouts() -> None:
    groups = [answers("p", ("a b", 1.0), ("a c", 0.0), ("d", 0.0)), answers("q", ("e", 0.0), ("f g h i", 1.0)), FRANCE]
    turned = [replace(group, rollouts=group.rollouts[::-1], scores=group.scores[::-1]) for group in reversed(groups)]
    every = get_args(Metric)
    assert figures(turned, *every) == pytest.approx(figures(groups, *every))


def test_turns_without_documents_or_queries() -> None:
    turns = (Turn(start=0, end=1, text="hm"),)
    group = Group(task=task(), rollouts=(rollout(0, "hm", turns=turns),), scores=(Score(reward=0.0),))
    assert figures([group], "queries", "evidence_overlap") == {}
    assert figures([group], "strategy_entropy") == {"strategy_entropy": 0.0, "strategy_bins": 1.0}
