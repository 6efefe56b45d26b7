"""A policy of characters that hears a tool, a tool that echoes, and an engine that says what a script says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from critique_rl.types import Completion, Task, TokenIds, Turn
from tests.loop.fakes import END, CharPolicy, decode, encode


class HearingPolicy(CharPolicy):
    """Hears "[text]"; remembers which id came before."""

    def __init__(self, *, max_positions: int | None = None) -> None:
        super().__init__()
        self.after: list[int] = []
        if max_positions is not None:
            self.max_positions = max_positions

    def encode_observation(self, text: str, *, after: int) -> TokenIds:
        self.after.append(after)
        return encode(f"[{text}]")


class Echo:
    """A word in capitals ends the episode, "?" is no call, anything else is looked up: "cat" gives the document CAT."""

    def __init__(
        self,
        *,
        max_turns: int = 3,
        max_turn_tokens: int | None = None,
        cost: float = 0.0,
        stop: tuple[str, ...] = (),
    ) -> None:
        self.max_turns = max_turns
        self.max_turn_tokens = max_turn_tokens
        self.cost = cost
        self.stop = stop

    def answer(self, task: Task, turns: Sequence[Turn]) -> Turn:
        turn = turns[-1]
        if turn.text.isupper():
            return replace(turn, action="answer", argument=turn.text)
        if "?" in turn.text or not turn.text:
            return replace(turn, observation="what")
        found = turn.text.upper()
        return replace(turn, action="search", argument=turn.text, observation=found, documents=(found,))

    def penalty(self, task: Task, turns: Sequence[Turn]) -> float:
        return 0.0 if turns[-1].action == "answer" else self.cost


class Saying:
    """The i-th prompt of a call is answered with `say(prompt text, i)`; what ends in "~" is cut off without an end."""

    def __init__(self, say: Callable[[str, int], str]) -> None:
        self.say = say
        self.calls: list[tuple[list[TokenIds], int, int]] = []

    def generate(
        self,
        prompts: Sequence[TokenIds],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        on_done: Callable[[int, Completion], None] | None = None,
        stop: Sequence[str] = (),
    ) -> list[Completion]:
        self.calls.append((list(prompts), max_tokens, seed))
        done: list[Completion] = []
        for i, prompt in enumerate(prompts):
            text = self.say(decode(prompt), i)
            ids = (encode(text[:-1]) if text.endswith("~") else (*encode(text), END))[:max_tokens]
            finished = ids[-1] == END
            done.append(
                Completion(
                    completion_ids=ids, behaviour_logprobs=(-0.5,) * len(ids), text=decode(ids), finished=finished
                )
            )
            if on_done is not None:
                on_done(i, done[-1])
        return done


def by_turn(*scripts: Sequence[str]) -> Callable[[str, int], str]:
    """The script whose number stands at the start of the prompt ("0:", "1:", ...) says its next turn."""

    def say(prompt: str, _: int) -> str:
        head, _, said = prompt.partition(":")
        return scripts[int(head)][said.count("[")]

    return say
