"""Groups of one task, made from rewards alone.

Owns: rollouts whose ids tell them apart, so that a test can say which one it means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from critique_rl.types import (
    CriticOutcome,
    Critique,
    Directive,
    Evaluative,
    Group,
    Message,
    Refinement,
    Rollout,
    Score,
    ScoreStatus,
    Task,
    TeacherTargets,
    TrainSample,
)

BARE, REFINE = (4, 5), (20, 21, 22, 4, 5)
ERROR = None
"""A reward that stands for a verifier that failed."""


def rollout(name: str, completion: Sequence[int], prompt: Sequence[int] = BARE, *, task: str = "t") -> Rollout:
    return Rollout(
        id=name,
        task_id=task,
        prompt_ids=tuple(prompt),
        completion_ids=tuple(completion),
        behaviour_logprobs=tuple(-0.5 - 0.1 * t for t in range(len(completion))),
        text=name,
        finished=True,
        policy_version=0,
    )


def score(reward: float | None) -> Score:
    return Score(reward=0.0, status=ScoreStatus.ERROR) if reward is None else Score(reward=reward)


def critique(rollout_id: str, *values: float, outcome: CriticOutcome = CriticOutcome.OK) -> Critique:
    return Critique(
        rollout_id=rollout_id,
        critic="c",
        outcome=outcome,
        evaluative=tuple(Evaluative(criterion=str(i), value=v) for i, v in enumerate(values)),
        directives=(Directive(text="carry the one"),),
    )


def refinement(n: int, reward: float, *, rejected: str = "", length: int = 3) -> Refinement:
    return Refinement(
        attempt_id="r0",
        critique=critique("r0"),
        rollout=rollout(f"refined-{n}", range(10, 10 + length), REFINE),
        score=score(reward),
        bare_logprobs=tuple(-1.5 - 0.1 * t for t in range(length)),
        rejected=rejected,
    )


def targets(length: int) -> TeacherTargets:
    return TeacherTargets(
        ids_TK=np.tile(np.array([[6, 7]]), (length, 1)),
        logprobs_TK=np.tile(np.log([[0.5, 0.3]]), (length, 1)),
        sampled_logprobs_T=np.full(length, -2.0),
        mask_T=np.ones(length),
        context_ids=(20, 21, 4, 5),
    )


def group(
    rewards: Sequence[float | None],
    refinements: Sequence[Refinement] = (),
    *,
    critiques: Sequence[Critique] = (),
    taught: Sequence[str] = (),
    task: str = "t",
) -> Group:
    """Rollout `r{i}` has i + 1 tokens; `taught` names those that have teacher targets."""
    rollouts = tuple(rollout(f"r{i}", range(6, 7 + i), task=task) for i in range(len(rewards)))
    return Group(
        task=Task(id=task, messages=(Message(role="user", content="q"),), answer="1", verifier="exact"),
        rollouts=rollouts,
        scores=tuple(score(reward) for reward in rewards),
        critiques={c.rollout_id: c for c in critiques},
        refinements=tuple(refinements),
        targets={r.id: targets(len(r.completion_ids)) for r in rollouts if r.id in taught},
    )


def advantages(samples: Sequence[TrainSample]) -> list[float]:
    """One number a sample; fails if its tokens disagree."""
    assert all(len(set(s.advantages.tolist())) == 1 for s in samples)
    return [float(s.advantages[0]) for s in samples]


def assert_same_samples(mine: Sequence[TrainSample], theirs: Sequence[TrainSample]) -> None:
    """Equal bit for bit, in every field."""
    assert len(mine) == len(theirs)
    for one, other in zip(mine, theirs, strict=True):
        for field in fields(TrainSample):
            a, b = getattr(one, field.name), getattr(other, field.name)
            assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b, field.name
