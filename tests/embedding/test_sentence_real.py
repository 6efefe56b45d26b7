"""The library itself with a random model of a few thousand weights on disk: what it gives, and what it refuses."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from critique_rl.embedding.sentence import SentenceEmbedder
from critique_rl.errors import ModelError
from critique_rl.types import Array

sentence_transformers = pytest.importorskip("sentence_transformers")

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
TEXTS = [f"{LETTERS[i % 7 : i % 7 + 1 + i % 5]} " * (1 + i % 11) + LETTERS[i % 26] for i in range(80)]
Weights = dict[str, torch.Tensor]
Alter = Callable[[Callable[[Weights], Weights]], Path]


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordPiece({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.normalizer = normalizers.Lowercase()  # pyright: ignore[reportAttributeAccessIssue]
    words.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    words.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=64, **names)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformers model of which no sentence model has been made."""
    directory = tmp_path_factory.mktemp("bert")
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def saved(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a sentence model: mean pooling over its tokens."""
    directory = tmp_path_factory.mktemp("sentences")
    sentence_transformers.SentenceTransformer(str(plain), device="cpu").save(str(directory))
    return directory


@pytest.fixture(scope="module")
def embedder(saved: Path) -> SentenceEmbedder:
    return SentenceEmbedder(str(saved))


@pytest.fixture
def altered(saved: Path, tmp_path: Path) -> Alter:
    """A copy of the model with other weights."""

    def alter(change: Callable[[Weights], Weights]) -> Path:
        copy = tmp_path / "altered"
        shutil.copytree(saved, copy)
        weights = change(load_file(copy / "model.safetensors"))
        (copy / "model.safetensors").unlink()
        save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
        return copy

    return alter


def by_hand(plain: Path, text: str) -> Array:
    """The mean of the last hidden states over one text's tokens, scaled."""
    model = BertModel.from_pretrained(plain).eval()
    ids = tokenizer()(text, return_tensors="pt")
    with torch.no_grad():
        states_TD = cast(torch.Tensor, model(**ids).last_hidden_state)[0]
    mean_D = states_TD.mean(dim=0).numpy().astype(np.float64)
    return mean_D / np.linalg.norm(mean_D)


def test_rows_are_scaled_means_over_the_tokens(plain: Path, embedder: SentenceEmbedder) -> None:
    rows = embedder.embed(["abc de", "f"])
    assert (rows.shape, rows.dtype) == ((2, 16), np.float64)
    assert rows[0] == pytest.approx(by_hand(plain, "abc de"), abs=1e-6)
    assert rows[1] == pytest.approx(by_hand(plain, "f"), abs=1e-6)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1.0, abs=1e-12)


def test_several_batches_are_what_each_text_is_alone(embedder: SentenceEmbedder) -> None:
    together = embedder.embed(TEXTS)
    assert together == pytest.approx(np.concatenate([embedder.embed([text]) for text in TEXTS]), abs=1e-6)
    assert np.array_equal(together, embedder.embed(TEXTS))


def test_order_and_repetition_change_not_even_a_last_digit(embedder: SentenceEmbedder) -> None:
    order = np.random.default_rng(0).permutation(len(TEXTS))
    shuffled = [TEXTS[i] for i in order]
    assert np.array_equal(embedder.embed(shuffled + shuffled[:9])[: len(TEXTS)], embedder.embed(TEXTS)[order])


def test_texts_of_all_kinds(embedder: SentenceEmbedder) -> None:
    rows = embedder.embed(["", "a" * 500, "\N{SNOWMAN}", "\ud83d", "a\x00b\n"])
    assert rows.shape == (5, 16) and np.isfinite(rows).all()
    assert embedder.embed([]).shape[0] == 0


def test_the_random_numbers_of_the_run_are_left_alone(saved: Path, plain: Path) -> None:
    for directory in (saved, plain):
        before = torch.get_rng_state()
        SentenceEmbedder(str(directory)).embed(["a"])
        assert torch.equal(before, torch.get_rng_state())


def test_weights_in_half_precision_are_read_as_whole_ones(altered: Alter, embedder: SentenceEmbedder) -> None:
    copy = altered(lambda weights: {name: value.bfloat16() for name, value in weights.items()})
    config = copy / "config.json"
    config.write_text(config.read_text().replace('"float32"', '"bfloat16"'))
    assert SentenceEmbedder(str(copy)).embed(["abc"]) == pytest.approx(embedder.embed(["abc"]), abs=0.02)


def test_a_missing_weight_that_is_not_used_is_no_matter(altered: Alter, embedder: SentenceEmbedder) -> None:
    copy = altered(lambda weights: {name: value for name, value in weights.items() if "pooler" not in name})
    before = torch.get_rng_state()
    assert np.array_equal(SentenceEmbedder(str(copy)).embed(["abc"]), embedder.embed(["abc"]))
    assert torch.equal(before, torch.get_rng_state())


def test_a_missing_weight_that_is_used_is_an_error(altered: Alter) -> None:
    copy = altered(lambda weights: {n: v for n, v in weights.items() if n != "encoder.layer.1.output.dense.weight"})
    before = torch.get_rng_state()
    with pytest.raises(ModelError, match="lacks weights, which were filled with random numbers"):
        SentenceEmbedder(str(copy)).embed(["abc"])
    assert torch.equal(before, torch.get_rng_state())


def test_a_model_that_gives_no_numbers_is_an_error(altered: Alter) -> None:
    copy = altered(lambda weights: {name: value * float("nan") for name, value in weights.items()})
    with pytest.raises(ModelError, match="gives no finite vector of 'abc'"):
        SentenceEmbedder(str(copy)).embed(["abc"])


def cut(copy: Path) -> None:
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors").write_bytes(weights[: len(weights) // 2])


def without_a_file(name: str) -> Callable[[Path], None]:
    return lambda copy: (copy / name).unlink()


def not_json(copy: Path) -> None:
    (copy / "config.json").write_text("{")


@pytest.mark.parametrize(
    "damage",
    [cut, not_json, without_a_file("model.safetensors"), without_a_file("tokenizer.json"), shutil.rmtree],
    ids=["weights cut short", "config is no JSON", "no weights", "no tokenizer", "gone since"],
)
def test_a_damaged_directory_is_one_clear_line(saved: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    embedder = SentenceEmbedder(str(copy))
    damage(copy)
    with pytest.raises(ModelError, match=r"embedder = '.*' cannot be loaded: .*; give the Hub name or the") as caught:
        embedder.embed(["a"])
    assert "\n" not in str(caught.value)


def test_a_hub_name_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ModelError, match=r"'nobody/no-such-model' cannot be loaded: .*connect.*\(a Hub name needs a network"
    ):
        SentenceEmbedder("nobody/no-such-model").embed(["a"])
