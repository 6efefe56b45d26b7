"""Texts as a sentence-transformers model sees them; the library is loaded with the first text.

Owns: loading the model once, on the CPU: it must not take memory from the policy that is trained.
Must not know: what the vectors are for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import numpy as np

from critique_rl.embedding.hashed import unit_rows
from critique_rl.errors import MissingExtraError, ModelError
from critique_rl.types import Array


class _Model(Protocol):
    def encode(self, sentences: list[str], *, show_progress_bar: bool) -> object: ...


class SentenceEmbedder:
    """[N, D] rows of a model named by its Hub name or its directory; D is the model's own."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._model: _Model | None = None

    def embed(self, texts: Sequence[str]) -> Array:
        """[N, D] unit rows. Errors: MissingExtraError, ModelError."""
        if not texts:
            return np.zeros((0, 0))
        if self._model is None:
            self._model = _load(self._name)
        return unit_rows(np.asarray(self._model.encode(list(texts), show_progress_bar=False), dtype=np.float64))


def _load(name: str) -> _Model:
    try:
        from sentence_transformers import SentenceTransformer  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtraError("sentence-transformers", "embeddings", f"embedder = {name!r}") from None
    try:
        return cast(_Model, SentenceTransformer(name, device="cpu"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"embedder = {name!r} cannot be loaded: {error}; give the Hub name or the directory of a "
            'sentence-transformers model, or "hashed", which needs none'
        ) from error
