"""Sample second attempts with the critique in view, verify them, and decide which may be trained on.

Owns: the filters between a refinement and the gradient. Every refinement is kept with the reason why it was rejected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from critique_rl.config.algorithm import RefinementConfig
from critique_rl.config.run import RolloutConfig
from critique_rl.loop.collect import as_rollout
from critique_rl.loop.criticize import usable
from critique_rl.loop.second_attempts import Hint, sample_again
from critique_rl.prompting.template import PromptTemplate
from critique_rl.protocols import Policy, Reward, RolloutEngine
from critique_rl.types import Group, Refinement, Rollout


def refine(
    groups: Sequence[Group],
    *,
    policy: Policy,
    engine: RolloutEngine,
    reward: Reward,
    template: PromptTemplate,
    config: RefinementConfig,
    rollout: RolloutConfig,
    step: int,
    seed: int,
) -> list[Group]:
    """Attach verified and filtered refinements to every group that has a usable critique."""
    planned = [(g, attempt) for g, group in enumerate(groups) for attempt in _attempts(group)[: config.max_attempts]]
    critiques = [groups[g].critiques[attempt.id] for g, attempt in planned]
    sampled = sample_again(
        [
            Hint(groups[g].task, attempt.text, critique.directive_text)
            for (g, attempt), critique in zip(planned, critiques, strict=True)
        ],
        policy=policy,
        engine=engine,
        template=template,
        rollout=rollout,
        seed=seed,
        times=config.per_attempt,
    )
    found: dict[int, list[Refinement]] = {}
    count = 0
    for (g, attempt), critique, attempts in zip(planned, critiques, sampled, strict=True):
        task = groups[g].task
        for context, completion in attempts:
            second = as_rollout(f"{step}/{task.id}/refinement-{count}", task, context, completion, policy.version)
            score = reward.score(task, second.text)
            candidate = Refinement(attempt_id=attempt.id, critique=critique, rollout=second, score=score)
            found.setdefault(g, []).append(replace(candidate, rejected=_fault(candidate, config)))
            count += 1
    if not found:
        return list(groups)
    scored = _with_bare_logprobs(groups, found, policy)
    return [
        replace(group, refinements=_select(scored[g], config)) if g in scored else group
        for g, group in enumerate(groups)
    ]


def _attempts(group: Group) -> list[Rollout]:
    return [r for r in group.rollouts if usable(group.critiques.get(r.id))]


def _fault(refinement: Refinement, config: RefinementConfig) -> str:
    """Why a refinement may not be trained on, judged by itself; "" if nothing speaks against it."""
    if not refinement.score.correct:
        return "not verified"
    if not refinement.rollout.finished:
        return "truncated"
    if _copied_share(refinement.rollout.text, refinement.critique.directive_text) > config.max_copied:
        return "copies the critique"
    return ""


def _copied_share(text: str, source: str, n: int = 8) -> float:
    """Share of the text's word n-grams that occur in the source."""
    words, other = text.split(), source.split()
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    known = {tuple(other[i : i + n]) for i in range(len(other) - n + 1)}
    return sum(gram in known for gram in grams) / len(grams) if grams else 0.0


def _with_bare_logprobs(
    groups: Sequence[Group], found: dict[int, list[Refinement]], policy: Policy
) -> dict[int, list[Refinement]]:
    """Score the surviving refinements under the bare prompt, where training will see them."""
    survivors = [(g, i) for g, members in found.items() for i, r in enumerate(members) if not r.rejected]
    scored = {g: list(members) for g, members in found.items()}
    logprobs = policy.logprobs(
        [groups[g].rollouts[0].prompt_ids for g, _ in survivors],
        [found[g][i].rollout.completion_ids for g, i in survivors],
    )
    for (g, i), bare_T in zip(survivors, logprobs, strict=True):
        scored[g][i] = replace(scored[g][i], bare_logprobs=tuple(float(x) for x in bare_T))
    return scored


def _select(members: Sequence[Refinement], config: RefinementConfig) -> tuple[Refinement, ...]:
    """Keep the survivors closest to the bare policy, distinct and at most `max_injected`; reject the rest by name."""
    order = sorted(
        (i for i, r in enumerate(members) if not r.rejected),
        key=lambda i: (-float(np.mean(members[i].bare_logprobs)), len(members[i].rollout.completion_ids), i),
    )
    kept: list[int] = []
    judged = list(members)
    for i in order:
        if float(np.mean(members[i].bare_logprobs)) < config.min_bare_logprob:
            judged[i] = replace(members[i], rejected="too unlikely under the bare prompt")
        elif any(members[j].rollout.completion_ids == members[i].rollout.completion_ids for j in kept):
            judged[i] = replace(members[i], rejected="duplicate")
        elif len(kept) >= config.max_injected:
            judged[i] = replace(members[i], rejected="another refinement was closer to the policy")
        else:
            kept.append(i)
    return tuple(judged)
