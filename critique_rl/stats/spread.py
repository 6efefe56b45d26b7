"""Which few of many texts are most unlike each other.

Owns: the greedy choice. Must not know: what the texts are.
"""

from __future__ import annotations

from collections.abc import Sequence

from critique_rl.stats.diversity import jaccard_kernel


def most_different(texts: Sequence[str], count: int) -> list[int]:
    """The places of `count` texts, chosen one by one as far as can be from those chosen before; the first is chosen.

        next = argmax_i min_{j chosen} (1 - |W_i and W_j| / |W_i or W_j|),   W: a text's words, in any case

    The first place wins a tie, so that equal texts are chosen last. This greedy choice has at least half of the largest
    possible smallest distance (Gonzalez, Theoretical Computer Science 38, 1985). For diverse first queries of parallel
    searches see arXiv 2606.17209 (known to us from a summary only). Raises ValueError for a count outside of 1 to n.
    """
    if not 1 <= count <= len(texts):
        raise ValueError(f"count is {count}; wanted 1 to {len(texts)}, the number of texts")
    distance = 1.0 - jaccard_kernel([frozenset(text.casefold().split()) for text in texts])
    chosen = [0]
    while len(chosen) < count:
        left = [i for i in range(len(texts)) if i not in chosen]
        chosen.append(max(left, key=lambda i: (float(min(distance[i, chosen])), -i)))
    return chosen
