"""Prompts are encoded once, with the tokenizer's own template if it has one, and never with two beginnings."""

from __future__ import annotations

from critique_rl.policy.codec import PromptCodec
from critique_rl.types import Message
from tests.tiny import BOS, EOS, TEMPLATE, tiny_tokenizer

TURNS = (Message(role="system", content="w10"), Message(role="user", content="w11 w12"))


def test_without_a_template_the_turns_are_plain_lines() -> None:
    assert PromptCodec(tiny_tokenizer()).encode(TURNS) == (10, 11, 12)


def test_without_a_template_the_tokenizer_adds_its_beginning_once() -> None:
    assert PromptCodec(tiny_tokenizer(adds_bos=True)).encode(TURNS) == (BOS, 10, 11, 12)


def test_a_template_is_used_and_the_beginning_is_its_business() -> None:
    # <bos> content <eos> for every turn, then w4 as the generation prompt; the tokenizer would add a <bos> of its own
    for adds_bos in (False, True):
        codec = PromptCodec(tiny_tokenizer(adds_bos=adds_bos, chat_template=TEMPLATE))
        assert codec.encode(TURNS) == (BOS, 10, EOS, BOS, 11, 12, EOS, 4)


def test_decoding_leaves_special_tokens_out() -> None:
    assert PromptCodec(tiny_tokenizer()).decode([BOS, 10, 11, EOS]) == "w10 w11"
