"""Hashed words and letters: unit rows that depend on the text alone, near for shared wording."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from critique_rl.embedding.by_name import build_embedder
from critique_rl.embedding.hashed import FEATURES, HashedEmbedder, unit_rows
from critique_rl.errors import MissingExtraError

EMBEDDER = HashedEmbedder()


def alike(left: str, right: str) -> float:
    a, b = EMBEDDER.embed([left, right])
    return float(a @ b)


def test_two_of_three_words_are_shared() -> None:
    # "aa bb cc" and "aa bb dd": words share 2 of 3 counts, each 1, so their cosine is 2/3. Letters: char_wb pads each
    # word with a blank: " aa", "aa ", " aa " for runs of 3 to 5; 3 runs a word, 6 of 9 shared: 2/3 again. Halves of
    # equal length: the whole cosine is (2/3 + 2/3) / 2.
    assert alike("aa bb cc", "aa bb dd") == pytest.approx(2 / 3, abs=1e-12)


def test_a_form_of_a_word_is_nearer_than_another_word() -> None:
    assert alike("carry the one", "carried the one") > alike("carry the one", "write the one")


def test_single_digits_count() -> None:
    assert alike("add 3 and 8", "add 3 and 8") == pytest.approx(1.0)
    assert alike("add 3 and 8", "add 2 and 7") < 0.9


def test_case_does_not_matter() -> None:
    assert alike("Carry The One", "carry the one") == pytest.approx(1.0)


def test_nothing_to_read_is_alike_to_nothing() -> None:
    rows = EMBEDDER.embed(["", "   ", "carry"])
    assert np.all(rows[:2] == 0)
    assert np.linalg.norm(rows[2]) == pytest.approx(1.0)


def test_signs_without_words_are_still_a_unit_row() -> None:
    row = EMBEDDER.embed(["+ = +"])[0]
    assert np.linalg.norm(row) == pytest.approx(1.0)
    assert np.all(row[:FEATURES] == 0)  # no words


def test_no_text_is_no_row() -> None:
    assert EMBEDDER.embed([]).shape == (0, 2 * FEATURES)


@given(st.lists(st.text(max_size=40), min_size=1, max_size=5))
def test_company_changes_nothing(texts: list[str]) -> None:
    together = EMBEDDER.embed(texts)
    assert np.array_equal(together, np.vstack([HashedEmbedder().embed([text]) for text in texts]))
    lengths = np.linalg.norm(together, axis=1)
    assert np.all((lengths == 0) | (np.abs(lengths - 1) < 1e-12))
    similar = together @ together.T
    assert np.all(similar >= 0)
    assert np.all(similar <= 1 + 1e-9)


def test_unit_rows_by_hand() -> None:
    # |(3, 4)| = 5
    assert unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist() == [[0.6, 0.8], [0.0, 0.0]]


def test_it_is_found_by_its_name() -> None:
    assert isinstance(build_embedder("hashed"), HashedEmbedder)


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'critique-rl\[text\]'"):
        build_embedder("hashed")
