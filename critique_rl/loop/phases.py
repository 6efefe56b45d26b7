"""What the phase switch sees of a step: masks of planning tokens, and figures of plans and of what is not one.

Owns: how the figures are taken (arXiv 2509.03646). Must not know: when planning tokens are amplified. Log-probs are
those that tokens were sampled with, at the sampling temperature.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from critique_rl.config.phases import PhasesConfig
from critique_rl.config.run import RunConfig
from critique_rl.loop.parts import Parts
from critique_rl.loop.planning_mask import Decode, own_parts, planning_mask
from critique_rl.stats.entropy import conditional_entropy, spread
from critique_rl.stats.grams import Grams, Occurrence
from critique_rl.types import Array, Group, Rollout, ScoreStatus

EXECUTION_WORDS = 3
"""Words behind a phrase that are the execution n-gram which follows it."""


def watch_phases(config: RunConfig, parts: Parts, step: int, groups: Sequence[Group]) -> None:
    """All groups of a step as they were sampled. What follows holds from the next step."""
    phases = parts.phases
    if phases is None or config.phases is None:
        return
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    right = [r for g in groups for r, s in zip(g.rollouts, g.scores, strict=True) if s.correct]
    phases.keep([_words_of(rollout) for rollout in right])
    planning = _masks(rollouts, phases.grams, decode=parts.policy.decode)
    used = _occurrences(rollouts, phases.grams)
    figures = _figures(rollouts, planning, used, grams=phases.grams)
    judged = [s for g in groups for s in g.scores if s.status is not ScoreStatus.ERROR]
    phases.observe(
        masks=_amplified(config.phases, rollouts, planning),
        execution_perplexity=execution_perplexity(rollouts, planning),
        formed=formed_share(groups),
        success=sum(s.correct for s in judged) / len(judged) if judged else None,
        strategy_entropy=figures.get("phases/strategy_entropy"),
        figures=figures,
    )
    for message in phases.messages():
        parts.tracker.event(step + 1, "phases", message)


def phase_figures(parts: Parts) -> Mapping[str, float]:
    """For the trackers, after the step's samples were made."""
    return parts.phases.figures() if parts.phases is not None else {}


def formed_share(groups: Sequence[Group]) -> float | None:
    """The share of answers that ended by themselves and could be read, of those that could be judged."""
    formed = [
        rollout.finished and score.status is not ScoreStatus.UNPARSED
        for group in groups
        for rollout, score in zip(group.rollouts, group.scores, strict=True)
        if score.status is not ScoreStatus.ERROR
    ]
    return sum(formed) / len(formed) if formed else None


def execution_perplexity(rollouts: Sequence[Rollout], planning: Mapping[str, Array]) -> float | None:
    """exp of the mean surprise (nats) of the policy's own tokens outside plans; None without any."""
    kept = [r for r in rollouts if r.id in planning and len(r.behaviour_logprobs) == len(r.completion_ids)]
    surprise = [-np.asarray(r.behaviour_logprobs)[_own(r) * (1 - planning[r.id]) > 0] for r in kept]
    joined = np.concatenate(surprise) if surprise else np.zeros(0)
    return math.exp(float(joined.mean())) if joined.size else None


def surprising(rollouts: Sequence[Rollout], *, share: float) -> dict[str, Array]:
    """Masks [T] of the policy's own tokens that were least likely, as many as this share of the batch's, at least one;
    the first of equals."""
    known = [r for r in rollouts if r.completion_ids and len(r.behaviour_logprobs) == len(r.completion_ids)]
    if not known:
        return {}
    own = np.concatenate([_own(r) for r in known]) > 0
    surprise = np.where(own, -np.concatenate([r.behaviour_logprobs for r in known]), -np.inf)
    count = math.ceil(share * int(own.sum()))
    marked = np.zeros(len(own))
    marked[np.argsort(-surprise, kind="stable")[:count]] = 1.0
    cuts = np.cumsum([len(r.completion_ids) for r in known])[:-1]
    return {r.id: mask_T for r, mask_T in zip(known, np.split(marked, cuts), strict=True)}


def _amplified(
    options: PhasesConfig, rollouts: Sequence[Rollout], planning: Mapping[str, Array]
) -> Mapping[str, Array]:
    if options.mode == "off":
        return {}
    return planning if options.tokens == "planning" else surprising(rollouts, share=options.surprising_share)


def _masks(rollouts: Sequence[Rollout], grams: Grams | None, *, decode: Decode) -> dict[str, Array]:
    """Before there are phrases every token is execution."""
    if grams is None:
        return {r.id: np.zeros(len(r.completion_ids)) for r in rollouts}
    pieces: dict[int, str] = {}
    masks = {r.id: planning_mask(r, grams, decode=decode, pieces=pieces) for r in rollouts}
    return {name: mask_T for name, mask_T in masks.items() if mask_T is not None}


def _occurrences(rollouts: Sequence[Rollout], grams: Grams | None) -> list[Occurrence]:
    if grams is None:
        return []
    texts = [part.text for rollout in rollouts for part in own_parts(rollout)]
    return [used for text in texts for used in grams.occurrences(text, following=EXECUTION_WORDS)]


def _figures(
    rollouts: Sequence[Rollout], planning: Mapping[str, Array], used: Sequence[Occurrence], *, grams: Grams | None
) -> dict[str, float]:
    """Absolute entropies depend on how many phrases there are: compare normalised ones, or runs of one list."""
    if grams is None:
        return {}
    marked = [r for r in rollouts if r.id in planning]
    own = sum(float(_own(r).sum()) for r in marked)
    plans = sum(float((_own(r) * planning[r.id]).sum()) for r in marked)
    found = {"phases/unmarked": float(len(rollouts) - len(marked))}
    if own:
        found["phases/planning_share"] = plans / own
    counts = Counter(one.gram for one in used)
    of_grams = spread([counts[gram] for gram in grams.grams])
    return {
        **found,
        "phases/strategy_entropy": of_grams.nats,
        "phases/strategy_entropy_bits": of_grams.bits,
        "phases/strategy_entropy_normalised": of_grams.normalised,
        "phases/strategy_bins": float(of_grams.bins),
        "phases/strategies_used": float(len(counts)),
        "phases/execution_given_strategy": conditional_entropy([(one.gram, one.following) for one in used]),
    }


def _own(rollout: Rollout) -> Array:
    return np.asarray(rollout.policy_mask or np.ones(len(rollout.completion_ids)), dtype=np.float64)


def _words_of(rollout: Rollout) -> str:
    return "\n\n".join(part.text for part in own_parts(rollout))
