"""The clipped surrogate through the whole step: against the same loss written out, over several updates, and its split
into micro-batches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from critique_rl.config.algorithm import DistillationConfig
from critique_rl.errors import ConfigError
from critique_rl.loop.readings import Asked, Pair, read
from critique_rl.policy.hf import HFPolicy
from critique_rl.policy.step import StepConfig, count_denominators
from critique_rl.types import Array, TeacherTargets, TrainSample
from tests.tiny import gradient, sample, step_config, tiny_policy

PROMPT, CONTEXT, COMPLETION = (4, 5, 6), (4, 5, 20, 21, 6), (7, 8, 9, 2)
ONE = {"divergence": "topk_surrogate", "support": "student", "k": 4, "teacher": "live"}


def config(**distillation: object) -> StepConfig:
    return step_config(distillation=ONE | distillation)


def rows(policy: HFPolicy, options: DistillationConfig, *completions: tuple[int, ...]) -> list[TrainSample]:
    asked = [Asked(Pair(CONTEXT, completion), PROMPT, "r") for completion in completions]
    found = read(asked, policy=policy, config=options)
    return [
        sample(PROMPT, one.pair.completion, distill=1.0, teacher=reading.targets)
        for one, reading in zip(asked, found, strict=True)
    ]


def probs(policy: HFPolicy, prompt: tuple[int, ...]) -> torch.Tensor:
    logits = policy.model(input_ids=torch.tensor([[*prompt, *COMPLETION]])).logits
    return logits[0, len(prompt) - 1 : -1].softmax(dim=-1)


def written_out(policy: HFPolicy, teacher: TeacherTargets, was: Array, theirs: Array, clip: float) -> torch.Tensor:
    """The mean over usable tokens of the sum over their ids; `was` and `theirs` are whole distributions."""
    now, kept = probs(policy, PROMPT), [t for t in range(4) if teacher.mask_T[t]]
    total = torch.zeros((), dtype=torch.float64)
    for t in kept:
        ids = [int(v) for v, at in zip(teacher.ids_TK[t], teacher.logprobs_TK[t], strict=True) if at > -np.inf]
        mass = sum(was[t][v] for v in ids)
        for v in ids:
            advantage = was[t][v] / mass * float(np.clip(np.log(theirs[t][v] / was[t][v]), -clip, clip))
            ratio = now[t][v] / was[t][v]
            cut = -advantage * min(max(ratio.item(), 0.8), 1.28)
            total = total + (-advantage * ratio if -advantage * ratio.item() >= cut else ratio.new_tensor(cut))
    return total / len(kept)


@pytest.mark.parametrize("support", ["student", "teacher", "overlap"])
@pytest.mark.parametrize("clip", [None, 2.0])
def test_it_is_the_loss_written_out_before_and_after_an_update(support: str, clip: float | None) -> None:
    bound = {} if clip is None else {"gap_clip": clip}
    setup = config(support=support, k=12 if support == "overlap" else 4, **bound)
    policy = tiny_policy(setup)
    batch = rows(policy, setup.distillation, COMPLETION)
    teacher = batch[0].teacher
    assert teacher is not None and teacher.mask_T.sum() >= 3
    with torch.no_grad():
        was, theirs = probs(policy, PROMPT).numpy(), probs(policy, CONTEXT).numpy()
    for _ in range(2):
        total = written_out(policy, teacher, was, theirs, 1.0 if clip is None else clip)
        parts = torch.autograd.grad(total, list(policy.model.parameters()))
        wanted = torch.cat([part.flatten() for part in parts])
        assert (gradient(policy, batch) - wanted).norm() < 1e-9 * wanted.norm()
        report = policy.train_step.accumulate(batch)
        assert report is not None and report.distill_loss == pytest.approx(total.item(), abs=1e-12)
        assert policy.step(batch).applied  # the ratios are no longer 1


def test_the_clips_of_the_ratio_are_read() -> None:
    # after a large step every ratio lies outside clips of 0: where it moved as it was told to, nothing is left
    losses: list[float] = []
    for clips in ({}, {"ratio_clip_low": 0.0, "ratio_clip_high": 0.0}):
        policy = tiny_policy(step_config(distillation=ONE | clips, optimizer={"learning_rate": 0.05}))
        batch = rows(policy, policy.train_step.config.distillation, COMPLETION)
        before = policy.train_step.accumulate(batch)
        policy.step(batch)
        report = policy.train_step.accumulate(batch)
        assert before is not None and report is not None
        losses += [before.distill_loss, report.distill_loss]
    assert losses[0] == losses[2]  # at ratios of 1 no clip is felt
    assert losses[3] > losses[1]  # a clip only takes away what would lower the loss


def test_it_has_its_own_denominator_and_no_split_changes_its_gradient() -> None:
    setup = config()
    policy = tiny_policy(setup)
    batch = [*rows(policy, setup.distillation, COMPLETION, (10, 2)), sample(PROMPT, (7, 2), advantage=1.0, pg=1.0)]
    assert count_denominators(batch, setup).distill == 6.0
    whole = gradient(policy, batch)
    for tokens in (5, 9):
        assert (gradient(policy, batch, max_tokens=tokens) - whole).norm() < 1e-12 * whole.norm()
    assert torch.allclose(
        whole, gradient(policy, batch[:2]) + gradient(policy, batch[2:]), rtol=0, atol=1e-12
    )  # no channel dilutes the other


def test_a_masked_token_of_nan_moves_nothing() -> None:
    setup = config()
    policy = tiny_policy(setup)
    (row,) = rows(policy, setup.distillation, COMPLETION)
    teacher = row.teacher
    assert teacher is not None and teacher.student_logprobs_TK is not None
    mask = np.array([1.0, 0.0, 1.0, 1.0])
    blind = replace(teacher, logprobs_TK=teacher.logprobs_TK.copy(), mask_T=mask)
    blind.logprobs_TK[1] = np.nan
    mine = gradient(policy, [replace(row, teacher=blind)])
    assert torch.equal(mine, gradient(policy, [replace(row, teacher=replace(teacher, mask_T=mask))]))
    assert bool(mine.isfinite().all()) and bool(mine.any())


def test_targets_without_the_policys_own_log_probs_are_refused() -> None:
    policy = tiny_policy(config())
    (row,) = rows(policy, DistillationConfig(k=4, teacher="live"), COMPLETION)
    with pytest.raises(ConfigError, match=r"targets that lack student_logprobs_TK on some row; wanted the policy's"):
        policy.train_step.accumulate([row])
