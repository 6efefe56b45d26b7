"""Texts as hashed counts of words and of the letters in them: no model, no vocabulary, nothing to be fitted.

Owns: which features are counted and how they weigh. A text's vector depends on that text alone, so it stays the same
from version to version of whatever the text is kept in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import numpy as np

from critique_rl.errors import MissingExtraError
from critique_rl.types import Array

FEATURES = 1024
"""Columns of each of the two halves."""


class _Sparse(Protocol):
    def toarray(self) -> Array: ...


class _Vectorizer(Protocol):
    def transform(self, raw_documents: Sequence[str]) -> _Sparse: ...


class HashedEmbedder:
    """[N, 2048] rows: half of the length from words, half from runs of 3 to 5 letters within a word, so that "carried"
    is near to "carry" and "tens" to "tens column".

    What it measures is shared wording, not meaning: a paraphrase without a common word is far away. Similarities are in
    [0, 1] up to rounding.
    """

    def __init__(self) -> None:
        """Raises MissingExtraError without scikit-learn."""
        try:
            from sklearn.feature_extraction.text import HashingVectorizer
        except ImportError:
            raise MissingExtraError("scikit-learn", "text", 'embedder = "hashed"') from None
        # Signs would let two features that share a column cancel: a short text could lose all it has.
        words = HashingVectorizer(token_pattern=r"(?u)\w+", n_features=FEATURES, alternate_sign=False)
        letters = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), n_features=FEATURES, alternate_sign=False)
        self._halves = cast("tuple[_Vectorizer, _Vectorizer]", (words, letters))

    def embed(self, texts: Sequence[str]) -> Array:
        """[N, 2048] unit rows."""
        if not texts:
            return np.zeros((0, 2 * FEATURES))
        rows = np.hstack([half.transform(texts).toarray() for half in self._halves])
        return unit_rows(rows)


def unit_rows(rows: Array) -> Array:
    """Each row divided by its length; a row of zeros stays one."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
