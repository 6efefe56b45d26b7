"""Sampling with transformers' own `generate`, in batches of bounded size.

Owns: padding side, end tokens and the behaviour log-probs. Must not know: tasks, rewards, training.
Trap: `generate` fills every option that is left unset from the model's generation config (top-p, repetition penalty and
more); behaviour log-probs are only right without them, so that config is set aside while sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from accelerate import Accelerator
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from critique_rl.engines.draws import draw, row_uniforms
from critique_rl.engines.local import LocalEngine, as_completion
from critique_rl.engines.stopping import StopStrings
from critique_rl.ops.logprobs import token_logprobs
from critique_rl.types import Array, Completion, TokenIds


class HFEngine(LocalEngine):
    """`protocols.RolloutEngine` that samples from the very weights that are trained.

    A completion depends on its prompt, the seed and its place in the call alone: not on `batch_size`, and not on the
    rows beside it, up to the rounding of the model's own logits.
    """

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
        super().__init__(model, tokenizer, accelerator, end_ids=end_ids, batch_size=batch_size)
        self.pad_id = pad_id

    @torch.no_grad()
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
        """`generate` for some rows of a larger call; `on_done` hears of a batch's completions when it ends.

        Raises ModelError for logits that are not finite. Leaves the global random state alone.
        """
        stops = self.stop_strings(stop)
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
        uniforms_NT = row_uniforms(seed, indices, max_tokens if temperature > 0 else 0)
        done: dict[int, Completion] = {}
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            completions = self._sample([prompts[i] for i in rows], uniforms_NT[rows], max_tokens, temperature, stops)
            done.update(zip(rows, completions, strict=True))
            if on_done is not None:
                for i in sorted(rows):
                    on_done(i, done[i])
        return [done[i] for i in range(len(prompts))]

    def _sample(
        self, prompts: list[TokenIds], uniforms_BT: Array, max_tokens: int, temperature: float, stops: StopStrings
    ) -> list[Completion]:
        width = max(len(p) for p in prompts)
        ids = torch.full((len(prompts), width), self.pad_id, dtype=torch.long)
        attention = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
            attention[row, width - len(prompt) :] = 1
        device = self.model.device
        chooser = _Chooser(
            torch.from_numpy(uniforms_BT).to(device),
            width,
            temperature,
            torch.promote_types(torch.float32, self.model.dtype),
        )
        with self._own_defaults_aside(), self.accelerator.autocast():
            sequences_BT = cast(
                torch.Tensor,
                self.model.generate(  # pyright: ignore[reportCallIssue]
                    input_ids=ids.to(device),
                    attention_mask=attention.to(device),
                    generation_config=GenerationConfig(
                        max_new_tokens=max_tokens,
                        eos_token_id=list(self.end_ids),
                        pad_token_id=self.pad_id,
                        do_sample=False,
                    ),
                    logits_processor=LogitsProcessorList([chooser]),
                    stopping_criteria=StoppingCriteriaList([_Stopper(stops, self.end_ids, width)] if stops else []),
                ),
            )
        sampled_BT = sequences_BT[:, width:].tolist()
        logprobs_BT = torch.stack(chooser.logprobs, dim=1).tolist()
        return [
            as_completion(ids_T, logprobs_T, self.end_ids, self.tokenizer, stops)
            for ids_T, logprobs_T in zip(sampled_BT, logprobs_BT, strict=True)
        ]

    @contextmanager
    def _own_defaults_aside(self) -> Generator[None]:
        own = self.model.generation_config
        self.model.generation_config = GenerationConfig()
        try:
            yield
        finally:
            self.model.generation_config = own


class _Chooser(LogitsProcessor):
    """Leaves `generate`'s arg max one id to find: the one that is drawn. Keeps its log-prob, and no logits."""

    def __init__(self, uniforms_BT: torch.Tensor, width: int, temperature: float, wide: torch.dtype) -> None:
        self.uniforms_BT = uniforms_BT
        self.width = width
        self.temperature = temperature
        self.wide = wide
        self.logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        # `generate` hands out float32 logits; in a float64 run all that is made of them is float64 again.
        logits_BV = scores.to(self.wide)
        greedy = self.temperature == 0.0
        uniforms_B = self.uniforms_BT.new_zeros(()) if greedy else self.uniforms_BT[:, input_ids.shape[1] - self.width]
        ids_B = draw(logits_BV, uniforms_B, temperature=self.temperature)
        self.logprobs.append(token_logprobs(logits_BV, ids_B, temperature=1.0 if greedy else self.temperature))
        only_BV = torch.zeros_like(scores)
        return only_BV.scatter_(1, ids_B.unsqueeze(-1), 1.0)


class _Stopper(StoppingCriteria):
    """Ends a row at the first id with which what was sampled holds a stop string.

    transformers' own `StopStringCriteria` does not know where a prompt ends, and puts tokens' texts side by side where
    a completion is what a decoder makes of them.
    """

    def __init__(self, stops: StopStrings, end_ids: Sequence[int], width: int) -> None:
        self.stops = stops
        self.end_ids = end_ids
        self.width = width
        self.ended: set[int] = set()

    def __call__(
        self, input_ids: torch.Tensor, scores: tuple[torch.Tensor] | None, **kwargs: object
    ) -> torch.BoolTensor:
        # Whole rows are read where their last ids say so: this runs at every id of a batch.
        start = max(self.width, input_ids.shape[1] - self.stops.tail)
        for row, last in enumerate(input_ids[:, start:].tolist()):
            if row in self.ended:
                continue
            if last[-1] in self.end_ids or (
                self.stops.may_end(last) and self.stops.cut(input_ids[row, self.width :].tolist()) is not None
            ):
                self.ended.add(row)
        ended = [row in self.ended for row in range(len(input_ids))]
        return cast(torch.BoolTensor, torch.tensor(ended, device=input_ids.device))
