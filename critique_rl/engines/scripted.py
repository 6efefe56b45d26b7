"""An engine that answers from a list: what our own tests use, shipped so that users can test the same way."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from critique_rl.types import Completion, TokenIds


class ScriptedEngine:
    """`protocols.RolloutEngine` that asks `answer(prompt_ids, i)` for the text of the i-th completion.

    `encode` turns the text into ids; every token gets log-prob `logprob` (nats) and every completion is finished.
    """

    def __init__(
        self,
        answer: Callable[[TokenIds, int], str],
        encode: Callable[[str], Sequence[int]],
        *,
        end_id: int,
        logprob: float = -1.0,
    ) -> None:
        self.answer = answer
        self.encode = encode
        self.end_id = end_id
        self.logprob = logprob

    def generate(
        self,
        prompts: Sequence[TokenIds],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        on_done: Callable[[int, Completion], None] | None = None,
    ) -> list[Completion]:
        """Completions in the order of the prompts; sampling arguments other than `max_tokens` have no effect."""
        completions: list[Completion] = []
        for i, prompt in enumerate(prompts):
            text = self.answer(prompt, i)
            ids = (*self.encode(text), self.end_id)[:max_tokens]
            completions.append(
                Completion(
                    completion_ids=tuple(ids),
                    behaviour_logprobs=(self.logprob,) * len(ids),
                    text=text,
                    finished=ids[-1] == self.end_id,
                )
            )
            if on_done is not None:
                on_done(i, completions[i])
        return completions
