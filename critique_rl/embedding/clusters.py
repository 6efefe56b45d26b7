"""Vectors of texts in clusters of alike ones. Must not know: what the texts are for."""

from __future__ import annotations

from typing import Protocol, cast

import numpy as np

from critique_rl.errors import MissingExtraError
from critique_rl.types import Array


class _KMeans(Protocol):
    def fit_predict(self, rows: Array) -> Array: ...


def cluster(rows_ND: Array, *, clusters: int, seed: int) -> list[int]:
    """The cluster of each row by k-means, numbered in the order in which rows first fall into them.

    Equal rows share one; there are no more clusters than different rows. Errors: MissingExtraError.
    """
    try:
        from sklearn.cluster import KMeans
    except ImportError:
        raise MissingExtraError("scikit-learn", "text", "the mining of phrases") from None
    if not len(rows_ND):
        return []
    unique_UD, place_N = np.unique(rows_ND, axis=0, return_inverse=True)
    found = place_N.reshape(-1)
    if len(unique_UD) > clusters:
        model = cast(_KMeans, KMeans(n_clusters=clusters, random_state=seed))
        found = np.asarray(model.fit_predict(unique_UD))[found]
    names: dict[int, int] = {}
    return [names.setdefault(int(label), len(names)) for label in found]
