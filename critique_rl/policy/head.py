"""Logits at response positions only: nothing of size [B, T, V] exists where the model allows it.

Legend: B sequences, T tokens, N response tokens, H hidden, V vocabulary.
Trap: some architectures scale or cap logits after the LM head. The short path is compared with the model's own logits
once, and the model's own forward is used where they differ in any bit: a cap hardly shows while logits are small.
"""

from __future__ import annotations

from typing import cast

import torch
from transformers import PreTrainedModel

from critique_rl.policy.batching import MicroBatch


class ResponseHead:
    """Computes [N, V] logits of a micro-batch; `exact` says whether the short path equals the model's own."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.exact = self._short_path_is_exact()

    def logits(self, batch: MicroBatch) -> torch.Tensor:
        """Logits [N, V] that predict `batch.response_N`, in the model's compute type."""
        if not self.exact:
            logits_BTV = cast(
                torch.Tensor,
                self.model(input_ids=batch.input_ids_BT, attention_mask=batch.attention_BT, use_cache=False).logits,
            )
            return logits_BTV.flatten(0, 1)[batch.predicts_N]
        hidden_BTH = self._hidden(batch.input_ids_BT, batch.attention_BT)
        return cast(torch.Tensor, self._head()(hidden_BTH.flatten(0, 1)[batch.predicts_N]))

    def _hidden(self, input_ids_BT: torch.Tensor, attention_BT: torch.Tensor) -> torch.Tensor:
        decoder = self.model.base_model
        output = decoder(input_ids=input_ids_BT, attention_mask=attention_BT, use_cache=False)
        return cast(torch.Tensor, output.last_hidden_state)

    def _head(self) -> torch.nn.Module:
        return cast(torch.nn.Module, self.model.get_output_embeddings())

    @torch.no_grad()
    def _short_path_is_exact(self) -> bool:
        if self.model.base_model is self.model or self.model.get_output_embeddings() is None:
            return False
        ids_BT = torch.arange(4, device=self.model.device)[None]
        attention_BT = torch.ones_like(ids_BT)
        own = cast(torch.Tensor, self.model(input_ids=ids_BT, attention_mask=attention_BT, use_cache=False).logits)
        short = cast(torch.Tensor, self._head()(self._hidden(ids_BT, attention_BT)))
        return torch.equal(own, short)
