"""A policy that can be worked out on paper: the logits of the next token are one row of a table.

Owns: the smallest thing `TwoChannelStep` can train. `table_VV[a]` are the logits after token a.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from critique_rl.ops.fused import HeadTerms, HeadTop, dense_terms, dense_topk
from critique_rl.policy.batching import MicroBatch
from critique_rl.policy.head import ResponseHead
from critique_rl.policy.step import StepConfig, TwoChannelStep


class Bigram(torch.nn.Module):
    """Given next-token distributions, uniform after every token that is not named."""

    def __init__(self, vocabulary: int, rows: Mapping[int, Sequence[float]]) -> None:
        super().__init__()
        table_VV = torch.full((vocabulary, vocabulary), math.log(1 / vocabulary), dtype=torch.float64)
        for token, probabilities in rows.items():
            table_VV[token] = torch.tensor(probabilities, dtype=torch.float64).log()
        self.table_VV = torch.nn.Parameter(table_VV)

    def forward(
        self,
        batch: MicroBatch,
        *,
        temperature: float,
        rows_M: torch.Tensor | None = None,
        ids_MK: torch.Tensor | None = None,
        entropy: bool = False,
    ) -> HeadTerms:
        return dense_terms(
            self._logits(batch),
            batch.response_N,
            temperature=temperature,
            rows_M=rows_M,
            ids_MK=ids_MK,
            entropy=entropy,
        )

    def topk(self, batch: MicroBatch, k: int, *, temperature: float) -> HeadTop:
        return dense_topk(self._logits(batch), batch.response_N, k, temperature=temperature)

    def _logits(self, batch: MicroBatch) -> torch.Tensor:
        return self.table_VV[batch.input_ids_BT.flatten()[batch.predicts_N]]


def bigram_step(model: Bigram, config: StepConfig) -> TwoChannelStep:
    return TwoChannelStep(cast(PreTrainedModel, model), cast(ResponseHead, model), Accelerator(cpu=True), config, 0)
