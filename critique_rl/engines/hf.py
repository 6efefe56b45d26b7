"""Sampling with transformers' own `generate`, in batches of bounded size.

Owns: seeds, padding side, end tokens and the behaviour log-probs. Must not know: tasks, rewards, training.
Trap: `generate` fills every option that is left unset from the model's generation config (top-p, repetition penalty and
more); behaviour log-probs are only right without them, so that config is set aside while sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from accelerate import Accelerator
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from critique_rl.ops.logprobs import token_logprobs
from critique_rl.types import Completion, TokenIds


class HFEngine:
    """`protocols.RolloutEngine` that samples from the very weights that are trained."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        accelerator: Accelerator,
        *,
        end_ids: Sequence[int],
        pad_id: int,
        batch_size: int,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.accelerator = accelerator
        self.end_ids = tuple(end_ids)
        self.pad_id = pad_id
        self.batch_size = batch_size

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[TokenIds],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        on_done: Callable[[int, Completion], None] | None = None,
    ) -> list[Completion]:
        """One completion per prompt; temperature 0 is greedy. `on_done` hears of a batch's completions when it ends.

        Leaves the global random state as it was; `on_done` must draw nothing from it.
        """
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
        done: dict[int, Completion] = {}
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            for start in range(0, len(order), self.batch_size):
                rows = order[start : start + self.batch_size]
                completions = self._sample([prompts[i] for i in rows], max_tokens, temperature)
                done.update(zip(rows, completions, strict=True))
                if on_done is not None:
                    for i in sorted(rows):
                        on_done(i, done[i])
        return [done[i] for i in range(len(prompts))]

    def _sample(self, prompts: list[TokenIds], max_tokens: int, temperature: float) -> list[Completion]:
        width = max(len(p) for p in prompts)
        ids = torch.full((len(prompts), width), self.pad_id, dtype=torch.long)
        attention = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
            attention[row, width - len(prompt) :] = 1
        with self._own_defaults_aside(), self.accelerator.autocast():
            output = self.model.generate(  # pyright: ignore[reportCallIssue]
                input_ids=ids.to(self.model.device),
                attention_mask=attention.to(self.model.device),
                generation_config=self._options(max_tokens, temperature),
            )
        sampled_BT = cast(torch.Tensor, output.sequences)[:, width:]
        # `generate` hands out float32 logits; in a float64 run all that is made of them is float64 again.
        wide = torch.promote_types(torch.float32, self.model.dtype)
        steps = [logits_BV.to(wide) for logits_BV in cast("tuple[torch.Tensor, ...]", output.logits)]
        logprobs_BT = torch.stack(
            [
                token_logprobs(logits_BV, sampled_BT[:, t], temperature=temperature if temperature > 0 else 1.0)
                for t, logits_BV in enumerate(steps)
            ],
            dim=1,
        )
        return [self._cut(*row) for row in zip(sampled_BT.tolist(), logprobs_BT.tolist(), strict=True)]

    def _options(self, max_tokens: int, temperature: float) -> GenerationConfig:
        # Sampling options of a greedy search are refused with a warning.
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        return GenerationConfig(
            max_new_tokens=max_tokens,
            eos_token_id=list(self.end_ids),
            pad_token_id=self.pad_id,
            output_logits=True,
            return_dict_in_generate=True,
            **(sampling if temperature > 0 else {"do_sample": False}),
        )

    @contextmanager
    def _own_defaults_aside(self) -> Generator[None]:
        own = self.model.generation_config
        self.model.generation_config = GenerationConfig()
        try:
            yield
        finally:
            self.model.generation_config = own

    def _cut(self, ids: list[int], logprobs: list[float]) -> Completion:
        """Keep ids up to and including the first end token: whatever follows is padding."""
        end = next((t for t, token in enumerate(ids) if token in self.end_ids), None)
        length = len(ids) if end is None else end + 1
        text = cast(str, self.tokenizer.decode(ids[:length], skip_special_tokens=True))
        return Completion(
            completion_ids=tuple(ids[:length]),
            behaviour_logprobs=tuple(logprobs[:length]),
            text=text,
            finished=end is not None,
        )
