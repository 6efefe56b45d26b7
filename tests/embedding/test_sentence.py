"""A sentence-transformers model behind a fake module: loaded late and once, rows scaled, failures named."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Self

import numpy as np
import pytest

from critique_rl.embedding.by_name import build_embedder
from critique_rl.errors import MissingExtraError, ModelError

LOADED: list[tuple[str, str]] = []
SEEN: list[list[str]] = []


class FakeModel:
    def __init__(self, name: str, *, device: str) -> None:
        if name == "nobody/nothing":
            raise OSError("no such model")
        if name == "some/broken":
            raise RuntimeError("sizes differ.\nSee the report above.")
        LOADED.append((name, device))

    def float(self) -> Self:
        return self

    def encode(self, sentences: list[str], *, show_progress_bar: bool) -> object:
        assert not show_progress_bar
        SEEN.append(sentences)
        lengths = [float("nan") if text == "nan" else 4.0 * len(text) for text in sentences]
        return np.array([[3.0, length] for length in lengths], dtype=np.float32)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("sentence_transformers")
    module.__spec__ = ModuleSpec("sentence_transformers", None)
    monkeypatch.setattr(module, "SentenceTransformer", FakeModel, raising=False)
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    LOADED.clear()
    SEEN.clear()


def test_rows_have_length_one(library: None) -> None:
    # (3, 4) / 5 for one letter, (0, 0) never: a model's rows are scaled whatever it gives
    assert build_embedder("some/model").embed(["a"]) == pytest.approx(np.array([[0.6, 0.8]]))


def test_the_model_is_loaded_late_and_once_on_the_cpu(library: None) -> None:
    embedder = build_embedder("some/model")
    assert LOADED == []
    assert embedder.embed([]).shape[0] == 0
    assert LOADED == []
    embedder.embed(["a"])
    embedder.embed(["b", "c"])
    assert LOADED == [("some/model", "cpu")]


def test_each_set_of_texts_is_encoded_in_one_way_only(library: None) -> None:
    embedder = build_embedder("some/model")
    rows = embedder.embed(["bb", "a", "bb"])
    assert rows.tolist() == embedder.embed(["a", "bb"])[[1, 0, 1]].tolist()
    assert SEEN == [["a", "bb"], ["a", "bb"]]


def test_half_of_a_surrogate_pair_is_read_as_a_question_mark(library: None) -> None:
    build_embedder("some/model").embed(["\ud83d"])
    assert SEEN == [["?"]]


def test_a_vector_that_is_no_number_is_no_silence(library: None) -> None:
    # Scaled by its length it would be a row of zeros, which means a text in which nothing can be read.
    with pytest.raises(ModelError, match="embedder = 'some/model' gives no finite vector of 'nan'; give the Hub name"):
        build_embedder("some/model").embed(["a", "nan"])


@pytest.mark.parametrize(
    ("name", "said"), [("nobody/nothing", "no such model"), ("some/broken", "sizes differ")], ids=["absent", "broken"]
)
def test_a_model_that_cannot_be_loaded(library: None, name: str, said: str) -> None:
    with pytest.raises(ModelError, match=rf"embedder = '{name}' cannot be loaded: {said}; give the Hub name"):
        build_embedder(name).embed(["a"])


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nothing/here", "~/nothing/here"])
def test_a_path_that_leads_nowhere_is_told_before_the_first_text(library: None, name: str) -> None:
    with pytest.raises(ModelError, match=f"embedder = '{name}': there is no such directory; give"):
        build_embedder(name)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'critique-rl\[embeddings\]'"):
        build_embedder("some/model")


def test_a_library_that_does_not_work(library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys.modules["sentence_transformers"], "SentenceTransformer")
    with pytest.raises(ModelError, match="sentence-transformers cannot be imported: cannot import name"):
        build_embedder("some/model").embed(["a"])
