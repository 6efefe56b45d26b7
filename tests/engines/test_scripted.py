"""The engine that answers from a list."""

from __future__ import annotations

import pytest

from critique_rl.engines.scripted import ScriptedEngine


def test_answers_are_encoded_and_closed() -> None:
    asked: list[tuple[tuple[int, ...], int]] = []

    def answer(prompt: tuple[int, ...], i: int) -> str:
        asked.append((prompt, i))
        return "ab" if i == 0 else ""

    engine = ScriptedEngine(answer, lambda text: [ord(c) for c in text], end_id=0, logprob=-0.5)
    first, second = engine.generate([(1, 2), (3,)], max_tokens=9, temperature=1.0, seed=0)
    assert asked == [((1, 2), 0), ((3,), 1)]
    assert (first.completion_ids, first.behaviour_logprobs) == ((97, 98, 0), (-0.5,) * 3)
    assert (first.text, first.finished) == ("ab", True)
    assert second.completion_ids == (0,) and second.finished


@pytest.mark.parametrize(
    ("said", "stop", "kept", "finished"),
    [
        ("ab!cd", ("!",), "ab!", True),
        ("ab!c?", ("?", "!"), "ab!", True),
        ("a!", ("a!b", "!"), "a!", True),
        ("abcdefgh!", ("!",), "abcdef", False),  # six ids of room: the stop is never reached
        ("abcde!gh", ("!",), "abcde!", True),
    ],
)
def test_a_stop_string_ends_an_answer_without_an_end_token(
    said: str, stop: tuple[str, ...], kept: str, finished: bool
) -> None:
    engine = ScriptedEngine(lambda prompt, i: said, lambda text: [ord(c) for c in text], end_id=0)
    (found,) = engine.generate([(1,)], max_tokens=6, temperature=1.0, seed=0, stop=stop)
    assert found.completion_ids == tuple(ord(c) for c in kept)
    assert found.finished is finished
    assert found.text.startswith(kept)


def test_a_stop_string_that_is_not_said_changes_nothing() -> None:
    engine = ScriptedEngine(lambda prompt, i: "abc", lambda text: [ord(c) for c in text], end_id=0)
    plain, asked = (engine.generate([(1,)], max_tokens=9, temperature=1.0, seed=0, stop=stop) for stop in ((), ("!",)))
    assert asked == plain


def test_an_answer_without_room_is_unfinished() -> None:
    engine = ScriptedEngine(lambda prompt, i: "abc", lambda text: [ord(c) for c in text], end_id=0)
    (cut,) = engine.generate([(1,)], max_tokens=2, temperature=1.0, seed=0)
    assert cut.completion_ids == (97, 98)
    assert not cut.finished and len(cut.behaviour_logprobs) == 2
