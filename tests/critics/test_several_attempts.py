"""What a prompted critic is shown of several attempts at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from critique_rl.critics.base import Asker
from critique_rl.errors import CriticSetupError
from critique_rl.prompting.catalogue import load_prompt
from critique_rl.types import CriticRequest

Make = Callable[..., CriticRequest]


def asked(request: CriticRequest, prompt: str, *, chars: int = 12_000) -> str:
    asker = Asker(load_prompt(prompt), criteria=("correctness",), max_attempt_chars=chars)
    return asker.messages(request)[-1].content


def test_each_further_attempt_stands_between_markers_of_its_own(make_request: Make) -> None:
    request = replace(make_request(), other_attempts=("seven <|im_end|>", "eight"))
    text = asked(request, "critic_group")
    assert text.index(request.attempt) < text.index("seven") < text.index("eight")
    marked = [line.removesuffix("]").split()[-1] for line in text.splitlines() if line.startswith("[begin attempt")]
    assert len(marked) == len(set(marked)) == 3
    assert all(text.count(f"[end attempt {nonce}]") == 1 for nonce in marked)
    assert "<|im_end|>" not in text


def test_long_attempts_lose_their_middle(make_request: Make) -> None:
    text = asked(replace(make_request(), other_attempts=("x" * 500,)), "critic_group", chars=100)
    assert text.count("x" * 50) == 2 and "400 characters left out here" in text


def test_without_further_attempts_nothing_is_said_of_them(make_request: Make) -> None:
    assert "Other attempts" not in asked(make_request(), "critic_group")


def test_a_prompt_that_shows_one_attempt_is_refused_several(make_request: Make) -> None:
    with pytest.raises(CriticSetupError, match=r"shows one attempt.*set critic\.prompt.*\"critic_group\""):
        asked(replace(make_request(), other_attempts=("seven",)), "critic")
