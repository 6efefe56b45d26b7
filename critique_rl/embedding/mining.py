"""Strategic phrases out of right solutions (arXiv 2509.03646).

    n-grams -> embeddings -> k-means -> in how many solutions each cluster occurs -> the phrases of the top clusters

Deviations: 1. a phrase with a word without letters is left out, as numbers are of one problem; 2. only the
`max_grams` phrases that most solutions have are clustered, since a row of vectors is kept for each; 3. the paper names
neither the clustering nor its size: k-means, as a third party's code has it. Must not know: runs, files, tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from critique_rl.config.phases import MiningConfig
from critique_rl.embedding.by_name import Embedder
from critique_rl.embedding.clusters import cluster
from critique_rl.stats.grams import Gram, Grams, document_frequency, ngrams, top_labels, words_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Mined:
    """What was found. `grams` come cluster by cluster, the most frequent first; `frequency` says in how many of the
    `solutions` each occurs; `share` is that of the solutions' words inside one of them."""

    grams: tuple[Gram, ...]
    frequency: tuple[int, ...]
    solutions: int
    candidates: int
    clusters: int
    share: float


Cluster = Callable[[Sequence[str]], Sequence[int]]


def mine(solutions: Sequence[str], options: MiningConfig, *, embedder: Embedder, seed: int) -> Mined:
    """The strategic phrases of these solutions. Errors: MissingExtraError, ModelError."""

    def clusters_of(phrases: Sequence[str]) -> Sequence[int]:
        return cluster(embedder.embed(phrases), clusters=options.clusters, seed=seed)

    return mine_by(solutions, options, clusters_of)


def mine_by(solutions: Sequence[str], options: MiningConfig, clusters_of: Cluster) -> Mined:
    """The same with any clustering of phrases."""
    counted = [ngrams(text, least=options.min_words, most=options.max_words) for text in solutions]
    in_documents = Counter(gram for counts in counted for gram in counts)
    times: Counter[Gram] = Counter()
    for counts in counted:
        times.update(counts)
    cap = options.max_per_solution
    candidates = [gram for gram, held in in_documents.items() if cap is None or times[gram] <= cap * held]
    candidates = sorted(candidates, key=lambda gram: (-in_documents[gram], gram))[: options.max_grams]
    labels = dict(zip(candidates, clusters_of([" ".join(gram) for gram in candidates]), strict=True))
    frequency = document_frequency([[labels[gram] for gram in counts if gram in labels] for counts in counted])
    top = {label: place for place, label in enumerate(top_labels(frequency, share=options.top, by=options.by))}
    kept = [gram for gram in candidates if labels[gram] in top]
    kept.sort(key=lambda gram: (top[labels[gram]], -in_documents[gram], gram))
    return Mined(
        grams=tuple(kept),
        frequency=tuple(in_documents[gram] for gram in kept),
        solutions=len(solutions),
        candidates=len(candidates),
        clusters=len(set(labels.values())),
        share=word_share(Grams(kept), solutions),
    )


def word_share(grams: Grams, texts: Sequence[str]) -> float:
    """The share of all words that lie inside a phrase: what a mask would mark; 0 where there is no word."""
    inside = total = 0
    for text in texts:
        spans = grams.spans(text)
        words = words_of(text)
        total += len(words)
        inside += sum(any(start <= word.start < end for start, end in spans) for word in words)
    return inside / total if total else 0.0
