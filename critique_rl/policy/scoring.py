"""Re-scoring fixed tokens without gradient: log-probs, top-K, and log-probs at given ids.

Legend: N response tokens, T tokens of one completion, K support size. Log-probs are normalised over the whole
vocabulary at the run's temperature. Must not know: why the tokens are scored.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator

from critique_rl.ops.logprobs import gather_logprobs, token_logprobs, topk_logprobs
from critique_rl.policy.batching import micro_batches
from critique_rl.policy.head import ResponseHead
from critique_rl.types import Array, TeacherTargets, TokenIds


class Scorer:
    """Scores (context, completion) pairs with one model; results come back in the caller's order."""

    def __init__(
        self, head: ResponseHead, accelerator: Accelerator, *, temperature: float, max_tokens: int, pad_id: int
    ) -> None:
        self.head = head
        self.accelerator = accelerator
        self.temperature = temperature
        self.max_tokens = max_tokens
        self.pad_id = pad_id

    @torch.no_grad()
    def logprobs(self, contexts: Sequence[TokenIds], completions: Sequence[TokenIds]) -> list[Array]:
        """Log-probs [T] of each completion's own tokens."""
        scored: list[Array] = [np.zeros(0)] * len(completions)
        for batch in self._batches(contexts, completions):
            with self.accelerator.autocast():
                logits_NV = self.head.logits(batch)
            logprobs_N = token_logprobs(logits_NV, batch.response_N, temperature=self.temperature)
            for i, part in zip(batch.rows, logprobs_N.split(batch.lengths), strict=True):
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
            with self.accelerator.autocast():
                logits_NV = self.head.logits(batch)
            sampled_N = token_logprobs(logits_NV, batch.response_N, temperature=self.temperature)
            if support is None:
                ids_NK, logprobs_NK = topk_logprobs(logits_NV, k, temperature=self.temperature)
            else:
                wanted = np.concatenate([support[i].ids_TK for i in batch.rows])
                ids_NK = torch.as_tensor(wanted, device=logits_NV.device)
                logprobs_NK = gather_logprobs(logits_NV, ids_NK, temperature=self.temperature)
            parts = zip(
                batch.rows,
                ids_NK.split(batch.lengths),
                logprobs_NK.split(batch.lengths),
                sampled_N.split(batch.lengths),
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

    def _batches(self, contexts: Sequence[TokenIds], completions: Sequence[TokenIds]):
        return micro_batches(
            contexts, completions, max_tokens=self.max_tokens, pad_id=self.pad_id, device=self.accelerator.device
        )


def _to_numpy(values: torch.Tensor) -> Array:
    return values.detach().to("cpu", torch.float64).numpy()
