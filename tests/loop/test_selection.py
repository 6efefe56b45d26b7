"""What speaks against a refinement, which of the rest are taken, and what weight they get."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from critique_rl.algorithms.critique_grpo import CritiqueGrpo
from critique_rl.config.algorithm import CritiqueGrpoConfig
from critique_rl.config.refinement import RefinementConfig
from critique_rl.errors import ConfigError
from critique_rl.loop.selection import (
    check_second_verifier,
    fault,
    select,
    selection_metrics,
    weighted_by_reliance,
    within_step_share,
)
from critique_rl.rewards.by_name import VerifierRouter
from critique_rl.rewards.exact import ExactReward as Exact
from critique_rl.types import Group, Refinement, Rollout, Score, Task
from tests.loop.fakes import END, critique, encode, group, task


class Says:
    """A reward that finds everything right, or everything wrong."""

    def __init__(self, reward: float) -> None:
        self.reward = reward
        self.asked: list[str] = []

    def score(self, task: Task, text: str) -> Score:
        self.asked.append(text)
        return Score(reward=self.reward, extracted="42")


def refinement(
    text: str,
    *,
    bare: float = -1.0,
    guided: float = -1.0,
    name: str = "r",
    rung: str = "critique",
    rejected: str = "",
    correct: bool = True,
) -> Refinement:
    ids = (*encode(text), END)
    rollout = Rollout(
        id=name,
        task_id="t",
        prompt_ids=(1,),
        completion_ids=ids,
        behaviour_logprobs=(guided,) * len(ids),
        text=text,
        finished=True,
        policy_version=0,
    )
    return Refinement(
        attempt_id="t/0",
        critique=critique("t/0"),
        rollout=rollout,
        score=Score(reward=float(correct), extracted="42"),
        bare_logprobs=(bare,) * len(ids),
        rung=rung,
        rejected=rejected,
    )


def judged(text: str, *, told: str = "Add the ones.", reward: Says | None = None, **options: Any) -> str:
    config = RefinementConfig.model_validate(options)
    return fault(refinement(text), task(), config, told=told, reward=reward or Says(1.0))


@pytest.mark.parametrize(
    ("text", "told", "options", "reason"),
    [
        ("So 42", "Add the ones.", {}, ""),
        ("So 42", "The answer is 42.", {}, "the critique states the answer"),
        ("So 42", "It is forty-two.", {}, "the critique states the answer"),
        ("So 42", "The answer is 42.", {"refuse_leaks": False}, ""),
        ("My previous answer was wrong, so 42", "Add.", {}, "speaks of the feedback"),
        ("My previous answer was wrong, so 42", "Add.", {"refuse_meta_talk": False}, ""),
        ("I attempt to multiply 6 and 7: 42", "Add.", {}, ""),
    ],
)
def test_leaks_and_talk_of_the_feedback(text: str, told: str, options: dict[str, Any], reason: str) -> None:
    assert judged(text, told=told, **options) == reason


def test_an_answer_that_goes_on_from_a_prefix_may_hold_it() -> None:
    opening = "first put six sevens into one row and then add"
    config = RefinementConfig()
    whole = f"{opening} 42"
    assert fault(refinement(whole), task(), config, told=opening, reward=Says(1.0)) == "copies the critique"
    under = refinement(whole, rung="prefix_50")
    assert fault(under, task(), config, told=opening, reward=Says(1.0)) == ""


def test_words_before_the_answer() -> None:
    # three words stand before the last "42"
    assert judged("six times seven 42", min_derivation_words=3) == ""
    assert judged("six times seven 42", min_derivation_words=4) == "too little before the answer"
    assert judged("42 since six times seven 42", min_derivation_words=5) == ""
    assert judged("42", min_derivation_words=1) == "too little before the answer"


def test_an_answer_that_stands_nowhere_counts_all_words() -> None:
    bare = replace(refinement("forty two"), score=Score(reward=1.0))
    config = RefinementConfig(min_derivation_words=2)
    assert fault(bare, task(), config, told="", reward=Says(1.0)) == ""


def test_the_second_verifier_is_asked_under_its_own_name_and_only_when_needed() -> None:
    class ByName(Says):
        def score(self, task: Task, text: str) -> Score:
            assert task.verifier == "strict"
            return super().score(task, text)

    assert judged("42", reward=ByName(1.0), second_verifier="strict") == ""
    assert judged("42", reward=ByName(0.0), second_verifier="strict") == "the second verifier disagrees"
    nobody = ByName(1.0)
    wrong = refinement("43", correct=False)
    config = RefinementConfig(second_verifier="strict")
    assert fault(wrong, task(), config, told="", reward=nobody) == "not verified"
    assert nobody.asked == []


def test_a_second_verifier_that_is_not_there_is_told_at_the_start() -> None:
    class Tasks:
        def batch(self, step: int, size: int, *, seed: int) -> list[Task]:
            return [task()]

        def held_out(self) -> list[Task]:
            return []

    router = VerifierRouter({"exact": Exact()})
    with pytest.raises(ConfigError, match=r"refinement\.second_verifier = 'math': task 't' names verifier 'math'"):
        check_second_verifier(RefinementConfig(second_verifier="math"), Tasks(), reward=router, seed=0)
    check_second_verifier(RefinementConfig(second_verifier="exact"), Tasks(), reward=router, seed=0)
    check_second_verifier(RefinementConfig(), Tasks(), reward=VerifierRouter({}), seed=0)


@pytest.mark.parametrize(
    ("rollouts", "options", "kept"),
    [
        (8, {"max_injected": 3}, 1),  # an eighth of 8
        (16, {"max_injected": 3}, 2),
        (15, {"max_injected": 3}, 1),
        (2, {"max_injected": 3}, 1),  # one is always allowed
        (16, {"max_injected": 1}, 1),
        (4, {"max_injected": 3, "max_group_share": 1.0}, 3),
        (30, {"max_injected": 5, "max_group_share": 0.1}, 3),  # 0.1 * 30 in floating point
    ],
)
def test_at_most_a_share_of_the_group(rollouts: int, options: dict[str, object], kept: int) -> None:
    of = group(task(), *(str(n) for n in range(rollouts)))
    members = [refinement(f"42 {n}", bare=-1.0 - n) for n in range(5)]
    chosen = select(of, members, RefinementConfig.model_validate(options))
    assert [not r.rejected for r in chosen] == [True] * kept + [False] * (5 - kept)
    assert {r.rejected for r in chosen[kept:]} == {"another refinement was closer to the policy"}


def stepful(*bare: float) -> list[Group]:
    return [
        replace(group(task(f"g{n}"), "1", "2"), refinements=(refinement("42", bare=b, name=f"r{n}"),))
        for n, b in enumerate(bare)
    ]


def taken(groups: list[Group]) -> list[str]:
    return [r.rejected for g in groups for r in g.refinements]


def test_the_step_keeps_its_likeliest_refinements() -> None:
    full = "the step's share of refinements is taken"
    groups = stepful(-2.0, -0.5, -3.0, -1.0)  # of 8 rollouts, a quarter is 2
    assert taken(within_step_share(groups, RefinementConfig(max_batch_share=0.25))) == [full, "", full, ""]
    assert taken(within_step_share(groups, RefinementConfig(max_batch_share=0.01))) == [full, "", full, full]
    assert within_step_share(groups, RefinementConfig()) == groups
    assert within_step_share([], RefinementConfig(max_batch_share=0.5)) == []


def test_a_refused_refinement_takes_no_place_in_the_step() -> None:
    groups = stepful(-0.5, -1.0)
    first = replace(groups[0], refinements=(replace(groups[0].refinements[0], rejected="duplicate"),))
    assert taken(within_step_share([first, groups[1]], RefinementConfig(max_batch_share=0.25))) == ["duplicate", ""]


@pytest.mark.parametrize(
    ("bare", "guided", "weight"),
    [(-1.15, -1.0, 0.606531), (-1.6, -1.0, 0.135335), (-0.5, -1.0, 1.0), (-1.0, -1.0, 1.0)],
)
def test_the_weight_by_reliance_is_that_of_the_paper(bare: float, guided: float, weight: float) -> None:
    # d = -0.15: exp(-0.15 / 0.3); d = -0.6: exp(-2); d > 0: 1
    config = RefinementConfig(reliance_temperature=0.3)
    of = replace(group(task(), "1", "2"), refinements=(refinement("42", bare=bare, guided=guided, name="r"),))
    plain = CritiqueGrpo(CritiqueGrpoConfig()).assemble([of])
    found = weighted_by_reliance(plain, [of], config)
    assert [s.rollout_id for s in found] == ["t/0", "t/1", "r"]
    assert found[2].imitate_weight == pytest.approx(np.full(3, weight), abs=1e-6)
    assert found[0] is plain[0] and found[1] is plain[1]
    assert np.array_equal(found[2].advantages, plain[2].advantages)
    assert weighted_by_reliance(plain, [of], RefinementConfig()) == plain


def test_refusals_rungs_and_reliance_are_counted() -> None:
    members = (
        refinement("42", bare=-2.0, rung="verdict"),
        refinement("42", bare=-4.0, guided=-2.0, rung="critique", rejected="duplicate"),
        replace(refinement("43", rung="critique", rejected="not verified"), bare_logprobs=()),
    )
    assert selection_metrics([replace(group(task(), "1"), refinements=members)]) == {
        "refinement/refused/duplicate": 1.0,
        "refinement/refused/not_verified": 1.0,
        "refinement/rung/critique/sampled": 2.0,
        "refinement/rung/critique/injected": 0.0,
        "refinement/rung/verdict/sampled": 1.0,
        "refinement/rung/verdict/injected": 1.0,
        "refinement/reliance": -1.5,  # (-1 - 2) / 2
    }
    assert selection_metrics([group(task(), "1")]) == {}
