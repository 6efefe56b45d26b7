"""What turns texts into vectors, and which one a config names. Must not know: what the vectors are for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from critique_rl.types import Array

HASHED = "hashed"
"""The embedder that needs no model."""


class Embedder(Protocol):
    """Texts as vectors whose dot products are cosine similarities; equal texts get equal vectors, in any company."""

    def embed(self, texts: Sequence[str]) -> Array:
        """[N, D] rows of length 1; a text in which nothing can be read is a row of zeros, alike to nothing."""
        ...


def build_embedder(name: str) -> Embedder:
    """`"hashed"`, or a sentence-transformers model by its Hub name or directory; nothing is loaded before the first
    text. Errors: MissingExtraError with the command that installs what is missing."""
    if name == HASHED:
        from critique_rl.embedding.hashed import HashedEmbedder

        return HashedEmbedder()
    from critique_rl.embedding.sentence import SentenceEmbedder

    return SentenceEmbedder(name)
