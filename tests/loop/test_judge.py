"""The control arm, what counts as a rescue, and the pairs that a critic's scores are judged by."""

from __future__ import annotations

import dataclasses

import pytest

from critique_rl.config.run import RolloutConfig
from critique_rl.loop.judge import BARE_VERDICT, calibrated, rescues, sample_controls, score_pairs, without_scores
from critique_rl.types import CriticOutcome, Evaluative, Group, Refinement
from tests.loop.fakes import TEMPLATE, CharPolicy, ExactReward, critique, decode, engine, group, task


def criticised(name: str, *texts: str, outcome: CriticOutcome = CriticOutcome.OK, said: str = "Add first.") -> Group:
    wrong = group(task(name), *texts)
    return dataclasses.replace(
        wrong, critiques={r.id: critique(r.id, said, outcome) for r in wrong.rollouts if r.text != "42"}
    )


def refined(of: Group, *texts: str) -> Group:
    second = group(of.task, *texts)
    made = tuple(
        Refinement(attempt_id=f"{of.task.id}/{i}", critique=critique("x"), rollout=r, score=s)
        for i, (r, s) in enumerate(zip(second.rollouts, second.scores, strict=True))
    )
    return dataclasses.replace(of, refinements=made)


def controls(*groups: Group, wanted: int = 99, texts: tuple[str, ...] = ("42", "7")) -> list[Group]:
    return sample_controls(
        groups,
        wanted=wanted,
        policy=CharPolicy(),
        engine=engine(*texts),
        reward=ExactReward(),
        template=TEMPLATE,
        rollout=RolloutConfig(max_tokens=4),
        step=3,
        seed=1,
    )


def test_a_control_is_told_that_it_was_wrong_and_nothing_else() -> None:
    (judged,) = controls(criticised("a", "41", "42"))
    (control,) = judged.controls
    assert decode(control.rollout.prompt_ids) == f"user: 6*7= {BARE_VERDICT}"
    assert control.rollout.id == "3/a/control-0" and control.attempt_id == "a/0"
    assert control.score.correct and control.rejected == "control"
    assert judged.refinements == ()  # it is never trained on


def test_one_control_per_answered_attempt_as_far_as_wanted_and_equal_ones_once() -> None:
    judged = controls(criticised("a", "1", "2", "1"), criticised("b", "3", "4"), wanted=3)
    assert [[c.attempt_id for c in g.controls] for g in judged] == [["a/0", "a/1"], ["b/0"]]
    assert [len(g.controls) for g in controls(criticised("a", "1"), wanted=0)] == [0]


@pytest.mark.parametrize(
    ("outcome", "said", "counts"),
    [
        (CriticOutcome.OK, "", True),  # it answered and had nothing to say
        (CriticOutcome.ABSTAINED, "", True),
        (CriticOutcome.MALFORMED, "", True),
        (CriticOutcome.REFUSED, "", True),
        (CriticOutcome.TIMED_OUT, "", False),
        (CriticOutcome.RATE_LIMITED, "", False),
        (CriticOutcome.OVER_BUDGET, "", False),
        (CriticOutcome.FAILED, "", False),
    ],
)
def test_an_answer_without_a_directive_rescued_nothing_and_a_lost_call_says_nothing(
    outcome: CriticOutcome, said: str, counts: bool
) -> None:
    asked = criticised("a", "1", "2", outcome=outcome, said=said)
    assert rescues([asked]) == [False, False] * counts
    assert len(controls(asked)[0].controls) == 2 * counts


def test_rescues_by_hand() -> None:
    served = refined(criticised("a", "1", "2"), "42", "41")  # one of two verified
    mute = criticised("b", "3", outcome=CriticOutcome.MALFORMED)
    late = dataclasses.replace(refined(criticised("c", "4"), "42"), late=True)
    assert rescues([served, mute, late, group(task("d"), "5")]) == [True, False, False, True]


def test_equal_attempts_are_one_trial_whose_first_second_attempt_counts() -> None:
    twins = refined(criticised("a", "1", "1", "2"), "41", "42", "42")
    assert rescues([twins]) == [False, True]  # "1" by its first second attempt, "2" by its own
    # an attempt with a directive that was not refined, for want of room, is no evidence
    assert rescues([refined(criticised("b", "1", "2"), "42")]) == [True]


def test_score_pairs_are_of_scored_probes_only() -> None:
    right = dataclasses.replace(
        critique("a/9"), evaluative=(Evaluative(criterion="x", value=1.0), Evaluative(criterion="y", value=0.5))
    )
    mute = critique("a/8", outcome=CriticOutcome.TIMED_OUT)
    assert score_pairs([(right, True), (critique("a/1"), False), (mute, True)]) == ([0.75, 0.25], [True, False])


def test_scores_can_be_taken_out_and_nothing_else() -> None:
    asked = criticised("a", "1")
    (bare,) = without_scores([asked])
    assert bare.critiques["a/0"].evaluative == ()
    assert bare.critiques["a/0"].directives == asked.critiques["a/0"].directives


def test_a_calibrated_score_is_one_probability_and_a_missing_one_stays_missing() -> None:
    asked = criticised("a", "1")
    mute = criticised("b", "2", outcome=CriticOutcome.TIMED_OUT)
    mapped, left = calibrated([asked, mute], lambda score: score / 2)
    assert [(e.criterion, e.value) for e in mapped.critiques["a/0"].evaluative] == [("calibrated", 0.125)]
    assert left.critiques == mute.critiques
