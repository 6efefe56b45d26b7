from __future__ import annotations

from pathlib import Path

import pytest
import torch

from critique_rl.lab.corpus import ContextRenderer, directive_text
from critique_rl.lab.measure import (
    LabPolicy,
    Rate,
    answer_probabilities,
    load_lab_policy,
    measure,
    next_logprobs,
    sample,
)
from critique_rl.lab.packaged import lab_facts, policy_dir
from critique_rl.lab.problems import select_problems

EASY = select_problems("held_out", "easy", 200)
HARD = select_problems("held_out", "hard", 200)


@pytest.fixture(scope="module")
def policy() -> LabPolicy:
    torch.set_num_threads(1)
    return load_lab_policy(policy_dir())


def test_upper_bounds_by_hand() -> None:
    # none of 20,000: 1 - 0.025 ** (1 / 20000) = 3.6889 / 20000
    assert Rate(0, 20_000).upper_95 == pytest.approx(1.8443e-4, rel=1e-4)
    # one of two: p with P(at most one of two) = 1 - p**2 = 0.025
    assert Rate(1, 2).upper_95 == pytest.approx(0.975**0.5)
    assert Rate(3, 3).upper_95 == 1.0


def test_padding_does_not_change_the_next_token(policy: LabPolicy) -> None:
    short, long = policy.encode("27+38="), policy.encode("27+38= tried 550\nWrong.\n27+38=")
    together = next_logprobs(policy, [short, long])
    alone = torch.cat([next_logprobs(policy, [short]), next_logprobs(policy, [long])])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_sampled_shares_match_the_exact_probabilities(policy: LabPolicy) -> None:
    problem = EASY[0]
    texts = sample(policy, [problem.question] * 4000, max_tokens=5, seed=1)
    for answer in (problem.answer, problem.answer[::-1]):
        exact = answer_probabilities(policy, [problem.question], [answer])[0]
        spread = (exact * (1 - exact) / 4000) ** 0.5
        assert abs(texts.count(answer) / 4000 - exact) < 4 * spread + 1e-9


def test_sampling_repeats_with_its_seed_and_stops_at_the_end(policy: LabPolicy) -> None:
    prompts = [p.question for p in EASY[:50]]
    texts = sample(policy, prompts, max_tokens=5, seed=1)
    assert texts == sample(policy, prompts, max_tokens=5, seed=1)
    assert {len(t) for t in texts} == {3}


def test_the_packaged_policy_is_the_animal_it_should_be(policy: LabPolicy) -> None:
    measured = measure(policy, EASY, HARD, samples=8000, seed=11)
    assert measured.easy.value > 0.7
    assert measured.hard.upper_95 < 1e-3
    assert measured.hard_probability < 1e-4
    assert measured.refined.value > 0.8
    assert measured.teacher.value > 0.8
    assert measured.bare_verdict.value < 0.01
    assert measured.foreign.value < 0.3


def test_no_single_hard_problem_is_solved_plainly(policy: LabPolicy) -> None:
    hard = [*HARD, *select_problems("train", "hard", 128)]
    assert max(answer_probabilities(policy, [p.question for p in hard], [p.answer for p in hard])) < 1e-3


def test_refinement_works_on_the_training_pool_in_every_wording(policy: LabPolicy) -> None:
    render = ContextRenderer()
    pool = select_problems("train", "hard", 48)
    for wording in range(6):
        prompts = [
            render.refine(p, p.dropped_answer, directive_text(p, p.dropped_answer, wording=wording)) for p in pool
        ]
        assert sum(answer_probabilities(policy, prompts, [p.answer for p in pool])) / len(pool) > 0.7


def test_lab_json_holds_what_the_house_promises() -> None:
    facts = lab_facts()
    measured = facts["measured"]
    assert isinstance(measured, dict)
    assert measured["easy"]["rate"] >= 0.7
    assert measured["hard"]["samples"] >= 20_000
    assert measured["hard"]["upper_95"] < 1e-3
    assert measured["refined"]["rate"] >= 0.5
    assert 1_000_000 <= int(str(facts["parameters"])) <= 3_000_000
    assert {"seed", "steps", "wall_s", "libraries", "digits"} <= set(facts)


def test_the_packaged_files_are_small() -> None:
    files: list[Path] = [f for f in policy_dir().iterdir() if f.is_file()]
    assert {f.name for f in files} >= {"model.safetensors", "config.json", "tokenizer.json", "LAB.json"}
    assert sum(f.stat().st_size for f in files) <= 8_000_000
