"""The engine that answers from a list."""

from __future__ import annotations

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


def test_an_answer_without_room_is_unfinished() -> None:
    engine = ScriptedEngine(lambda prompt, i: "abc", lambda text: [ord(c) for c in text], end_id=0)
    (cut,) = engine.generate([(1,)], max_tokens=2, temperature=1.0, seed=0)
    assert cut.completion_ids == (97, 98)
    assert not cut.finished and len(cut.behaviour_logprobs) == 2
