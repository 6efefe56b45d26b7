"""Strategic phrases: what many solutions share, by clusters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from critique_rl.config.phases import MiningConfig
from critique_rl.embedding.clusters import cluster
from critique_rl.embedding.hashed import HashedEmbedder
from critique_rl.embedding.mining import mine, mine_by, word_share
from critique_rl.stats.grams import Grams, gram_of

SOLUTIONS = [
    "Let me check this. Five plus six gives eleven.",
    "Let me check this. Two green apples remain there.",
    "Let me check this. We halve every odd number.",
    "Red wine was sold there. Let me check this.",
]


def alone(phrases: Sequence[str]) -> list[int]:
    return list(range(len(phrases)))


def test_phrases_of_the_most_frequent_clusters() -> None:
    found = mine_by(SOLUTIONS, MiningConfig(top=0.01), alone)
    assert found.frequency == (4,) and found.grams == (("let", "me", "check"),)
    assert found.solutions == 4 and found.candidates == found.clusters


def test_union_of_a_clusters_phrases_counts_each_solution_once() -> None:
    def by_first_word(phrases: Sequence[str]) -> list[int]:
        return [int(phrase.startswith("let")) for phrase in phrases]

    found = mine_by(SOLUTIONS, MiningConfig(top=0.5), by_first_word)
    # both clusters are in all four solutions, and the first found comes first
    assert found.clusters == 2 and found.frequency[0] == 4
    assert len({gram[0] == "let" for gram in found.grams}) == 1


def test_phrases_frequent_within_a_solution_are_left_out() -> None:
    texts = ["carry the one, carry the one, carry the one. let us see now", "let us see now, carry the one"]
    # "carry the one" is in 2 solutions, 4 times: 2 on average
    kept = mine_by(texts, MiningConfig(max_words=3, max_per_solution=1.5, top=1.0), alone).grams
    assert ("let", "us", "see") in kept and ("carry", "the", "one") not in kept
    assert ("carry", "the", "one") in mine_by(texts, MiningConfig(max_words=3, top=1.0), alone).grams


def test_only_so_many_are_clustered_and_an_empty_corpus_has_none() -> None:
    found = mine_by(SOLUTIONS, MiningConfig(max_grams=2, top=1.0), alone)
    assert found.candidates == 2 and set(found.frequency) == {4}
    nothing = mine_by([], MiningConfig(), alone)
    assert nothing.grams == () and nothing.share == 0.0


def test_with_real_embeddings_and_clusters() -> None:
    options = MiningConfig(clusters=6, top=0.2)
    found, again = (mine(SOLUTIONS, options, embedder=HashedEmbedder(), seed=3) for _ in range(2))
    assert found == again
    assert ("let", "me", "check") in found.grams and found.clusters == 6
    assert 0 < found.share < 1


def test_share_of_words_inside_phrases() -> None:
    # 2 of 4 words and 0 of 1
    assert word_share(Grams([gram_of("let me")]), ["let me see it", "no"]) == pytest.approx(0.4)


def test_equal_rows_share_a_cluster_and_there_are_no_more_than_rows() -> None:
    rows = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert cluster(rows, clusters=100, seed=0) == cluster(rows, clusters=2, seed=0)
    labels = cluster(rows, clusters=2, seed=0)
    assert labels[0] == labels[2] != labels[1]
    assert cluster(np.zeros((0, 3)), clusters=2, seed=0) == []
