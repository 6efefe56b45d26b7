"""A sentence-transformers model behind a fake module: loaded late and once, rows scaled, failures named."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest

from critique_rl.embedding.by_name import build_embedder
from critique_rl.errors import MissingExtraError, ModelError

LOADED: list[tuple[str, str]] = []


class FakeModel:
    def __init__(self, name: str, *, device: str) -> None:
        if name == "nobody/nothing":
            raise OSError("no such model")
        LOADED.append((name, device))

    def encode(self, sentences: list[str], *, show_progress_bar: bool) -> object:
        assert not show_progress_bar
        return np.array([[3.0, 4.0 * len(text)] for text in sentences], dtype=np.float32)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("sentence_transformers")
    monkeypatch.setattr(module, "SentenceTransformer", FakeModel, raising=False)
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    LOADED.clear()


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


def test_a_model_that_is_not_there(library: None) -> None:
    with pytest.raises(ModelError, match=r"embedder = 'nobody/nothing' cannot be loaded: no such model; give"):
        build_embedder("nobody/nothing").embed(["a"])


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'critique-rl\[embeddings\]'"):
        build_embedder("some/model").embed(["a"])
