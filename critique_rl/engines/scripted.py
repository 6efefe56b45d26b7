"""An engine that answers from a list: what our own tests use, shipped so that users can test the same way."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from critique_rl.types import Completion, TokenIds


class ScriptedEngine:
    """`protocols.RolloutEngine` that asks `answer(prompt_ids, i)` for the text of the i-th completion.

    `encode` turns the text into ids; every token gets log-prob `logprob` (nats) and every completion is finished. A
    stop string ends the text behind itself, before it is encoded, and such a completion has no end token.
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
        stop: Sequence[str] = (),
    ) -> list[Completion]:
        """Completions in the order of the prompts; `temperature` and `seed` have no effect."""
        completions: list[Completion] = []
        for i, prompt in enumerate(prompts):
            text = self.answer(prompt, i)
            ends = [text.index(one) + len(one) for one in stop if one in text]
            text = text[: min(ends, default=None)]
            whole = (*self.encode(text), *([] if ends else [self.end_id]))
            ids = whole[:max_tokens]
            completions.append(
                Completion(
                    completion_ids=tuple(ids),
                    behaviour_logprobs=(self.logprob,) * len(ids),
                    text=text,
                    finished=ids[-1] == self.end_id or len(ids) == len(whole),
                )
            )
            if on_done is not None:
                on_done(i, completions[i])
        return completions
