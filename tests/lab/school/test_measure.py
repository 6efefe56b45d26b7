from __future__ import annotations

import pytest
import torch

from critique_rl.lab.measure import LabPolicy, answer_probabilities, load_lab_policy, next_logprobs
from critique_rl.lab.packaged import lab_facts
from critique_rl.lab.school.chains import select_chains
from critique_rl.lab.school.measure import (
    SchoolMeasurement,
    chain_success,
    measure_school,
    step_accuracy,
    text_probabilities,
)
from critique_rl.lab.school.packaged import school_policy_dir
from critique_rl.lab.school.problems import select_problems


@pytest.fixture(scope="module")
def policy() -> LabPolicy:
    torch.set_num_threads(1)
    return load_lab_policy(school_policy_dir())


@pytest.fixture(scope="module")
def measured(policy: LabPolicy) -> SchoolMeasurement:
    return measure_school(policy, problems=20)


def test_probabilities_are_those_of_the_token_by_token_measure(policy: LabPolicy) -> None:
    chosen = select_problems("held_out", "sort", 5, chain_length=5)
    prompts, answers = [p.question for p in chosen], [p.answer for p in chosen]
    assert text_probabilities(policy, prompts, answers) == pytest.approx(
        answer_probabilities(policy, prompts, answers), rel=1e-4
    )
    # prompts of several lengths in one call change nothing
    mixed = text_probabilities(policy, [*prompts, "c 3-4-2=step by step:"], [*answers, " 3-4=9;"])
    assert mixed[:5] == pytest.approx(text_probabilities(policy, prompts, answers), rel=1e-4)


def test_an_unended_text_leaves_the_end_out(policy: LabPolicy) -> None:
    ended = text_probabilities(policy, ["r a41 c72 b25 f90 c="], ["72"])[0]
    begun = text_probabilities(policy, ["r a41 c72 b25 f90 c="], ["72"], ended=False)[0]
    end = float(next_logprobs(policy, [policy.encode("r a41 c72 b25 f90 c=72")])[0, policy.eos_id].exp())
    assert ended == pytest.approx(begun * end, rel=1e-4)


def test_success_on_chains_is_the_sum_over_the_plans_that_can_be_right(policy: LabPolicy) -> None:
    chains = select_chains("held_out", 3, 4)
    questions = [c.question for c in chains]
    texts = [c.solution for c in chains], [c.solution.replace("step by step", "from the left") for c in chains]
    expected = sum(sum(text_probabilities(policy, questions, t)) for t in texts) / 4
    assert chain_success(policy, questions, chains) == pytest.approx(expected)


def test_one_step_is_asked_with_the_steps_before_it(policy: LabPolicy) -> None:
    (chain,) = select_chains("held_out", 3, 1)
    first, second, third = chain.steps("step by step")
    begun = f"{chain.question}step by step: {first.asked}="
    prompts = [
        begun,
        f"{begun}{first.result}; {second.asked}=",
        f"{begun}{first.result}; {second.asked}={second.result}; {third.asked}=",
    ]
    each = text_probabilities(policy, prompts, [str(s.result) for s in (first, second, third)], ended=False)
    assert step_accuracy(policy, [chain]) == pytest.approx(sum(each) / 3, rel=1e-4)


def test_the_packaged_policy_has_the_habits_that_it_was_taught(measured: SchoolMeasurement) -> None:
    assert measured.success["chain"] < 0.005
    assert measured.step_accuracy == pytest.approx(0.55, abs=0.15)
    assert measured.plans == pytest.approx(
        {"step by step": 0.015, "from the left": 0.010, "from the right": 0.395, "at once": 0.58}, abs=0.06
    )
    assert measured.format_shares == pytest.approx({"equals": 0.28, "angle": 0.62, "word": 0.10}, abs=0.05)
    assert measured.format_accuracy == pytest.approx({"equals": 0.35, "angle": 0.20, "word": 0.10}, abs=0.10)
    assert 0.2 <= measured.success["sort"] <= 0.5
    assert 0.08 <= measured.success["recall"] <= 0.5  # the hardest to teach: mostly it names any of the numbers
    assert 0.03 <= measured.success["write"] <= 0.25


def test_the_packaged_policy_follows_advice_and_nothing_else(measured: SchoolMeasurement) -> None:
    assert measured.refined > 0.1
    assert measured.taught > 0.1
    assert measured.bare_verdict < 0.02
    assert measured.misled < 0.03


def test_the_packaged_facts_are_those_of_the_weights(policy: LabPolicy) -> None:
    facts = lab_facts(school_policy_dir())
    assert facts["world"] == "school"
    assert facts["parameters"] == sum(p.numel() for p in policy.model.parameters())
    problems = facts["problems_per_kind"]
    assert isinstance(problems, int)
    stated = facts["measured"]
    assert isinstance(stated, dict)
    found = measure_school(policy, problems=problems).to_dict()
    for name in ("success", "format_shares", "format_accuracy", "plans"):
        assert found[name] == pytest.approx(stated[name], rel=1e-3, abs=1e-6)


def test_the_packaged_files_are_small_and_readable_by_all() -> None:
    files = [f for f in school_policy_dir().iterdir() if f.is_file()]
    assert sum(f.stat().st_size for f in files) < 4_000_000
    assert all(f.stat().st_mode & 0o044 for f in files)
