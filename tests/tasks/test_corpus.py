"""Corpora in JSONL and their BM25 index: scores against the formula, ties, bad rows."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from critique_rl.errors import DataError, MissingExtraError
from critique_rl.tasks.corpus import Bm25Index, Document, read_corpus, words_of

DOCUMENTS = [
    Document("a", "the cat sat on the mat"),
    Document("b", "the dog sat"),
    Document("c", "a cat and a dog and another cat", title="Pets"),
    Document("d", "nothing of the kind"),
]


def bm25(query: str, document: Document, documents: list[Document]) -> float:
    """Lucene's BM25: sum over query words of ln(1 + (N - n + 0.5)/(n + 0.5)) tf / (tf + k1 (1 - b + b len/mean))."""
    texts = [words_of(f"{d.title} {d.text}") for d in documents]
    mean = sum(map(len, texts)) / len(texts)
    own = words_of(f"{document.title} {document.text}")
    total = 0.0
    for word in words_of(query):
        n = sum(word in text for text in texts)
        tf = own.count(word)
        if tf:
            idf = math.log(1 + (len(texts) - n + 0.5) / (n + 0.5))
            total += idf * tf / (tf + 1.5 * (1 - 0.75 + 0.75 * len(own) / mean))
    return total


@settings(deadline=None)  # bm25s loads its compiled parts with the first index
@given(st.lists(st.sampled_from(["cat", "dog", "sat", "the", "Pets", "bird", "a"]), min_size=1, max_size=4))
def test_the_order_is_that_of_the_formula(words: list[str]) -> None:
    query = " ".join(words)
    scores = {d.id: bm25(query, d, DOCUMENTS) for d in DOCUMENTS}
    found = Bm25Index(DOCUMENTS).search(query, 3)
    wanted = sorted((d for d in DOCUMENTS if scores[d.id] > 0), key=lambda d: (-round(scores[d.id], 5), d.id))[:3]
    assert [d.id for d in found] == [d.id for d in wanted]


def test_a_query_without_a_known_word_finds_nothing() -> None:
    index = Bm25Index(DOCUMENTS)
    assert index.search("elephant", 3) == []
    assert index.search("", 3) == []
    assert index.search("?!", 3) == []


def test_among_equal_scores_the_earlier_document_comes_first() -> None:
    index = Bm25Index([Document(str(i), "same words here") for i in range(20)])
    assert [d.id for d in index.search("same", 3)] == ["0", "1", "2"]


def test_case_makes_no_difference() -> None:
    index = Bm25Index(DOCUMENTS)
    assert index.search("CAT", 2) == index.search("cat", 2)


def test_no_words_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="no document has a word"):
        Bm25Index([Document("a", "..."), Document("b", "!")])


def corpus(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text(text, encoding="utf-8")
    return path


def test_rows(tmp_path: Path) -> None:
    path = corpus(
        tmp_path,
        '\ufeff{"id": "x", "text": "one", "title": "T", "url": "u"}\n\n{"id": 7, "contents": "two"}\n'
        '{"text": "three"}\n',
    )
    assert read_corpus(path) == [Document("x", "one", "T"), Document("7", "two"), Document("4", "three")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n', "line 2: id 'a' is already used on line 1"),
        ('{"id": "a", "text": "x"}\nnot json\n', "line 2: not JSON"),
        ("[1]\n", "line 1: got"),
        ('{"id": "a", "text": " "}\n', "line 1: text is"),
        ('{"id": "a"}\n', "line 1: text is"),
        ('{"id": true, "text": "x"}\n', "line 1: id is"),
        ('{"id": "a", "text": "x", "title": 3}\n', "title 3"),
        ("\n", "has no rows"),
    ],
)
def test_bad_rows_are_named_by_file_and_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match="corpus") as caught:
        read_corpus(corpus(tmp_path, text))
    assert said in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_corpus(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="cannot be read"):
        read_corpus(tmp_path)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'critique-rl\[search\]'"):
        Bm25Index(DOCUMENTS)
