"""The table of diversity figures: one function per metric, from a batch of prompts to figures by name.

Owns: which samples each figure compares (those of one prompt, then the mean over prompts), and the figures' names. Must
not know: thresholds, trackers, steps. A figure that nothing in the batch defines is absent.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from critique_rl.config.monitors import Metric
from critique_rl.monitors.prompts import Prompt, rewards_of
from critique_rl.stats.diversity import distinct_n, jaccard_kernel, mean_off_diagonal, self_bleu, unique_ratio, vendi
from critique_rl.stats.entropy import label_entropy, modal_share
from critique_rl.stats.outcomes import pass_surface, zero_spread
from critique_rl.stats.pass_at_k import pass_at_k, pass_hat_k
from critique_rl.stats.trajectories import chrf_matrices, cluster_count, decay_rate
from critique_rl.types import Group, Turn

Figures = dict[str, float]
SEARCH = "search"
BLEU_ORDER = 4
CAPS = (1, 2, 4, 8, 16)
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_NUMBER = re.compile(r"\d+")


def measure(
    groups: Sequence[Group], prompts: Sequence[Prompt], metrics: Iterable[Metric], *, max_samples: int
) -> Figures:
    """The figures of these metrics ("formats" has a monitor of its own). Errors: MissingExtraError."""
    found: Figures = {}
    for metric in metrics:
        if metric == "zero_std":
            found |= _zero_std(groups)
        elif metric in _OF_PROMPTS:
            found |= _OF_PROMPTS[metric](prompts, max_samples)
    return found


def _token_entropy(prompts: Sequence[Prompt], _: int) -> Figures:
    """Surprise -log pi of the sampled tokens: its mean estimates the entropy, its quantiles are the surprise's own."""
    own = [rollout.own_logprobs for prompt in prompts for rollout in prompt.rollouts]
    surprise = 0.0 - np.fromiter((logprob for logprobs in own for logprob in logprobs), dtype=np.float64)
    if not surprise.size:
        return {}
    p50, p80, p95 = np.quantile(surprise, (0.5, 0.8, 0.95))
    return {
        "token_entropy": float(surprise.mean()),
        "surprise_p50": float(p50),
        "surprise_p80": float(p80),
        "surprise_p95": float(p95),
    }


def _distinct_n(prompts: Sequence[Prompt], _: int) -> Figures:
    return _means({f"distinct_{n}": [distinct_n(prompt.words, n) for prompt in prompts] for n in (1, 2, 3)})


def _self_bleu(prompts: Sequence[Prompt], most: int) -> Figures:
    """Over the answers that have as many words: in shorter ones no order of that size can match, so BLEU would be 0."""
    long = [[" ".join(words) for words in prompt.words[:most] if len(words) >= BLEU_ORDER] for prompt in prompts]
    values = [self_bleu(texts, BLEU_ORDER) for texts in long]
    return _means({f"self_bleu_{BLEU_ORDER}": [float(np.mean(v)) if v else None for v in values]})


def _vendi(prompts: Sequence[Prompt], most: int) -> Figures:
    """Over the Jaccard similarity of the answers' words and word pairs, as a count and as a share of the answers."""
    counts: list[float | None] = []
    shares: list[float | None] = []
    for prompt in prompts:
        sets = [frozenset(words) | frozenset(pairwise(words)) for words in prompt.words[:most]]
        if len(sets) > 1:
            counts.append(1.0 if len(set(sets)) == 1 else vendi(jaccard_kernel(sets)))
            shares.append(float(counts[-1] or 0.0) / len(sets))
    return _means({"vendi": counts, "vendi_share": shares})


def _queries(prompts: Sequence[Prompt], most: int) -> Figures:
    """Per prompt and place in the episode: how many queries are new, and how unlike each other they are."""
    unique: dict[str, list[float | None]] = {}
    unlike: dict[str, list[float | None]] = {}
    for prompt in prompts:
        by_place: dict[int, list[str]] = {}
        for rollout in prompt.rollouts[:most]:
            for place, turn in enumerate(_searches(rollout.turns)):
                by_place.setdefault(place, []).append(turn.argument)
        for place, queries in by_place.items():
            if len(queries) > 1:
                name = "first" if place == 0 else "later"
                unique.setdefault(name, []).append(unique_ratio(queries))
                words = [frozenset(query.casefold().split()) for query in queries]
                unlike.setdefault(name, []).append(1 - mean_off_diagonal(jaccard_kernel(words)))
    return _means({f"query_unique_ratio/{name}": values for name, values in unique.items()}) | _means(
        {f"query_jaccard_div/{name}": values for name, values in unlike.items()}
    )


def _evidence_overlap(prompts: Sequence[Prompt], most: int) -> Figures:
    """Over the rollouts of a prompt that retrieved anything."""
    overlaps: list[float | None] = []
    for prompt in prompts:
        sets = [frozenset(d for turn in rollout.turns for d in turn.documents) for rollout in prompt.rollouts[:most]]
        sets = [documents for documents in sets if documents]
        overlaps.append(mean_off_diagonal(jaccard_kernel(sets)) if len(sets) > 1 else None)
    return _means({"evidence_overlap": overlaps})


def _trajectory_clusters(prompts: Sequence[Prompt], most: int) -> Figures:
    """Ways among the right and among the wrong answers of each prompt."""
    counts: dict[str, list[float | None]] = {}
    known = [prompt.judged[:most] for prompt in prompts if prompt.judged]
    matrices = chrf_matrices([[answer.text for answer in judged] for judged in known])
    for judged, similarity in zip(known, matrices, strict=True):
        right = np.array([answer.score.correct for answer in judged], dtype=bool)
        for name, own in (("clusters_correct", right), ("clusters_incorrect", ~right)):
            counts.setdefault(name, []).append(float(cluster_count(similarity[np.ix_(own, own)])))
    return _means(counts)


def _strategy_entropy(prompts: Sequence[Prompt], _: int) -> Figures:
    """Of the signatures of tools ("search search answer") over the batch; nothing where answers have one turn only."""
    labels = [tuple(turn.action for turn in r.turns) for prompt in prompts for r in prompt.rollouts if r.turns]
    if not labels:
        return {}
    return {"strategy_entropy": label_entropy(labels), "strategy_bins": float(len(set(labels)))}


def _answer_entropy(prompts: Sequence[Prompt], _: int) -> Figures:
    """Of the answers that verifiers read, per prompt; answers that could not be read are one more answer."""
    values = [
        label_entropy(answer.score.extracted for answer in prompt.judged)
        if any(answer.score.extracted is not None for answer in prompt.judged)
        else None
        for prompt in prompts
    ]
    return _means({"answer_semantic_entropy": values})


def _step_decay(prompts: Sequence[Prompt], _: int) -> Figures:
    """Decay rate of how often each step (a line or sentence, its numbers made alike) is visited by a batch."""
    steps: Counter[str] = Counter()
    for text, count in Counter(text for prompt in prompts for text in prompt.texts).items():
        for step in _SENTENCE.split(text):
            if step.strip():
                steps[_NUMBER.sub("0", step.strip().casefold())] += count
    beta = decay_rate(list(steps.values()))
    return {} if beta is None else {"step_beta": beta, "step_kinds": float(len(steps))}


def _pass_at_k(prompts: Sequence[Prompt], _: int) -> Figures:
    """pass@k and pass^k at powers of two that every prompt has samples for, and PASS@(k, T) of episodes."""
    known = [prompt for prompt in prompts if prompt.judged]
    if not known:
        return {}
    right = [[answer.score.correct for answer in prompt.judged] for prompt in known]
    ks = _powers(min(len(of_prompt) for of_prompt in right))
    values = {f"pass@{k}": float(np.mean([pass_at_k(len(r), sum(r), k) for r in right])) for k in ks}
    values |= {f"pass^{k}": float(np.mean([pass_hat_k(len(r), sum(r), k) for r in right])) for k in ks if k > 1}
    rounds = [[max(1, len(answer.rollout.turns)) for answer in prompt.judged] for prompt in known]
    longest = max(max(of_prompt) for of_prompt in rounds)
    if longest > 1:
        caps = [cap for cap in CAPS if cap < longest] + [longest]
        surface = pass_surface(right, rounds, ks=ks, caps=caps)
        values |= {f"pass@{k}/rounds_{cap}": value for (k, cap), value in surface.items()}
    return values


def _zero_std(groups: Sequence[Group]) -> Figures:
    """Of groups as they are trained on: two copies of a prompt are two groups here."""
    found = zero_spread([rewards_of(group) for group in groups])
    if found is None:
        return {}
    return {"frac_zero_std": found.any, "frac_all_correct": found.right, "frac_all_wrong": found.wrong}


def _turns(prompts: Sequence[Prompt], _: int) -> Figures:
    """How many turns, and how many tool calls, episodes take: the mean, the entropy, and the modal value's share."""
    episodes = [rollout.turns for prompt in prompts for rollout in prompt.rollouts if rollout.turns]
    values: Figures = {}
    counted = {"turns": [len(t) for t in episodes], "searches": [len(_searches(t)) for t in episodes]}
    for name, counts in counted.items():
        share = modal_share(counts)
        if share is not None:
            values |= {
                f"{name}/mean": float(np.mean(counts)),
                f"{name}/entropy": label_entropy(counts),
                f"{name}/modal_share": share,
            }
    return values


_OF_PROMPTS: Mapping[str, Callable[[Sequence[Prompt], int], Figures]] = {
    "token_entropy": _token_entropy,
    "distinct_n": _distinct_n,
    "self_bleu": _self_bleu,
    "queries": _queries,
    "evidence_overlap": _evidence_overlap,
    "vendi": _vendi,
    "trajectory_clusters": _trajectory_clusters,
    "strategy_entropy": _strategy_entropy,
    "answer_entropy": _answer_entropy,
    "step_decay": _step_decay,
    "pass_at_k": _pass_at_k,
    "turns": _turns,
}


def _searches(turns: Sequence[Turn]) -> list[Turn]:
    return [turn for turn in turns if turn.action == SEARCH]


def _powers(most: int) -> list[int]:
    return [2**i for i in range(most.bit_length()) if 2**i <= most]


def _means(values: Mapping[str, Sequence[float | None]]) -> Figures:
    known = {name: [value for value in column if value is not None] for name, column in values.items()}
    return {name: math.fsum(column) / len(column) for name, column in known.items() if column}
