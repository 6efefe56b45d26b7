"""Texts as a sentence-transformers model sees them; the library is loaded with the first text.

Owns: loading the model once, on the CPU, where it takes no memory from the policy that is trained, and without drawing
from the random numbers of the run. Must not know: what the vectors are for.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from critique_rl.embedding.hashed import unit_rows
from critique_rl.errors import MissingExtraError, ModelError
from critique_rl.types import Array

_PROBE = "The ones add up to more than 9: carry."
_WANTED = (
    'give the Hub name or the directory of a sentence-transformers model, or "hashed", which needs none (a Hub name '
    "needs a network, or the model in the Hub's cache)"
)


class _Model(Protocol):
    def encode(self, sentences: list[str], *, show_progress_bar: bool) -> object: ...

    def float(self) -> _Model: ...


class SentenceEmbedder:
    """[N, D] rows of a model named by its Hub name or its directory; D is the model's own, as is the length at which it
    cuts a text off. A plain transformers model is read by the mean over its tokens, as the library does it."""

    def __init__(self, name: str) -> None:
        """Raises MissingExtraError without sentence-transformers, ModelError for a path that leads nowhere."""
        if find_spec("sentence_transformers") is None:
            raise MissingExtraError("sentence-transformers", "embeddings", f"embedder = {name!r}")
        if name.startswith((".", "/", "~")) and not Path(name).expanduser().is_dir():
            raise ModelError(f"embedder = {name!r}: there is no such directory; {_WANTED}")
        self._name = name
        self._model: _Model | None = None

    def embed(self, texts: Sequence[str]) -> Array:
        """[N, D] unit rows. Errors: MissingExtraError, ModelError."""
        if not texts:
            return np.zeros((0, 0))
        if self._model is None:
            self._model = _load(self._name)
        # A row depends in its last digits on what it is padded with: each set of texts is encoded in one way only.
        distinct = sorted(set(texts))
        rows = _encoded(self._model, distinct)
        if not bool(np.isfinite(rows).all()):
            bad = distinct[int(np.argmin(np.isfinite(rows).all(axis=1)))]
            raise ModelError(f"embedder = {self._name!r} gives no finite vector of {bad[:80]!r}; {_WANTED}")
        place = {text: row for row, text in enumerate(distinct)}
        return unit_rows(rows)[[place[text] for text in texts]]


def _encoded(model: _Model, texts: list[str]) -> Array:
    # Half of a surrogate pair, which JSON can hold, is an error to tokenizers.
    readable = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
    return np.asarray(model.encode(readable, show_progress_bar=False), dtype=np.float64)


def _load(name: str) -> _Model:
    import torch

    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ModelError(f"embedder = {name!r}: sentence-transformers cannot be imported: {error}") from error

    def read() -> _Model:
        return cast(_Model, SentenceTransformer(str(Path(name).expanduser()), device="cpu")).float()

    guessed = False
    try:
        with torch.random.fork_rng(devices=[]):
            seeded = torch.default_generator.manual_seed(0).get_state()
            model = read()
            if not torch.equal(seeded, torch.get_rng_state()):  # weights that are in no file were drawn at random
                torch.default_generator.manual_seed(1)
                guessed = not np.array_equal(_encoded(model, [_PROBE]), _encoded(read(), [_PROBE]))
    except Exception as error:  # transformers, tokenizers, safetensors and torch each raise kinds of their own
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"embedder = {name!r} cannot be loaded: {lines[0].rstrip('.')}; {_WANTED}") from error
    if guessed:
        raise ModelError(
            f"embedder = {name!r} lacks weights, which were filled with random numbers, and its vectors depend on "
            f"them; {_WANTED}"
        )
    return model
