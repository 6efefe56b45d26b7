"""How the episodes of one task searched: how different their queries are, and how much of the evidence is the same.

Owns: these shares, each in [0, 1]. Must not know: who asked, what is right. First queries stand by themselves, since
parallel episodes begin alike (arXiv 2606.17209, known to us from a summary only); a tool's words never enter.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from critique_rl.config.search import QUERY_RATES
from critique_rl.stats.diversity import mean_overlap, normal_query, unique_ratio
from critique_rl.types import Turn

_ANSWER = "answer"


def query_shares(tasks: Sequence[Sequence[Sequence[Turn]]]) -> dict[str, list[float]]:
    """Each name of QUERY_RATES with a value for every task that has one; empty without episodes.

    `query_unique_ratio`: different queries / queries of all of a task's episodes, `first_query_unique_ratio` of their
    first turns alone; `first_query_jaccard_div`: 1 - mean pairwise Jaccard similarity of the first queries' words;
    `evidence_overlap`: mean pairwise Jaccard similarity of the sets of documents that the episodes were shown;
    `repeated_queries`: the share of queries that the same episode had asked before; `answered`: the share of episodes
    that end with an answer. A task without what a share is of (a query, two episodes with documents) is left out of it,
    and a task with one episode out of both ratios: a query that has no other beside it is always unique.
    """
    found: dict[str, list[float]] = {name: [] for name in QUERY_RATES}
    for episodes in tasks:
        played = [turns for turns in episodes if turns]
        if not played:
            continue
        for name, value in _of_task(played).items():
            if value is not None:
                found[name].append(value)
    return {name: values for name, values in found.items() if values}


def _of_task(episodes: Sequence[Sequence[Turn]]) -> dict[str, float | None]:
    several = len(episodes) > 1
    queries = [[turn.argument for turn in turns if _is_query(turn)] for turns in episodes]
    asked = [query for of_episode in queries for query in of_episode]
    firsts = [turns[0].argument for turns in episodes if _is_query(turns[0])]
    shown = [frozenset(document for turn in turns for document in turn.documents) for turns in episodes]
    overlap = mean_overlap([frozenset(normal_query(query).split()) for query in firsts])
    again = [1.0 - (unique_ratio(of_episode) or 0.0) for of_episode in queries if of_episode]
    return {
        "query_unique_ratio": unique_ratio(asked) if several else None,
        "first_query_unique_ratio": unique_ratio(firsts) if several else None,
        "first_query_jaccard_div": None if overlap is None else 1.0 - overlap,
        "evidence_overlap": mean_overlap([documents for documents in shown if documents]),
        "repeated_queries": float(np.mean(again)) if again else None,
        "answered": float(np.mean([turns[-1].action == _ANSWER for turns in episodes])),
    }


def _is_query(turn: Turn) -> bool:
    return turn.action not in ("", _ANSWER)
