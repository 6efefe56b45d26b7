"""Which second attempts may be trained on: what speaks against one by itself, and which of the rest are taken.

Owns: every reason for a refusal, the caps per group and step, and the weight by reliance. A refused refinement stays in
the record with its reason. Must not know: how refinements are sampled, advantages, losses.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from critique_rl.config.refinement import PREFIX_SHARES, RefinementConfig
from critique_rl.config.replay import REPLAY
from critique_rl.errors import ConfigError, DataError
from critique_rl.feedback.leak import leaks
from critique_rl.loop.meta_talk import talks_of_feedback
from critique_rl.protocols import Reward, TaskSource
from critique_rl.types import Group, Refinement, Task, TrainSample

NOT_VERIFIED = "not verified"
TRUNCATED = "truncated"
DISPUTED = "the second verifier disagrees"
COPIED = "copies the critique"
LEAKED = "the critique states the answer"
META_TALK = "speaks of the feedback"
NO_DERIVATION = "too little before the answer"
UNLIKELY = "too unlikely under the bare prompt"
DUPLICATE = "duplicate"
FARTHER = "another refinement was closer to the policy"
STEP_FULL = "the step's share of refinements is taken"
NO_ROOM = (FARTHER, STEP_FULL)
"""Reasons that speak of a refinement's place and not against the refinement."""
_KEYS: Mapping[str, str] = {
    NOT_VERIFIED: "not_verified",
    TRUNCATED: "truncated",
    DISPUTED: "disputed",
    COPIED: "copied",
    LEAKED: "leaked",
    META_TALK: "meta_talk",
    NO_DERIVATION: "no_derivation",
    UNLIKELY: "unlikely",
    DUPLICATE: "duplicate",
    FARTHER: "farther",
    STEP_FULL: "step_full",
}


def check_second_verifier(config: RefinementConfig, tasks: TaskSource, *, reward: Reward, seed: int) -> None:
    """Raises ConfigError if the run has no reward of the name `second_verifier`."""
    if config.second_verifier is None:
        return
    for task in tasks.batch(0, 1, seed=seed):
        try:
            reward.score(replace(task, verifier=config.second_verifier), task.answer)
        except DataError as error:
            raise ConfigError(f"refinement.second_verifier = {config.second_verifier!r}: {error}") from error


def fault(refinement: Refinement, task: Task, config: RefinementConfig, *, told: str, reward: Reward) -> str:
    """Why a refinement may not be trained on, judged by itself; "" if nothing speaks against it.

    `told` is all that its context said about the attempts; `reward` also judges by `second_verifier`.
    """
    text = refinement.rollout.text
    if not refinement.score.correct:
        return NOT_VERIFIED
    if not refinement.rollout.finished:
        return TRUNCATED
    # An answer that goes on from a prefix holds it; whether a prefix says too much was asked before it was shown.
    if refinement.rung not in PREFIX_SHARES and copied_share(text, told) > config.max_copied:
        return COPIED
    if config.refuse_leaks and leaks(told, task.answer, question=task.question):
        return LEAKED
    if config.refuse_meta_talk and talks_of_feedback(text, question=task.question):
        return META_TALK
    if _words_before_answer(refinement, task) < config.min_derivation_words:
        return NO_DERIVATION
    if config.second_verifier is not None:
        again = reward.score(replace(task, verifier=config.second_verifier), text)
        if not again.correct:
            return DISPUTED
    return ""


def copied_share(text: str, source: str, n: int = 8) -> float:
    """Share of the text's word n-grams that occur in the source."""
    words, other = text.split(), source.split()
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    known = {tuple(other[i : i + n]) for i in range(len(other) - n + 1)}
    return sum(gram in known for gram in grams) / len(grams) if grams else 0.0


def _words_before_answer(refinement: Refinement, task: Task) -> int:
    """Words before the last occurrence of what the verifier read as the answer; all words where it stands nowhere."""
    text = refinement.rollout.text
    places = [text.rfind(answer) for answer in (refinement.score.extracted, task.answer) if answer]
    found = next((place for place in places if place >= 0), len(text))
    return len(text[:found].split())


def select(group: Group, members: Sequence[Refinement], config: RefinementConfig) -> tuple[Refinement, ...]:
    """Keep the survivors closest to the bare policy, distinct and within the group's caps; refuse the rest by name."""
    places = min(config.max_injected, _share(config.max_group_share, len(group.rollouts)))
    kept: list[int] = []
    judged = list(members)
    for i in sorted((i for i, r in enumerate(members) if not r.rejected), key=lambda i: (*_closeness(members[i]), i)):
        if _bare_logprob(members[i]) < config.min_bare_logprob:
            judged[i] = replace(members[i], rejected=UNLIKELY)
        elif any(members[j].rollout.completion_ids == members[i].rollout.completion_ids for j in kept):
            judged[i] = replace(members[i], rejected=DUPLICATE)
        elif len(kept) >= places:
            judged[i] = replace(members[i], rejected=FARTHER)
        else:
            kept.append(i)
    return tuple(judged)


def within_step_share(groups: Sequence[Group], config: RefinementConfig) -> list[Group]:
    """The groups with no more accepted refinements than the step's share; the least likely ones are refused."""
    if config.max_batch_share is None:
        return list(groups)
    places = _share(config.max_batch_share, sum(len(group.rollouts) for group in groups))
    accepted = [(g, i) for g, group in enumerate(groups) for i, r in enumerate(group.refinements) if not r.rejected]
    accepted.sort(key=lambda place: (*_closeness(groups[place[0]].refinements[place[1]]), place))
    refused = set(accepted[places:])
    return [
        replace(
            group,
            refinements=tuple(
                replace(r, rejected=STEP_FULL) if (g, i) in refused else r for i, r in enumerate(group.refinements)
            ),
        )
        for g, group in enumerate(groups)
    ]


def weighted_by_reliance(
    samples: Sequence[TrainSample], groups: Sequence[Group], config: RefinementConfig
) -> list[TrainSample]:
    """Imitation weights times w = exp(min(reliance, 0) / T), reliance in nats/token (arXiv 2604.00698).

    What only the guidance made likely is pulled to less; w is 1 where the bare policy finds it as likely or likelier.
    """
    temperature = config.reliance_temperature
    if temperature is None:
        return list(samples)
    weights = {
        r.rollout.id: float(np.exp(min(r.reliance, 0.0) / temperature))
        for group in groups
        for r in group.refinements
        if not r.rejected
    }
    return [
        replace(sample, imitate_weight=sample.imitate_weight * weights[sample.rollout_id])
        if sample.rollout_id in weights
        else sample
        for sample in samples
    ]


def selection_metrics(groups: Sequence[Group]) -> Mapping[str, float]:
    """Refusals by reason, samples and injections by rung, and the mean reliance of verified refinements.

    Keys are there only where something was counted. What is replayed has a rung of its own, and was not sampled.
    """
    refinements = [r for group in groups for r in group.refinements]
    refused = Counter(_KEYS[r.rejected] for r in refinements if r.rejected)
    sampled = Counter(r.rung for r in refinements if r.rung != REPLAY)
    injected = Counter(r.rung for r in refinements if not r.rejected)
    replayed = {REPLAY for r in refinements if r.rung == REPLAY}
    reliance = [r.reliance for r in refinements if r.bare_logprobs]
    return {
        **{f"refinement/refused/{key}": float(count) for key, count in sorted(refused.items())},
        **{f"refinement/rung/{rung}/sampled": float(count) for rung, count in sorted(sampled.items())},
        **{f"refinement/rung/{rung}/injected": float(injected[rung]) for rung in sorted(sampled.keys() | replayed)},
        **({"refinement/reliance": float(np.mean(reliance))} if reliance else {}),
    }


def _closeness(refinement: Refinement) -> tuple[float, int]:
    """Sorts the likeliest under the bare prompt first, then the shortest."""
    return -_bare_logprob(refinement), len(refinement.rollout.completion_ids)


def _bare_logprob(refinement: Refinement) -> float:
    """Mean over what the policy itself wrote; none of an episode that is not learned from counts as unlikely."""
    own = refinement.own_bare_logprobs
    return float(np.mean(own)) if own else -math.inf


def _share(share: float, of: int) -> int:
    # 0.1 * 30 is a little less than 3 in floating point.
    return max(1, int(share * of + 1e-9))
