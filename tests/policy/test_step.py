"""What one step does: hand numbers, which way each channel pushes, and when it does nothing."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from critique_rl.ops.divergences import DivergenceKind
from critique_rl.policy.hf import HFPolicy
from critique_rl.policy.step import Denominators, count_denominators
from critique_rl.types import TeacherTargets, TokenIds
from tests.policy.bigram import Bigram, bigram_step
from tests.tiny import V, gradient, random_targets, sample, step_config, tiny_policy, weights

PROMPT, ATTEMPT, CONTEXT = (4, 5, 6), (7, 8, 9, 10), (11, 12, 13, 4, 5, 6)


def targets(policy: HFPolicy, context: TokenIds, completion: TokenIds, *, k: int = V) -> TeacherTargets:
    (found,) = policy.topk_logprobs([context], [completion], k=k, who="teacher")
    return found


def test_worked_example_of_both_channels_on_one_token() -> None:
    # S = [.50, .25, .15, .07, .03], sampled token 0, A = -.5, ratio 1; teacher [.10, .60, ...] at the student's top 2.
    # PG: .5; top-2 + tail reverse KL: .540271; weight .1 -> .5540271
    model = Bigram(5, {4: [0.50, 0.25, 0.15, 0.07, 0.03]})
    teacher = TeacherTargets(
        ids_TK=np.array([[0, 1]]),
        logprobs_TK=np.log([[0.10, 0.60]]),
        sampled_logprobs_T=np.log([0.10]),
        mask_T=np.ones(1),
        context_ids=(3, 4),
    )
    both = sample((4,), (0,), advantage=-0.5, pg=1.0, distill=1.0, behaviour=[math.log(0.5)], teacher=teacher)
    config = step_config(loss={"normalizer": "tokens"}, distillation={"divergence": "reverse", "weight": 0.1})
    report = bigram_step(model, config).accumulate([both])
    assert report is not None and model.table_VV.grad is not None
    assert report.pg_loss == pytest.approx(0.5)
    assert report.distill_loss == pytest.approx(0.540271, abs=1e-6)
    assert report.loss == pytest.approx(0.5540271, abs=1e-7)
    expected = [0.303458, -0.160394, -0.085839, -0.040058, -0.017168]
    assert model.table_VV.grad[4].tolist() == pytest.approx(expected, abs=1e-6)
    assert not model.table_VV.grad[:4].any()


def test_seven_failures_and_one_correct_refinement() -> None:
    # Union advantages -1/8 and 7/8; refinement probabilities .9, .1, .01 -> sum of p / (p + .1) = 1.490909
    rows = {0: [0, 0.9, 0.04, 0.03, 0.03], 1: [0.1, 0.2, 0.1, 0.3, 0.3], 2: [0.5, 0.2, 0.19, 0.01, 0.1]}
    model = Bigram(5, {token: [max(p, 1e-9) for p in row] for token, row in rows.items()})
    failed = sample((4,), (4, 4, 4, 4), advantage=-0.125, pg=1.0, behaviour=[math.log(0.2)] * 4)
    refined = sample((0,), (1, 2, 3), advantage=0.875, imitate=1.0)
    report = bigram_step(model, step_config(max_completion_tokens=4)).accumulate([failed] * 7 + [refined])
    assert report is not None and model.table_VV.grad is not None
    assert report.pg_loss == pytest.approx(0.125)  # 28 tokens of .125 over 7 * 4
    assert report.imitate_loss == pytest.approx(-0.875 * 1.490909 / 3, abs=1e-6)
    # d loss / d logit of the refinement's token = -A Psi(p) (1 - p) / 3, Psi(.1) = 1/4
    assert model.table_VV.grad[1, 2].item() == pytest.approx(-0.218750 * 0.9 / 3, abs=1e-6)
    assert model.table_VV.grad[2, 3].item() == pytest.approx(-0.072314 * 0.99 / 3, abs=1e-6)


def test_denominators_count_tokens_not_signals() -> None:
    rng = np.random.default_rng(0)
    plain = [
        sample(PROMPT, ATTEMPT, advantage=0.0, pg=1.0),
        sample(PROMPT, (7, 8), advantage=0.5, pg=1.0, mask=[1, 0]),
        sample(PROMPT, (7, 8, 9), advantage=0.5, imitate=1.0),
        sample(PROMPT, ATTEMPT),
    ]
    constant, tokens = step_config(), step_config(loss={"normalizer": "tokens"}, refinement={"normalizer": "shared"})
    assert count_denominators(plain, constant) == Denominators(2 * 8, 0, 3)
    assert count_denominators(plain, tokens) == Denominators(4 + 1, 0, 5)
    # a teacher that is missing, masked everywhere or not asked for is no token anywhere
    nothing = replace(random_targets(rng, 4, 3), mask_T=np.zeros(4))
    for ineffective in (
        sample(PROMPT, ATTEMPT, distill=1.0),
        sample(PROMPT, ATTEMPT, distill=1.0, teacher=nothing),
        sample(PROMPT, ATTEMPT, distill=0.0, teacher=random_targets(rng, 4, 3)),
        sample(PROMPT, ATTEMPT, distill=1.0, teacher=random_targets(rng, 4, 3), mask=[0, 0, 0, 0]),
    ):
        assert count_denominators([*plain, ineffective], constant) == count_denominators(plain, constant)
    half = replace(random_targets(rng, 4, 3), mask_T=np.array([1.0, 0, 1, 0]))
    distilled = sample(PROMPT, ATTEMPT, advantage=1.0, pg=1.0, distill=1.0, teacher=half)
    assert count_denominators([*plain, distilled], constant) == Denominators(3 * 8, 2, 3)


def test_a_masked_teacher_of_nan_is_as_good_as_none() -> None:
    rng = np.random.default_rng(1)
    good = random_targets(rng, 4, 3)
    broken = replace(good, logprobs_TK=good.logprobs_TK.copy(), mask_T=np.array([1.0, 0, 1, 1]))
    broken.logprobs_TK[1] = np.nan
    policy = tiny_policy()
    partly = sample(PROMPT, ATTEMPT, distill=1.0, teacher=broken)
    by_weight = replace(sample(PROMPT, ATTEMPT, distill=1.0, teacher=good), distill_weight=np.array([1.0, 0, 1, 1]))
    expected = gradient(policy, [by_weight])
    assert bool(torch.isfinite(expected).all()) and expected.norm() > 0
    assert torch.equal(gradient(policy, [partly]), expected)

    everywhere = replace(broken, logprobs_TK=np.full((4, 3), np.nan), mask_T=np.zeros(4))
    bare = sample(PROMPT, ATTEMPT, advantage=0.5, pg=1.0)
    for teacher in (everywhere, None):
        with_nothing = replace(bare, distill_weight=np.ones(4), teacher=teacher)
        assert torch.equal(gradient(policy, [with_nothing]), gradient(policy, [bare]))
        report = policy.train_step.accumulate([with_nothing])
        assert report is not None and report.distill_loss == 0.0 and report.loss == report.pg_loss


def test_a_teacher_equal_to_the_student_teaches_nothing() -> None:
    for kind in ("forward", "reverse", "jsd"):
        policy = tiny_policy(step_config(distillation={"divergence": kind}))
        same = sample(PROMPT, ATTEMPT, distill=1.0, teacher=targets(policy, PROMPT, ATTEMPT, k=5))
        assert gradient(policy, [same]).norm() < 1e-10
        report = policy.train_step.accumulate([same])
        assert report is not None and report.distill_loss == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("advantage", [0.5, -0.5])
@pytest.mark.parametrize("channel", ["pg", "imitate"])
@pytest.mark.parametrize("mode", ["shaped", "awr", "oc_is"])
def test_an_advantage_moves_the_log_prob_its_way(advantage: float, channel: str, mode: str) -> None:
    policy = tiny_policy(step_config(refinement={"ratio_mode": mode}))
    (before,) = policy.logprobs([PROMPT], [(7,)])
    one = sample(PROMPT, (7,), advantage=advantage, **{channel: 1.0}, behaviour=[float(before[0])], guided=[-0.5])
    assert policy.step([one]).applied
    (after,) = policy.logprobs([PROMPT], [(7,)])
    assert (after[0] - before[0]) * advantage > 1e-6


@pytest.mark.parametrize("kind", ["forward", "reverse", "jsd"])
def test_distillation_moves_the_bare_policy_to_its_guided_self(kind: DivergenceKind) -> None:
    policy = tiny_policy(step_config(distillation={"divergence": kind}))
    teacher = targets(policy, CONTEXT, ATTEMPT)

    def kl_to_teacher() -> float:
        (student,) = policy.topk_logprobs([PROMPT], [ATTEMPT], k=V, who="policy", support=[teacher])
        return float((np.exp(teacher.logprobs_TK) * (teacher.logprobs_TK - student.logprobs_TK)).sum())

    before = kl_to_teacher()
    assert before > 0.1
    for _ in range(3):
        assert policy.step([sample(PROMPT, ATTEMPT, distill=1.0, teacher=teacher)]).applied
    assert kl_to_teacher() < before - 1e-3


def test_training_sees_the_bare_prompt_and_the_very_completion_ids() -> None:
    # critique words 20..29 stand in the refine and teacher contexts only
    policy = tiny_policy()
    teacher = targets(policy, (20, 21, 22, *PROMPT), ATTEMPT, k=4)
    seen: list[list[int]] = []
    policy.model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.extend(
            [int(i) for i in row[mask.bool()]]
            for row, mask in zip(kwargs["input_ids"], kwargs["attention_mask"], strict=True)
        ),
        with_kwargs=True,
    )
    policy.step(
        [
            sample(PROMPT, ATTEMPT, advantage=-0.1, pg=1.0, distill=1.0, teacher=teacher),
            sample(PROMPT, (8, 9), advantage=0.9, imitate=1.0),
        ]
    )
    assert sorted(seen) == sorted([[*PROMPT, *ATTEMPT], [*PROMPT, 8, 9]])
    assert not {20, 21, 22} & {token for row in seen for token in row}


def test_nothing_to_learn_is_no_step() -> None:
    policy = tiny_policy(step_config(optimizer={"weight_decay": 0.1}))
    start = weights(policy)
    idle = [sample(PROMPT, ATTEMPT, pg=1.0), sample(PROMPT, ATTEMPT, advantage=0.5, pg=1.0, mask=[0, 0, 0, 0])]
    for batch in ([], idle):
        report = policy.step(batch)
        assert (report.applied, report.reason) == (False, "no sample carries a gradient")
    assert policy.version == 0
    assert torch.equal(weights(policy), start)  # not even decayed


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(broken: float) -> None:
    policy = tiny_policy()
    good = sample(PROMPT, ATTEMPT, advantage=0.5, pg=1.0)
    assert policy.step([good]).applied
    start, moments = weights(policy), copy.deepcopy(policy.train_step.optimizer.state_dict())
    overflow = next(policy.model.parameters()).register_hook(lambda g: g.index_fill(0, torch.tensor([5]), broken))
    report = policy.step([good])
    overflow.remove()
    assert not report.applied
    assert report.reason.endswith(f"the gradient norm {broken}")
    assert policy.version == 1
    assert torch.equal(weights(policy), start)
    kept = policy.train_step.optimizer.state_dict()
    for i, state in moments["state"].items():
        assert all(torch.equal(state[name], kept["state"][i][name]) for name in ("step", "exp_avg", "exp_avg_sq"))
    assert all(p.grad is None for p in policy.model.parameters())
    assert policy.step([good]).applied


def test_warm_up_is_linear_in_steps_really_taken() -> None:
    policy = tiny_policy(step_config(optimizer={"learning_rate": 1e-3, "warmup_steps": 4}))
    rates: list[float] = []
    for n in range(6):
        policy.step([sample(PROMPT, ATTEMPT, advantage=0.5 if n != 2 else 0.0, pg=1.0)])
        rates.append(policy.train_step.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([2.5e-4, 5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3])


def test_a_report_says_what_was_done() -> None:
    policy = tiny_policy(step_config(optimizer={"max_grad_norm": 1e-6}))
    (own,) = policy.logprobs([PROMPT], [ATTEMPT])
    # ratios 1, e^-.5, 1, e^.5: two of four lie outside 1 +- .2
    behaviour = (own + np.array([0.0, 0.5, 0.0, -0.5])).tolist()
    row = sample(PROMPT, ATTEMPT, advantage=0.5, pg=1.0, behaviour=behaviour)
    norm = gradient(policy, [row]).norm().item()
    report = policy.step([row, sample(PROMPT, ATTEMPT, pg=1.0)])
    assert report.grad_norm == pytest.approx(norm / 2)  # before clipping; the idle row is counted
    assert (report.trained_tokens, report.applied, report.reason) == (4, True, "")
    assert report.diagnostics["ratio/clip_fraction"] == 0.5
    assert report.diagnostics["ratio/mean"] == pytest.approx((2 + math.exp(-0.5) + math.exp(0.5)) / 4)
    assert (report.diagnostics["tokens/distill"], report.diagnostics["tokens/imitate"]) == (0.0, 0.0)


def test_the_report_has_the_mean_entropy_of_policy_gradient_tokens() -> None:
    # after 4: 1.269060 nats; after 3: log 5 = 1.609438; the masked token and the refinement do not count
    model = Bigram(5, {4: [0.50, 0.25, 0.15, 0.07, 0.03]})
    row = sample((4,), (3, 0, 1), advantage=0.5, pg=1.0, mask=[1, 1, 0])
    refined = sample((4,), (4,), advantage=0.5, imitate=1.0)
    report = bigram_step(model, step_config()).accumulate([row, refined])
    assert report is not None
    assert report.diagnostics["policy/entropy"] == pytest.approx((1.269060 + 1.609438) / 2, abs=1e-6)
    report = bigram_step(model, step_config()).accumulate([refined])
    assert report is not None and "policy/entropy" not in report.diagnostics


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    policy = tiny_policy()
    row = sample(PROMPT, ATTEMPT, advantage=0.5, pg=1.0)
    start = weights(policy)
    report = policy.step([replace(row, behaviour_logprobs=np.full(len(ATTEMPT), np.nan))])
    assert not report.applied
    assert report.reason.startswith("the loss is nan")
    assert torch.equal(weights(policy), start)
