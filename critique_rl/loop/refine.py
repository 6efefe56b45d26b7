"""Sample second attempts with guidance in view, verify them, and have those chosen that may be trained on.

Owns: the order of these. Every refinement is kept; what is trained on is appended to a group, never put in a rollout's
place. Must not know: the ladder's rungs, the reasons for a refusal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from critique_rl.config.run import RolloutConfig
from critique_rl.loop.collect import as_rollout, judged
from critique_rl.loop.guidance import Guidance
from critique_rl.loop.parts import Environment
from critique_rl.loop.second_attempts import sample_again
from critique_rl.loop.selection import fault, select, within_step_share
from critique_rl.protocols import Policy, Reward, RolloutEngine
from critique_rl.types import Group, Refinement


def refine(
    groups: Sequence[Group],
    *,
    policy: Policy,
    engine: RolloutEngine,
    reward: Reward,
    guidance: Guidance,
    rollout: RolloutConfig,
    step: int,
    seed: int,
    environment: Environment | None = None,
) -> list[Group]:
    """Attach verified and filtered refinements to every group that there is guidance for.

    Those that a group has already, from an earlier visit, compete with the new ones.
    """
    assert guidance.template is not None, "a method without refinements has nothing to refine"
    config, planned = guidance.config, guidance.plan(groups)
    sampled = sample_again(
        [one.hint for one in planned],
        policy=policy,
        engine=engine,
        template=guidance.template,
        rollout=rollout,
        seed=seed,
        environment=environment,
    )
    found = {g: list(group.refinements) for g, group in enumerate(groups) if group.refinements}
    count = 0
    for one, attempts in zip(planned, sampled, strict=True):
        task = groups[one.group].task
        for context, completion in attempts:
            second = as_rollout(f"{step}/{task.id}/refinement-{count}", task, context, completion, policy.version)
            candidate = Refinement(
                attempt_id=one.attempt.id,
                critique=one.critique,
                rollout=second,
                score=judged(task, second, reward=reward, environment=environment),
                rung=one.rung,
            )
            refused = fault(candidate, task, config, told=one.hint.directive, reward=reward)
            found.setdefault(one.group, []).append(replace(candidate, rejected=refused))
            count += 1
    if not found:
        return list(groups)
    scored = _with_bare_logprobs(groups, found, policy)
    chosen = [
        replace(group, refinements=select(group, scored[g], config)) if g in scored else group
        for g, group in enumerate(groups)
    ]
    return within_step_share(chosen, config)


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
