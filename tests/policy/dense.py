"""The joint loss once more, the slow way: one sequence at a time, full logits, one token at a time, no shared code.

Owns: the reference that `test_step_reference.py` compares gradients with.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from critique_rl.policy.step import StepConfig
from critique_rl.types import TrainSample


def dense_loss(model: PreTrainedModel, samples: Sequence[TrainSample], config: StepConfig) -> Tensor:
    """L_pg / D_pg + w_d L_distill / D_distill + w_i L_imitate / D_imitate, as the step's docstring has it."""
    zero = torch.zeros((), dtype=torch.float64)
    pg, distill, imitate = zero, zero, zero
    pg_tokens = pg_rows = distill_tokens = imitate_tokens = 0
    for sample in samples:
        logits_TV = _response_logits(model, sample) / config.temperature
        row_has_pg = False
        for t, token in enumerate(sample.completion_ids):
            if sample.loss_mask[t] == 0:
                continue
            logprobs_V = logits_TV[t] - torch.log(torch.exp(logits_TV[t]).sum())
            if sample.pg_weight[t] > 0:
                row_has_pg = True
                pg_tokens += 1
                pg = pg - sample.pg_weight[t] * _clipped(logprobs_V[token], sample, t, config)
            if sample.imitate_weight[t] > 0:
                imitate_tokens += 1
                imitate = imitate - sample.imitate_weight[t] * _refinement(logprobs_V[token], sample, t, config)
            if sample.teacher is not None and sample.distill_weight[t] > 0 and sample.teacher.mask_T[t] > 0:
                distill_tokens += 1
                distill = distill + sample.distill_weight[t] * _divergence(logprobs_V, sample, t, config)
        pg_rows += row_has_pg
    pg_denominator = pg_rows * config.max_completion_tokens if config.loss.normalizer == "constant" else pg_tokens
    imitate_denominator = pg_denominator if config.refinement.normalizer == "shared" else imitate_tokens
    return (
        pg / max(pg_denominator, 1)
        + config.distillation.weight * distill / max(distill_tokens, 1)
        + config.refinement.weight * imitate / max(imitate_denominator, 1)
    )


def _response_logits(model: PreTrainedModel, sample: TrainSample) -> Tensor:
    input_ids = torch.tensor([[*sample.prompt_ids, *sample.completion_ids]])
    start = len(sample.prompt_ids) - 1
    return model(input_ids=input_ids).logits[0, start : start + len(sample.completion_ids)]


def _clipped(logprob: Tensor, sample: TrainSample, t: int, config: StepConfig) -> Tensor:
    ratio = torch.exp(logprob - float(sample.behaviour_logprobs[t]))
    advantage = float(sample.advantages[t])
    lowest, highest = 1 - config.loss.clip_low, 1 + config.loss.clip_high
    clipped = ratio if lowest <= ratio.item() <= highest else ratio.new_tensor(min(max(ratio.item(), lowest), highest))
    objective = ratio * advantage if (ratio * advantage).item() <= (clipped * advantage).item() else clipped * advantage
    if config.loss.dual_clip is not None and advantage < 0 and objective.item() < config.loss.dual_clip * advantage:
        objective = logprob * 0 + config.loss.dual_clip * advantage
    return objective


def _refinement(logprob: Tensor, sample: TrainSample, t: int, config: StepConfig) -> Tensor:
    advantage = float(sample.advantages[t])
    if config.refinement.ratio_mode == "shaped":
        return advantage * torch.exp(logprob) / (torch.exp(logprob) + config.refinement.gamma)
    if config.refinement.ratio_mode == "awr":
        start = float(sample.behaviour_logprobs[t])
        return advantage * 0.1 * torch.exp(logprob - start) if start >= -5.0 else logprob * 0
    assert sample.guided_logprobs is not None
    ratio = min(torch.exp(logprob.detach() - float(sample.guided_logprobs[t])).item(), 2.0)
    return advantage * ratio * torch.exp(logprob - logprob.detach())


def _divergence(logprobs_V: Tensor, sample: TrainSample, t: int, config: StepConfig) -> Tensor:
    assert sample.teacher is not None
    student = [torch.exp(logprobs_V[v]) for v in sample.teacher.ids_TK[t].tolist()]
    teacher = [torch.exp(torch.tensor(x, dtype=torch.float64)) for x in sample.teacher.logprobs_TK[t].tolist()]
    student_mass, teacher_mass = sum(student, torch.zeros(())), sum(teacher, torch.zeros(()))
    if len(student) < len(logprobs_V) and config.distillation.tail:
        student, teacher = [*student, 1 - student_mass], [*teacher, 1 - teacher_mass]
        # the step bounds this ratio in the gradient of the forward kind, which plain mathematics does not
        assert teacher[-1].item() / student[-1].item() < 10
    elif len(student) < len(logprobs_V):
        student, teacher = [p / student_mass for p in student], [p / teacher_mass for p in teacher]
    total = torch.zeros((), dtype=torch.float64)
    a = config.distillation.jsd_alpha
    for s, q in zip(student, teacher, strict=True):
        if config.distillation.divergence == "reverse":
            total = total + s * torch.log(s / q)
        elif config.distillation.divergence == "forward":
            total = total + q * torch.log(q / s)
        else:
            m = (1 - a) * s + a * q
            total = total + (1 - a) * s * torch.log(s / m) + a * q * torch.log(q / m)
    return total


def dense_gradient(model: PreTrainedModel, samples: Sequence[TrainSample], config: StepConfig) -> Tensor:
    """Its gradient over all weights, flat."""
    parameters = list(model.parameters())
    parts = torch.autograd.grad(dense_loss(model, samples, config), parameters)
    return torch.cat([part.flatten() for part in parts])
