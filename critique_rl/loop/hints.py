"""Which of several directives the teacher is shown: the one whose teacher is nearest to what the policy has in mind.

Owns: the candidates, how far each one's teacher shares the policy's top K, and the choice. Must not know: contexts'
words, losses. Legend: T tokens of one completion, K support ids, H candidates.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from critique_rl.config.algorithm import DistillationConfig
from critique_rl.config.distillation import HintChoice
from critique_rl.loop.readings import Known, Pair, Who, own_topk
from critique_rl.protocols import Policy
from critique_rl.stats.overlap import shared_places
from critique_rl.types import Array, Critique, Rollout, TeacherTargets

Picks = NDArray[np.int64]


class Rivals(NamedTuple):
    """The candidates of one rollout, each as the pair that its teacher would score."""

    pairs: tuple[Pair, ...]
    rollout: Rollout


class Choice(NamedTuple):
    """The candidate that is best over all tokens, and the one that is best at each, the first where several are."""

    best: int
    by_token_T: Picks


class Choices(NamedTuple):
    """The choice of each in the order asked, and what both sides said at their top K on the way."""

    made: list[Choice]
    known: Known


@dataclass(slots=True, kw_only=True)
class HintTally:
    """Rollouts with a choice to make, and what came of it: `chosen` and `mean` add up, over `tokens`, the share of the
    policy's top K that the teacher has too, under the chosen candidate and on average over all of them; `scored` counts
    the teacher's passes over pairs that the choice took."""

    rollouts: int = 0
    candidates: int = 0
    scored: int = 0
    tokens: float = 0.0
    chosen: float = 0.0
    mean: float = 0.0

    def figures(self) -> Mapping[str, float]:
        """Nothing where no choice was to be made."""
        if not self.rollouts:
            return {}
        told = {"hint/candidates": self.candidates / self.rollouts, "hint/scored": float(self.scored)}
        if self.tokens:
            told["hint/overlap"] = self.chosen / self.tokens
            told["hint/overlap_best_minus_mean"] = (self.chosen - self.mean) / self.tokens
        return told


def candidates(critique: Critique, rollout: Rollout, choice: HintChoice) -> tuple[str, ...]:
    """The texts that may be shown: all directives as one, the shortest, one at random, or each of them.

    Equal directives are one, and of equally short ones the first stays. The draw depends on the rollout alone, so that
    a step repeated after a resume draws the same.
    """
    texts = tuple(dict.fromkeys(directive.text for directive in critique.directives))
    if choice == "joined" or not texts:
        return (critique.directive_text,)
    if choice == "shortest":
        return (min(texts, key=len),)
    if choice == "random":
        names = (zlib.crc32(name.encode()) for name in (rollout.task_id, rollout.id))
        return (texts[int(np.random.default_rng([rollout.policy_version, *names]).integers(len(texts)))],)
    return texts


def choose(rivals: Sequence[Rivals], *, policy: Policy, config: DistillationConfig, tally: HintTally) -> Choices:
    """For each the candidate h with the largest sum over tokens of O[h, t], and at each token the one with the largest
    O[h, t] = |top K of the policy, bare  &  top K of the teacher shown h| (OpenClaw-RL, arXiv 2603.10165 v2, K = 4).

    Passes: the teacher's over every candidate and the policy's over every attempt, each distinct pair once. A token
    that a tool wrote, that lies beyond max_tokens or that a side cannot read counts for nobody. That more overlap makes
    a better hint is the paper's claim, and one to doubt: a directive that changes nothing shares all.
    """
    bare = [Pair(one.rollout.prompt_ids, one.rollout.completion_ids) for one in rivals]
    every = list(dict.fromkeys(pair for one in rivals for pair in one.pairs))
    known: dict[tuple[Who, Pair], TeacherTargets] = {}
    asked: tuple[tuple[Who, list[Pair]], ...] = (("policy", list(dict.fromkeys(bare))), ("teacher", every))
    for who, pairs in asked:
        found = own_topk(pairs, policy=policy, who=who, k=config.k, known={})
        known.update({(who, pair): targets for pair, targets in zip(pairs, found, strict=True)})
    tally.scored += len(every)
    made = [
        _chosen(one, known["policy", own], [known["teacher", pair] for pair in one.pairs], config, tally)
        for one, own in zip(rivals, bare, strict=True)
    ]
    return Choices(made, known)


def woven(targets: Sequence[TeacherTargets], choice: Choice) -> TeacherTargets:
    """At each token those of its own best candidate; `context_ids` are those of the best over all."""
    rows_T = np.arange(len(choice.by_token_T))

    def taken(parts: Sequence[Array]) -> Array:
        return np.stack(parts)[choice.by_token_T, rows_T]

    told = [one.student_logprobs_TK for one in targets]
    return replace(
        targets[choice.best],
        ids_TK=np.stack([one.ids_TK for one in targets])[choice.by_token_T, rows_T],
        logprobs_TK=taken([one.logprobs_TK for one in targets]),
        sampled_logprobs_T=taken([one.sampled_logprobs_T for one in targets]),
        mask_T=taken([one.mask_T for one in targets]),
        student_logprobs_TK=None if told[0] is None else taken([part for part in told if part is not None]),
    )


def _chosen(
    one: Rivals,
    student: TeacherTargets,
    teachers: Sequence[TeacherTargets],
    config: DistillationConfig,
    tally: HintTally,
) -> Choice:
    counted_T = student.mask_T * np.asarray(one.rollout.policy_mask or np.ones(len(student.mask_T)), dtype=np.float64)
    counted_T = counted_T * (np.arange(len(counted_T)) < (config.max_tokens or len(counted_T)))
    shared_HT = np.stack(
        [counted_T * t.mask_T * (shared_places(student.ids_TK, t.ids_TK) >= 0).sum(axis=1) for t in teachers]
    )
    choice = Choice(int(shared_HT.sum(axis=1).argmax()), shared_HT.argmax(axis=0))
    by_token = config.hint_choice == "token_overlap"
    chosen_T = shared_HT.max(axis=0) if by_token else shared_HT[choice.best]
    k = max(student.ids_TK.shape[1], 1)
    tally.tokens += float(counted_T.sum())
    tally.chosen += float(chosen_T.sum()) / k
    tally.mean += float(shared_HT.mean(axis=0).sum()) / k
    return choice
