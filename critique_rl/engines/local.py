"""What the engines that sample in the trainer's process share: what they are made of, and what a completion is.

Owns: where a sampled row ends and its text. Must not know: how rows are sampled, tasks, rewards, training.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import cast

from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from critique_rl.engines.stopping import StopStrings
from critique_rl.errors import ModelError
from critique_rl.types import Completion, TokenIds


class LocalEngine(ABC):
    """A `protocols.RolloutEngine` over the very weights that are trained; `generate_rows` samples."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        accelerator: Accelerator,
        *,
        end_ids: Sequence[int],
        batch_size: int,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.accelerator = accelerator
        self.end_ids = tuple(end_ids)
        self.batch_size = batch_size

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
        """One completion per prompt; temperature 0 is greedy. `stop`: texts that end a completion.

        Raises as `generate_rows` does.
        """
        return self.generate_rows(
            prompts,
            range(len(prompts)),
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            on_done=on_done,
            stop=stop,
        )

    @abstractmethod
    def generate_rows(
        self,
        prompts: Sequence[TokenIds],
        indices: Sequence[int],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        on_done: Callable[[int, Completion], None] | None = None,
        stop: Sequence[str] = (),
    ) -> list[Completion]:
        """`generate` for some rows of a larger call: `indices[i]` is the place of `prompts[i]` in the whole call.

        Processes that share a call out give the completions that one process would. `on_done(i, completion)` counts
        i as `prompts` does.
        """
        ...

    def stop_strings(self, stop: Sequence[str]) -> StopStrings:
        """The stop strings of one call, read as completions are. Errors: ValueError for one that says nothing."""
        return StopStrings(stop, lambda ids: read(ids, self.tokenizer))


def read(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of a completion's ids, special tokens left out."""
    return cast(str, tokenizer.decode(list(ids), skip_special_tokens=True))


def as_completion(
    ids: Sequence[int],
    logprobs: Sequence[float],
    end_ids: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    stop: StopStrings,
) -> Completion:
    """Keep ids up to and including the first end token, or the first with which the text holds a stop string: whatever
    follows is padding, or was sampled for nothing. Raises ModelError for log-probs that are not finite."""
    end = next((t + 1 for t, token in enumerate(ids) if token in end_ids), None)
    stopped = stop.cut(ids[:end])
    finished_at = end if stopped is None else stopped
    length = len(ids) if finished_at is None else finished_at
    if not all(map(math.isfinite, logprobs[:length])):
        raise ModelError(
            "engine: the policy's logits are not finite, so nothing can be sampled from it; resume from an earlier "
            "checkpoint, with a lower optimizer.learning_rate"
        )
    return Completion(
        completion_ids=tuple(ids[:length]),
        behaviour_logprobs=tuple(logprobs[:length]),
        text=read(ids[:length], tokenizer),
        finished=finished_at is not None,
    )
