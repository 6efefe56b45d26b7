"""Documents to search in: read from JSONL, indexed by BM25.

Owns: the row format of a corpus, how text becomes words, the order of ties. Must not know: calls, episodes, tasks.
Scores are those of the library bm25s (Lucene's variant, k1 1.5, b 0.75).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from critique_rl.errors import DataError, MissingExtraError
from critique_rl.tasks.rows import read_rows

EXAMPLE = '{"id": "d17", "title": "Ada Lovelace", "text": "..."}'
_WORD = re.compile(r"\w+")


class Document(NamedTuple):
    """One document; `title` may be empty."""

    id: str
    text: str
    title: str = ""


def read_corpus(path: Path) -> list[Document]:
    """Every row of a JSONL file: `text` (or `contents`), and optionally `id` (else the line number) and `title`.

    Other keys are left alone: a corpus often has more than a search needs. Errors: DataError with file and line.
    """

    def read(line: bytes, where: str, number: int) -> Document:
        return _document(line, where, default_id=str(number))

    return read_rows(path, read, called="tasks.corpus:", wanted=f"one JSON object a line, such as {EXAMPLE}")


def _document(line: bytes, where: str, *, default_id: str) -> Document:
    try:
        value: object = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error}); wanted, say, {EXAMPLE}") from None
    if not isinstance(value, dict):
        raise DataError(f"{where}: got {str(value)[:60]!r}; wanted a JSON object such as {EXAMPLE}")
    row = cast("dict[str, object]", value)
    text = row.get("text", row.get("contents"))
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where}: text is {str(text)[:60]!r}; wanted a text that is not empty, such as {EXAMPLE}")
    name, title = row.get("id", default_id), row.get("title", "")
    if isinstance(name, bool) or not isinstance(name, (str, int)) or not isinstance(title, str) or not str(name):
        raise DataError(f"{where}: id is {name!r} and title {title!r}; wanted a text or whole number, and a text")
    return Document(str(name), text, title)


class Bm25Index:
    """The best documents for a query, best first. Errors: MissingExtraError without bm25s, ValueError for no words."""

    def __init__(self, documents: Sequence[Document]) -> None:
        try:
            import bm25s
        except ImportError:
            raise MissingExtraError("bm25s", "search", "A task with searches") from None
        self.documents = tuple(documents)
        words = [words_of(f"{d.title} {d.text}") for d in self.documents]
        if not any(words):
            raise ValueError("no document has a word in it; nothing could ever be found")
        self._index: Any = bm25s.BM25(method="lucene", k1=1.5, b=0.75, backend="numpy")
        self._index.index(words, show_progress=False)

    def search(self, query: str, k: int) -> list[Document]:
        """At most `k` documents that share a word with the query; among equal scores the earlier one comes first."""
        words = words_of(query)
        if not words:  # which bm25s does not expect
            return []
        scores = cast("np.ndarray[tuple[int], np.dtype[np.float64]]", self._index.get_scores(words))
        hits = np.flatnonzero(scores > 0)
        if len(hits) > k:
            least = np.partition(scores[hits], len(hits) - k)[len(hits) - k]
            hits = hits[scores[hits] >= least]
        best = sorted(hits.tolist(), key=lambda i: (-float(scores[i]), i))[:k]
        return [self.documents[i] for i in best]


def words_of(text: str) -> list[str]:
    """The words that a query and a document are compared by: runs of letters and digits, whatever their case."""
    return _WORD.findall(text.casefold())
