"""What teacher and policy are asked for each support, and what comes of both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from critique_rl.config.algorithm import DistillationConfig
from critique_rl.loop.readings import Asked, Pair, Reading, read
from critique_rl.loop.targets import TeacherTally, teach
from critique_rl.types import TeacherTargets
from tests.loop.fakes import TEMPLATE, critique, encode, group, task
from tests.loop.opinions import Opinions, S, T

ASKED = Asked(Pair((9, 9), (0, 1)), (8,), "t/0")


def reading(policy: Opinions | None = None, **options: object) -> Reading:
    config = DistillationConfig.model_validate({"divergence": "topk_surrogate", "k": 2} | options)
    return read([ASKED], policy=policy or Opinions(), config=config)[0]


def test_what_is_asked_for_each_support() -> None:
    passes = {
        "student": [("policy", False), ("teacher", True)],
        "teacher": [("teacher", False), ("policy", True)],
        "overlap": [("policy", False), ("teacher", False)],
    }
    for support, wanted in passes.items():
        policy = Opinions()
        reading(policy, support=support)
        assert [(who, given) for who, _, _, given in policy.topk_calls] == wanted
    # a divergence at the teacher's ids asks the policy nothing, and keeps nothing that it said
    for support, wanted in {"teacher": passes["teacher"][:1], "student": passes["student"]}.items():
        policy = Opinions()
        found = reading(policy, divergence="forward", support=support)
        assert [(who, given) for who, _, _, given in policy.topk_calls] == wanted
        assert found.targets.student_logprobs_TK is None


def test_what_the_policy_said_stands_beside_the_teacher_at_the_same_ids() -> None:
    for support, ids in {"student": [0, 1], "teacher": [1, 3]}.items():
        targets = reading(support=support).targets
        assert targets.ids_TK.tolist() == [ids] * 2
        assert np.exp(targets.logprobs_TK) == pytest.approx(np.tile(np.array(T)[ids], (2, 1)))
        assert targets.student_logprobs_TK is not None
        assert np.exp(targets.student_logprobs_TK) == pytest.approx(np.tile(np.array(S)[ids], (2, 1)))
        assert targets.context_ids == (9, 9) and targets.mask_T.tolist() == [1, 1]


def test_a_centred_gap_reads_what_the_policy_said() -> None:
    for support in ("student", "teacher"):
        found = reading(divergence="forward", join="advantages", centred_gap=True, support=support)
        assert found.targets.student_logprobs_TK is not None
        assert found.targets.sampled_logprobs_T == pytest.approx(np.log([0.10, 0.60]))


def test_a_shared_support_has_the_ids_that_both_top_k_have() -> None:
    # top two of S are 0 and 1, of T 1 and 3: id 1 alone
    targets = reading(support="overlap").targets
    assert targets.student_logprobs_TK is not None
    assert np.exp(targets.logprobs_TK).tolist() == [[0.0, pytest.approx(0.60)]] * 2
    assert np.exp(targets.student_logprobs_TK).tolist() == [[0.0, pytest.approx(0.25)]] * 2
    # top three: 0, 1, 2 and 1, 3, 0
    assert np.exp(reading(support="overlap", k=3).targets.logprobs_TK[0]) == pytest.approx([0.1, 0.6, 0.0])


def test_a_token_that_shares_no_id_or_that_one_side_cannot_read_is_unusable() -> None:
    assert reading(support="overlap", k=1).targets.mask_T.tolist() == [0, 0]  # 0 and 1
    for support in ("student", "teacher", "overlap"):
        found = reading(Opinions(blind={"policy": 0, "teacher": 1}), support=support)
        assert found.targets.mask_T.tolist() == [0, 0]
        assert reading(Opinions(blind={"policy": 0}), support=support).targets.mask_T.tolist() == [0, 1]


def test_a_shared_support_is_checked_against_the_completion_before_ids_are_left_out() -> None:
    class Elsewhere(Opinions):
        def topk_logprobs(self, *arguments: object, **options: object) -> list[TeacherTargets]:  # pyright: ignore
            found = super().topk_logprobs(*arguments, **options)  # pyright: ignore[reportArgumentType]
            return [replace(t, sampled_logprobs_T=t.sampled_logprobs_T - 1) for t in found]

    with pytest.raises(AssertionError, match=r"rollout 't/0' do not fit its tokens: token 1 .* two log-probs, 1 nats"):
        reading(Elsewhere(), support="overlap")


def test_an_empty_completion_has_no_targets_to_share() -> None:
    config = DistillationConfig(divergence="topk_surrogate", support="overlap", k=2)
    (found,) = read([ASKED._replace(pair=Pair((9,), ()))], policy=Opinions(), config=config)
    assert found.targets.logprobs_TK.shape == (0, 2)


def test_figures_of_a_shared_support() -> None:
    of = group(task(), "41")
    of = replace(of, rollouts=(replace(of.rollouts[0], completion_ids=(0, 1)),), critiques={"t/0": critique("t/0")})
    config = DistillationConfig(divergence="topk_surrogate", support="overlap", k=2)
    tally = TeacherTally()
    (found,) = teach([of], policy=Opinions(), template=TEMPLATE, config=config, tally=tally)
    assert found.targets["t/0"].context_ids == encode("user: 6*7= Add the ones first.")
    figures = tally.figures()
    # one id of two is shared; bins S (.25, .75), T (.6, .4): min .25 + .4
    assert figures["distill/shared_ids"] == 0.5
    assert figures["distill/teacher_mass"] == pytest.approx(0.60)
    assert figures["distill/student_mass"] == pytest.approx(0.25)
    assert figures["distill/overlap"] == pytest.approx(0.65)
