"""Formats that nobody named: k-means on the structure of the first answers, then frozen.

Owns: which features of a text are structure, and that shares stay comparable because centroids never move again. Must
not know: shares, rewards. An answer far from every centroid is `other`: a format that was not there at first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from scipy.cluster import vq

from critique_rl.config.monitors import OTHER
from critique_rl.errors import CheckpointError

FAR = 2.0
"""An answer is `other` beyond so many times the distance of the farthest first answer from its centroid."""
_NEAR = 0.5  # the least such distance, in features: where all first answers are equal, their distance is 0
_FEATURES = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        r"^[ \t]*(?:```|~~~)",
        r"^[ \t]*<[A-Za-z/][^>\n]*>",
        r"^[ \t]*(?:def|class|import|from|return|for|if|while|print)\b[^\n]*[:()=]",
        r"^[ \t]*\w+[ \t]*=[^=\n]",
        r"\\[A-Za-z]+",
        r"^[ \t]*(?:step[ \t]*)?\d{1,3}[.):]",
        r"^[ \t]*[-*\u2022+][ \t]",
        r"^[ \t]*#+[ \t]",
        r"^[ \t]*\|",
    )
)


@dataclass(slots=True, kw_only=True)
class _State:
    centroids: list[list[float]] = field(default_factory=list[list[float]])
    radius: float = 0.0


_STATE: TypeAdapter[_State] = TypeAdapter(_State)


class StructureClusters:
    """k-means over `features`; cluster_0 is the commonest of the first answers."""

    def __init__(self, count: int, *, seed: int) -> None:
        self._count = count
        self._seed = seed
        self._state = _State()
        self.names = (*(f"cluster_{i}" for i in range(count)), OTHER)

    def fit(self, texts: Sequence[str]) -> None:
        """Find the clusters of these texts, if none were found before; no text finds none."""
        if self._state.centroids or not texts:
            return
        data = _all_features(texts)
        centroids = _centroids(data, self._count, seed=self._seed)
        near = _distances(data, centroids)
        order = np.argsort(-np.bincount(near.argmin(axis=1), minlength=len(centroids)), kind="stable")
        radius = max(_NEAR, float(near.min(axis=1).max()))
        self._state = _State(centroids=cast("list[list[float]]", centroids[order].tolist()), radius=radius)

    def label(self, texts: Sequence[str]) -> list[str]:
        if not self._state.centroids:
            return [OTHER] * len(texts)
        known = list(dict.fromkeys(texts))
        distances = _distances(_all_features(known), np.asarray(self._state.centroids)) if known else np.zeros((0, 1))
        labels = {
            text: OTHER if row.min() > FAR * self._state.radius else self.names[int(row.argmin())]
            for text, row in zip(known, distances, strict=True)
        }
        return [labels[text] for text in texts]

    def state_dict(self) -> dict[str, object]:
        return cast("dict[str, object]", _STATE.dump_python(self._state, mode="json"))

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """The inverse of `state_dict`. Errors: CheckpointError."""
        try:
            self._state = _STATE.validate_python(dict(state))
        except ValidationError as error:
            raise CheckpointError(f"format clusters in the checkpoint: {error}; resume from an older one") from error


def features(text: str) -> list[float]:
    """Structure as numbers: log counts of line starts and marks, log length and lines, shares of letters and digits."""
    counts = [np.log1p(sum(1 for _ in pattern.finditer(text))) for pattern in _FEATURES]
    length = max(1, len(text))
    return [
        *map(float, counts),
        float(np.log1p(len(text))) / 2,
        float(np.log1p(text.count("\n"))),
        2 * sum(map(str.isalpha, text)) / length,
        2 * sum(map(str.isdigit, text)) / length,
        2 * text.count(" ") / length,
    ]


def _centroids(data: NDArray[np.float64], most: int, *, seed: int) -> NDArray[np.float64]:
    different = np.unique(data, axis=0)
    if len(different) <= most:
        return different
    for count in range(most, 1, -1):
        try:
            found = vq.kmeans2(data, count, minit="++", rng=np.random.default_rng(seed), missing="raise")[0]
        except vq.ClusterError:  # a cluster without members: there are fewer
            continue
        return np.asarray(found, dtype=np.float64)
    return data.mean(axis=0, keepdims=True)


def _all_features(texts: Sequence[str]) -> NDArray[np.float64]:
    known = {text: features(text) for text in set(texts)}
    return np.asarray([known[text] for text in texts], dtype=np.float64)


def _distances(data: NDArray[np.float64], centroids: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.norm(data[:, None, :] - centroids[None, :, :], axis=2), dtype=np.float64)
