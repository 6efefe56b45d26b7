"""The token where a stated confidence begins, against each token's bytes: merges across the border, split letters."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from critique_rl.config.rewards import TAGGED
from critique_rl.loop.collect import confidence_tokens
from critique_rl.rewards.confidence import ConfidenceReward
from critique_rl.rewards.exact import ExactReward
from critique_rl.types import Message, Rollout, Score, Task, TokenIds

CORPUS = ["<answer>42</answer><confidence>0.5</confidence>", "<answer>é</answer>\n<confidence>0.75</confidence>"] * 9


def _byte_level() -> Tokenizer:
    """Byte-level BPE that may merge across any border: `><` is a token, and most letters beyond ASCII are several."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False, max_token_length=3
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _byte_fallback() -> Tokenizer:
    """Letters that are not in the vocabulary become bytes; a run of them that is not whole, one mark for each."""
    vocab = {f"<0x{n:02X}>": n for n in range(256)} | {chr(n): 200 + n for n in range(60, 127)} | {"?": 999}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="?"))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


BYTES = _byte_level()
FALLBACK = _byte_fallback()
OF_CHARACTER = dict(zip(pre_tokenizers.ByteLevel.alphabet(), range(256), strict=True))


def rollout(ids: TokenIds, text: str) -> Rollout:
    return Rollout(
        id="r",
        task_id="t",
        prompt_ids=(1,),
        completion_ids=ids,
        behaviour_logprobs=(0.0,) * len(ids),
        text=text,
        finished=True,
        policy_version=0,
    )


def found(tokenizer: Tokenizer, ids: TokenIds, text: str, start: int) -> int | None:
    score = Score(reward=1.0, confidence=0.5, confidence_start=start)
    return confidence_tokens([rollout(ids, text)], [score], decode=lambda some: tokenizer.decode(list(some))).get("r")


def lengths(ids: TokenIds) -> list[int]:
    """Bytes of each token: a byte-level token has one character a byte."""
    return [len(BYTES.id_to_token(i) or "") for i in ids]


def wanted(ids: TokenIds, text: str, start: int) -> int:
    """Plain loop: the first token that ends behind the border, in bytes."""
    border, end = len(text[:start].encode()), 0
    for index, length in enumerate(lengths(ids)):
        end += length
        if end > border:
            return index
    raise AssertionError


def test_the_tokenizer_merges_across_the_border_and_splits_letters() -> None:
    tokens = {token for token in BYTES.get_vocab() if len(token) > 1}
    assert any("><" in token for token in tokens)
    assert len(BYTES.encode("漢🙂").ids) > 2


letters = st.text(alphabet="<>answeconfid/0.5é漢🙂 \n", min_size=1, max_size=24)


@given(letters, st.data())
@settings(max_examples=80, deadline=None, derandomize=True)
def test_every_border_of_any_text(text: str, data: st.DataObject) -> None:
    ids = tuple(BYTES.encode(text).ids)
    assert BYTES.decode(list(ids)) == text
    start = data.draw(st.integers(0, len(text) - 1))
    assert found(BYTES, ids, text, start) == wanted(ids, text, start)


@given(letters, st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_completion_cut_inside_a_letter(text: str, data: st.DataObject) -> None:
    ids = tuple(BYTES.encode(text + "🙂").ids)[:-1]
    cut = BYTES.decode(list(ids))
    start = data.draw(st.integers(0, len(text) - 1))
    assert found(BYTES, ids, cut, start) == wanted(ids, text, start)


@given(st.lists(st.integers(0, 289), min_size=1, max_size=12), st.data())
@settings(max_examples=80, deadline=None, derandomize=True)
def test_any_ids_even_if_they_are_no_text(some: list[int], data: st.DataObject) -> None:
    ids = tuple(some)
    text = BYTES.decode(some)
    start = data.draw(st.integers(0, max(len(text) - 1, 0)))
    prefixes = [BYTES.decode(some[:count]) for count in range(len(some) + 1)]
    reached = [len(prefix) > start and prefix.startswith(text[:start]) for prefix in prefixes]
    assert reached == sorted(reached)  # once reached, always reached: what the search stands on
    assert found(BYTES, ids, text, start) == (reached.index(True) - 1 if True in reached else None)


@pytest.mark.parametrize(
    ("text", "start", "token"), [("é<a>5", 1, 2), ("é<a>5", 0, 0), ("a🙂>b漢", 2, 5), ("漢", 0, 0)]
)
def test_lone_bytes_that_decode_to_several_marks(text: str, start: int, token: int) -> None:
    ids = tuple(FALLBACK.encode(text).ids)
    assert FALLBACK.decode(list(ids)) == text
    assert FALLBACK.decode(list(ids[:2])).count("\ufffd") in (0, 1, 2)
    assert found(FALLBACK, ids, text, start) == token


@pytest.mark.parametrize("between", ["", "\n", " 🙂 <analysis>é</analysis>\n"])
def test_from_the_reward_to_the_token(between: str) -> None:
    text = f"<answer>42</answer>{between}<confidence>0.75</confidence>"
    task = Task(id="t", messages=(Message(role="user", content="?"),), answer="42", verifier="v")
    score = ConfidenceReward(answer=ExactReward(), pattern=TAGGED).score(task, text)
    assert score.confidence == 0.75
    start = len("<answer>42</answer>")
    assert score.confidence_start == start
    ids = tuple(BYTES.encode(text).ids)
    assert found(BYTES, ids, text, start) == wanted(ids, text, start)
    kept = BYTES.decode(list(ids[: wanted(ids, text, start)]))
    assert "<answer>42</answer>".startswith(kept)
    assert len(kept) >= start - 2  # at most the token that straddles the border


def test_none_is_told_of_where_no_confidence_was_stated_or_the_ids_say_something_else() -> None:
    ids = tuple(BYTES.encode("42 5").ids)
    of = [rollout(ids, "42 5")]
    assert confidence_tokens(of, [Score(reward=1.0)], decode=lambda some: BYTES.decode(list(some))) == {}
    assert found(BYTES, ids, "42 5 and more", 4) is None  # nothing was sampled that reaches so far
    assert found(BYTES, ids, "41 5", 3) is None
    assert found(BYTES, (), "", 0) is None


def test_few_prefixes_are_decoded() -> None:
    asked: list[int] = []

    def decode(ids: object) -> str:
        assert isinstance(ids, tuple)
        asked.append(len(ids))  # pyright: ignore[reportUnknownArgumentType]
        return "x" * len(ids)  # pyright: ignore[reportUnknownArgumentType]

    score = Score(reward=1.0, confidence=0.5, confidence_start=3000)
    assert confidence_tokens([rollout((7,) * 4096, "x" * 4096)], [score], decode=decode) == {"r": 3000}
    assert len(asked) <= 15
