"""From characters to tokens: the vector of the specification, sub-words, bytes, prompts and tools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from critique_rl.loop.planning_mask import planning_mask, tokens_inside
from critique_rl.stats.grams import Grams, gram_of
from critique_rl.types import Rollout, Turn

VECTOR = "Let me try x=2. Wait, but that fails so let's try a different approach"
THREE = Grams(map(gram_of, ("wait, but", "let's try a different approach", "let me")))


class Pieces:
    """A tokenizer whose i-th id is the i-th piece."""

    def __init__(self, *pieces: str) -> None:
        self.pieces = pieces

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.pieces[i] for i in ids)

    def rollout(self) -> Rollout:
        ids = tuple(range(len(self.pieces)))
        return Rollout(
            id="r",
            task_id="t",
            prompt_ids=(1,),
            completion_ids=ids,
            behaviour_logprobs=(-1.0,) * len(ids),
            text=self.decode(ids),
            finished=True,
            policy_version=0,
        )

    def mask(self, grams: Grams = THREE) -> list[float]:
        found = planning_mask(self.rollout(), grams, decode=self.decode, pieces={})
        assert found is not None
        return found.tolist()


def test_vector_9_3_planning_mask() -> None:
    words = VECTOR.split()
    mask = Pieces(words[0], *(f" {word}" for word in words[1:])).mask()
    assert mask == [1, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1]
    assert np.mean(mask) == pytest.approx(0.642857, abs=1e-6)


def test_split_words_and_any_overlap() -> None:
    # the apostrophe is typographic, "let's" is in three pieces, and the last piece reaches beyond the phrase
    mask = Pieces("so", " le", "t\u2019", "s", " tr", "y a", " different", " appro", "ach: x", " = 2").mask()
    assert mask == [0, 1, 1, 1, 1, 1, 1, 1, 1, 0]


def test_nothing_before_the_phrase_is_marked() -> None:
    assert Pieces("x", " y", " z", " let", " me", " w").mask() == [0, 0, 0, 1, 1, 0]


def test_a_phrase_that_begins_in_the_prompt_is_none() -> None:
    # the prompt ended with "let"; only the completion is looked at
    assert Pieces(" me", " see").mask() == [0, 0]


def test_empty_pieces_count_only_inside() -> None:
    assert Pieces("", "let", "", " me", "").mask() == [0, 1, 1, 1, 0]


def bytes_decode(ids: Sequence[int]) -> str:
    return bytes(ids).decode("utf-8", errors="replace")


@pytest.mark.parametrize("text", ["\u00e9\u20ac let\u2019s try \U0001f600", "let\u2019s try", "a\u20ac. let's try"])
def test_characters_in_several_tokens(text: str) -> None:
    ids = tuple(text.encode())
    (span,) = Grams([gram_of("let's try")]).spans(text)
    inside = tokens_inside(ids, text, [span], decode=bytes_decode, pieces={})
    first, last = len(text[: span[0]].encode()), len(text[: span[1]].encode())
    assert inside == [(first, last)]


def test_blanks_between_tokens() -> None:
    words = ("let", "me", "see")

    def decode(ids: Sequence[int]) -> str:
        return " ".join(words[i] for i in ids)

    assert tokens_inside((0, 1, 2), "let me see", [(0, 6)], decode=decode, pieces={}) == [(0, 2)]


def test_ids_that_do_not_decode_to_their_text_have_no_mask() -> None:
    pieces = Pieces("let", " me")
    other = replace(pieces.rollout(), text="let me go")
    assert planning_mask(other, THREE, decode=pieces.decode, pieces={}) is None


def test_a_tools_words_are_not_looked_at_and_no_phrase_crosses_turns() -> None:
    pieces = Pieces("let", " me", " let", " me", " wait", " let", " me")
    turns = (Turn(start=0, end=1, text="let"), Turn(start=4, end=7, text=" wait let me"))
    episode = replace(pieces.rollout(), turns=turns, policy_mask=(True, False, False, False, True, True, True))
    found = planning_mask(episode, THREE, decode=pieces.decode, pieces={})
    assert found is not None and found.tolist() == [0, 0, 0, 0, 0, 1, 1]
