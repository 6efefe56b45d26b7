"""The whole story of a prompt in one record: attempts, critiques, split, refinements, and what moved which token.

Owns: the shape of a line of samples.jsonl. Written before the optimiser step, so student probabilities are those that
the targets were made for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from critique_rl.config.algorithm import DistillationConfig
from critique_rl.ops.divergences import topk_tail_divergence
from critique_rl.protocols import GroupState, Policy
from critique_rl.types import Critique, Group, Refinement, Rollout, Score, TeacherTargets, TrainSample

SHOWN_ALTERNATIVES = 3


def tell(
    group: Group,
    state: GroupState,
    samples: Sequence[TrainSample],
    *,
    policy: Policy,
    distillation: DistillationConfig,
    step: int,
) -> Mapping[str, object]:
    """One JSON-able record of one group; equal attempts are told once, with their number."""
    stamped = {sample.rollout_id: sample for sample in samples}
    told: dict[str, dict[str, object]] = {}
    for rollout, score in zip(group.rollouts, group.scores, strict=True):
        if rollout.text in told:
            told[rollout.text]["times"] = int(str(told[rollout.text]["times"])) + 1
            continue
        told[rollout.text] = _attempt(rollout, score, stamped.get(rollout.id), policy, distillation)
    shown = {str(attempt["rollout_id"]) for attempt in told.values()}
    return {
        "step": step,
        "task_id": group.task.id,
        "kind": group.task.kind,
        "question": group.task.question,
        "answer": group.task.answer,
        "plateau": {"status": str(state.status), "cause": str(state.cause), "upper_bound": state.upper_bound},
        "attempts": list(told.values()),
        "critiques": [_critique(c) for c in group.critiques.values() if c.rollout_id in shown],
        "refinements": [_refinement(r, stamped.get(r.rollout.id), policy) for r in group.refinements],
    }


def _attempt(
    rollout: Rollout,
    score: Score,
    sample: TrainSample | None,
    policy: Policy,
    distillation: DistillationConfig,
) -> dict[str, object]:
    length = len(rollout.completion_ids)
    pg = np.zeros(length) if sample is None else sample.advantages * sample.pg_weight * sample.loss_mask
    distill = np.zeros(length) if sample is None else sample.distill_weight * sample.loss_mask
    teaching: list[dict[str, object]] = [{} for _ in range(length)]
    if sample is not None and sample.teacher is not None:
        teaching = _teaching(rollout, sample.teacher, policy, distillation)
    tokens: list[dict[str, object]] = [
        {
            "text": policy.decode([token]),
            "pg": float(pg[t]),
            "distill": float(distill[t]),
            "student_prob": float(np.exp(rollout.behaviour_logprobs[t])) if _sampled_here(rollout, t) else None,
            **teaching[t],
        }
        for t, token in enumerate(rollout.completion_ids)
    ]
    return {
        "rollout_id": rollout.id,
        "text": rollout.text,
        "times": 1,
        "reward": score.reward,
        "status": str(score.status),
        "detail": score.detail,
        "tokens": _with_observations(tokens, rollout),
    }


def _with_observations(tokens: list[dict[str, object]], rollout: Rollout) -> list[dict[str, object]]:
    """What a tool said as one entry, in its own words: of a chat template's ids only the names of the roles would be
    left, among the policy's tokens and no different from them."""
    if not rollout.turns:
        return tokens
    told: list[dict[str, object]] = []
    for turn in rollout.turns:
        told += tokens[turn.start : turn.end]
        if turn.observation:
            told.append({"text": turn.observation, "heard": True})
    return told


def _sampled_here(rollout: Rollout, t: int) -> bool:
    """Whether the log-prob of a token is known; nobody sampled what a tool said."""
    said = not rollout.policy_mask or any(turn.start <= t < turn.end for turn in rollout.turns)
    return bool(rollout.behaviour_logprobs) and said


def _teaching(
    rollout: Rollout, teacher: TeacherTargets, policy: Policy, distillation: DistillationConfig
) -> list[dict[str, object]]:
    """Per token: how far teacher and student are apart, and the teacher's favourites with the student's odds."""
    student = policy.topk_logprobs(
        [rollout.prompt_ids], [rollout.completion_ids], k=distillation.k, who="policy", support=[teacher]
    )[0]
    # With a shared support an id that the teacher's top K lacks is none.
    exists_TK = np.isfinite(teacher.logprobs_TK) | (distillation.support != "overlap")
    divergence_T = topk_tail_divergence(
        torch.as_tensor(np.where(exists_TK, student.logprobs_TK, -np.inf)),
        torch.as_tensor(teacher.logprobs_TK),
        # The surrogate has no value of its own that says how far they are apart; it stands in for this one.
        kind="reverse" if distillation.divergence == "topk_surrogate" else distillation.divergence,
        jsd_alpha=distillation.jsd_alpha,
        tail=distillation.tail,
    ).tolist()
    told: list[dict[str, object]] = []
    for t in range(len(rollout.completion_ids)):
        best = np.argsort(-teacher.logprobs_TK[t])[:SHOWN_ALTERNATIVES]
        told.append(
            {
                "divergence": float(divergence_T[t]) if teacher.mask_T[t] else None,
                "teacher_prob": float(np.exp(teacher.sampled_logprobs_T[t])),
                "teacher": [
                    {
                        "token": policy.decode([int(teacher.ids_TK[t, k])]),
                        "prob": float(np.exp(teacher.logprobs_TK[t, k])),
                        "student_prob": float(np.exp(student.logprobs_TK[t, k])),
                    }
                    for k in best
                    if exists_TK[t, k]
                ],
            }
        )
    return told


def _critique(critique: Critique) -> dict[str, object]:
    return {
        "rollout_id": critique.rollout_id,
        "critic": critique.critic,
        "outcome": str(critique.outcome),
        "reason": critique.reason,
        "reply": critique.reply,
        "verdict": critique.verdict,
        "evaluative": [{"criterion": e.criterion, "value": e.value} for e in critique.evaluative],
        "directives": [{"text": d.text, "kind": d.kind, "quote": d.quote} for d in critique.directives],
        "dropped": [list(pair) for pair in critique.dropped],
    }


def _refinement(refinement: Refinement, sample: TrainSample | None, policy: Policy) -> dict[str, object]:
    rollout = refinement.rollout
    bare = refinement.bare_logprobs or (None,) * len(rollout.completion_ids)
    imitate = np.zeros(len(rollout.completion_ids))
    if sample is not None:
        imitate = sample.advantages * sample.imitate_weight * sample.loss_mask
    tokens: list[dict[str, object]] = [
        {
            "text": policy.decode([token]),
            "imitate": float(imitate[t]),
            "logprob_bare": bare[t],
            "logprob_guided": rollout.behaviour_logprobs[t],
        }
        for t, token in enumerate(rollout.completion_ids)
    ]
    return {
        "attempt_id": refinement.attempt_id,
        "text": rollout.text,
        "reward": refinement.score.reward,
        "rejected": refinement.rejected,
        "rung": refinement.rung,
        "reliance": refinement.reliance,
        "tokens": _with_observations(tokens, rollout),
    }
