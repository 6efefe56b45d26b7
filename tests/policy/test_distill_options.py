"""[distillation]'s options through the whole step, each against the same loss written out on plain numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from critique_rl.types import Array, TeacherTargets, TrainSample
from tests.tiny import V, gradient, random_targets, sample, step_config, tiny_policy

PROMPT, COMPLETION = (4, 5, 6), (7, 8, 9, 2)


def row(k: int) -> TrainSample:
    return sample(PROMPT, COMPLETION, distill=1.0, teacher=random_targets(np.random.default_rng(3), 4, k))


def student_probs() -> Array:
    with torch.no_grad():
        logits_TV = tiny_policy().model(input_ids=torch.tensor([[*PROMPT, *COMPLETION]])).logits[0, 2:-1]
    return logits_TV.softmax(dim=-1).numpy()


def edited(teacher: TeacherTargets, *, mix: float | None = None, clip: float | None = None) -> TeacherTargets:
    """The target as the teacher of a step without options: K ids and a tail, or all V ids."""
    logprobs_TK = np.empty_like(teacher.logprobs_TK)
    for t, s_V in enumerate(student_probs()):
        q, s = np.exp(teacher.logprobs_TK[t]), s_V[teacher.ids_TK[t]]
        if len(q) < V:
            q, s = np.append(q, 1 - q.sum()), np.append(s, 1 - s.sum())
        target = q ** (1 - mix) * s**mix if mix is not None else s * np.exp(np.clip(np.log(q / s), -clip, clip))  # pyright: ignore
        logprobs_TK[t] = np.log(target / target.sum())[: teacher.ids_TK.shape[1]]
    return replace(teacher, logprobs_TK=logprobs_TK)


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
@pytest.mark.parametrize("k", [4, V])
@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ({"target": "mixed"}, {"mix": 0.01}),
        ({"target": "mixed", "mix": 0.4}, {"mix": 0.4}),
        ({"target": "clipped_gap"}, {"clip": 1.0}),
        ({"target": "clipped_gap", "gap_clip": 0.3}, {"clip": 0.3}),
    ],
)
def test_a_bounded_target_is_that_target_as_the_teacher(
    divergence: str, k: int, options: dict[str, object], numbers: dict[str, float]
) -> None:
    before = row(k)
    assert before.teacher is not None
    after = replace(before, teacher=edited(before.teacher, **numbers))
    mine = gradient(tiny_policy(step_config(distillation={"divergence": divergence} | options)), [before])
    wanted = gradient(tiny_policy(step_config(distillation={"divergence": divergence})), [after])
    unedited = gradient(tiny_policy(step_config(distillation={"divergence": divergence})), [before])
    assert (mine - wanted).norm() < 1e-10 * wanted.norm()
    assert (mine - unedited).norm() > 1e-3 * unedited.norm()


@pytest.mark.parametrize("k", [4, V])
def test_entry_clip_bounds_every_bins_term(k: int) -> None:
    before, clip = row(k), 0.05
    assert before.teacher is not None
    policy = tiny_policy(step_config(distillation={"entry_clip": clip}))
    logits_TV = policy.model(input_ids=torch.tensor([[*PROMPT, *COMPLETION]])).logits[0, 2:-1]
    total, cut = torch.zeros((), dtype=torch.float64), 0
    for t in range(4):
        s = logits_TV[t].softmax(dim=-1)[before.teacher.ids_TK[t].tolist()]
        q = torch.as_tensor(before.teacher.logprobs_TK[t]).exp()
        if k < V:
            s, q = torch.cat([s, 1 - s.sum(keepdim=True, dim=0)]), torch.cat([q, 1 - q.sum(keepdim=True, dim=0)])
        for entry in q * torch.log(q / s):
            cut += entry.item() > clip
            total = total + (entry if entry.item() <= clip else entry.new_tensor(clip))
    assert cut > 4
    parts = torch.autograd.grad(total / 4, list(policy.model.parameters()))
    flat = torch.cat([part.flatten() for part in parts])
    assert (gradient(policy, [before]) - flat).norm() < 1e-9 * flat.norm()
    report = policy.train_step.accumulate([before])
    assert report is not None and report.distill_loss == pytest.approx(total.item() / 4, abs=1e-12)
