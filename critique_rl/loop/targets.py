"""Directive text -> token-level targets: the teacher, shown the directive, re-scores the failed attempt's own tokens.

The completion's ids are passed on as they are, never decoded and re-encoded. Equal attempts are scored once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from critique_rl.config.algorithm import DistillationConfig
from critique_rl.loop.contexts import guided_messages
from critique_rl.loop.criticize import usable
from critique_rl.prompting.template import PromptTemplate
from critique_rl.protocols import Policy
from critique_rl.types import Group, Rollout, TeacherTargets, TokenIds


def teach(
    groups: Sequence[Group],
    *,
    policy: Policy,
    template: PromptTemplate,
    config: DistillationConfig,
    anchor: bool = False,
) -> list[Group]:
    """Attach teacher targets to every rollout that has a usable critique.

    With `anchor` also to every right rollout: there the teacher sees what the policy sees, and no directive, so that
    what is right stays as it is while the wrong ones move (learning without forgetting, arXiv 1606.09282).
    """
    asked: dict[tuple[TokenIds, TokenIds], Rollout] = {}
    wanted: dict[tuple[int, str], tuple[TokenIds, TokenIds]] = {}
    for g, group in enumerate(groups):
        for rollout, score in zip(group.rollouts, group.scores, strict=True):
            critique = group.critiques.get(rollout.id)
            if critique is not None and usable(critique):
                directive = critique.directive_text
                context = policy.encode(
                    guided_messages(group.task, template, attempt=rollout.text, directive=directive)
                )
            elif anchor and score.correct:
                context = rollout.prompt_ids
            else:
                continue
            key = (context, rollout.completion_ids)
            asked.setdefault(key, rollout)
            wanted[g, rollout.id] = key
    if not asked:
        return list(groups)
    contexts = [context for context, _ in asked]
    completions = [completion for _, completion in asked]
    support = None
    if config.support == "student":
        bare = [rollout.prompt_ids for rollout in asked.values()]
        support = policy.topk_logprobs(bare, completions, k=config.k, who="policy")
    scored = policy.topk_logprobs(contexts, completions, k=config.k, who="teacher", support=support)
    by_key = {key: _shorten(targets, config.max_tokens) for key, targets in zip(asked, scored, strict=True)}
    found: dict[int, dict[str, TeacherTargets]] = {}
    for (g, rollout_id), key in wanted.items():
        found.setdefault(g, {})[rollout_id] = by_key[key]
    return [replace(group, targets=found.get(g, {})) for g, group in enumerate(groups)]


def _shorten(targets: TeacherTargets, max_tokens: int | None) -> TeacherTargets:
    if max_tokens is None:
        return targets
    keep_T = np.arange(len(targets.mask_T)) < max_tokens
    return replace(targets, mask_T=targets.mask_T * keep_T)
