"""Re-scoring fixed tokens without gradient: log-probs, top-K, and log-probs at given ids.

Legend: N response tokens, T tokens of one completion, K support size. Log-probs are normalised over the whole
vocabulary at the run's temperature. Must not know: why the tokens are scored.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator

from critique_rl.ops.fused import HeadTop
from critique_rl.policy.batching import Layout, MicroBatch, micro_batches
from critique_rl.policy.head import ResponseHead
from critique_rl.types import Array, TeacherTargets, TokenIds


class Scorer:
    """Scores (context, completion) pairs with one model; results come back in the caller's order."""

    def __init__(
        self,
        head: ResponseHead,
        accelerator: Accelerator,
        *,
        temperature: float,
        max_tokens: int,
        pad_id: int,
        layout: Layout = "padded",
    ) -> None:
        """`layout` is one that the model is right in: see `usable_layout`."""
        self.head = head
        self.accelerator = accelerator
        self.temperature = temperature
        self.max_tokens = max_tokens
        self.pad_id = pad_id
        self.layout: Layout = layout

    @torch.no_grad()
    def logprobs(self, contexts: Sequence[TokenIds], completions: Sequence[TokenIds]) -> list[Array]:
        """Log-probs [T] of each completion's own tokens."""
        scored: list[Array] = [np.zeros(0)] * len(completions)
        for batch in self._batches(contexts, completions):
            with self.accelerator.autocast():
                terms = self.head(batch, temperature=self.temperature)
            for i, part in zip(batch.rows, terms.logprobs_N.split(batch.lengths), strict=True):
                scored[i] = _to_numpy(part)
        return scored

    @torch.no_grad()
    def topk(
        self,
        contexts: Sequence[TokenIds],
        completions: Sequence[TokenIds],
        *,
        k: int,
        support: Sequence[TeacherTargets] | None,
    ) -> list[TeacherTargets]:
        """Log-probs at the ids of `support`, or at the model's own top-K, for every completion token."""
        found: dict[int, TeacherTargets] = {}
        for batch in self._batches(contexts, completions):
            scored = self._topk(batch, k, None if support is None else [support[i] for i in batch.rows])
            parts = zip(
                batch.rows,
                scored.ids_NK.split(batch.lengths),
                scored.topk_NK.split(batch.lengths),
                scored.logprobs_N.split(batch.lengths),
                strict=True,
            )
            for i, ids_TK, logprobs_TK, sampled_T in parts:
                usable_T = torch.isfinite(logprobs_TK).all(dim=-1) & torch.isfinite(sampled_T)
                found[i] = TeacherTargets(
                    ids_TK=ids_TK.cpu().numpy().astype(np.int64),
                    logprobs_TK=_to_numpy(logprobs_TK),
                    sampled_logprobs_T=_to_numpy(sampled_T),
                    mask_T=_to_numpy(usable_T),
                    context_ids=tuple(contexts[i]),
                )
        return [found[i] for i in range(len(completions))]

    def _topk(self, batch: MicroBatch, k: int, support: Sequence[TeacherTargets] | None) -> HeadTop:
        with self.accelerator.autocast():
            if support is None:
                return self.head.topk(batch, k, temperature=self.temperature)
            ids_NK = torch.as_tensor(np.concatenate([s.ids_TK for s in support]), device=batch.response_N.device)
            every_N = torch.arange(len(batch.response_N), device=batch.response_N.device)
            terms = self.head(batch, temperature=self.temperature, rows_M=every_N, ids_MK=ids_NK)
            return HeadTop(terms.logprobs_N, ids_NK, terms.support_MK)

    def _batches(self, contexts: Sequence[TokenIds], completions: Sequence[TokenIds]):
        return micro_batches(
            contexts,
            completions,
            max_tokens=self.max_tokens,
            pad_id=self.pad_id,
            device=self.accelerator.device,
            layout=self.layout,
        )


def _to_numpy(values: torch.Tensor) -> Array:
    return values.detach().to("cpu", torch.float64).numpy()
