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

    def logits(self, batch: MicroBatch) -> torch.Tensor:
        return self.table_VV[batch.input_ids_BT.flatten()[batch.predicts_N]]


def bigram_step(model: Bigram, config: StepConfig) -> TwoChannelStep:
    return TwoChannelStep(cast(PreTrainedModel, model), cast(ResponseHead, model), Accelerator(cpu=True), config, 0)
