"""What a model says of response tokens: log-probs, entropy and top-K, without logits of size [N, V] where possible.

Legend: B sequences, T tokens, N response tokens, H hidden, V vocabulary, M tokens with a support, K support size.
Trap: some architectures scale or cap logits after the LM head. The short path is compared with the model's own logits
once, and the model's own forward is used where they differ in any bit: a cap hardly shows while logits are small.
"""

from __future__ import annotations

from typing import cast

import torch
from transformers import PreTrainedModel

from critique_rl.errors import ModelError
from critique_rl.ops.fused import HeadTerms, HeadTop, dense_terms, dense_topk, head_terms, head_topk
from critique_rl.policy.attention import can_read_segments
from critique_rl.policy.batching import Layout, MicroBatch


class ResponseHead(torch.nn.Module):
    """Reads a micro-batch's response positions; `exact` says whether decoder plus head equal the model's own logits.

    A module, so that what wraps a model for several processes can wrap this. `chunk_bytes`: see `ops.fused.head_terms`.
    `layout` is what `usable_layout` found for the model; micro-batches of any layout can be read at any time.
    """

    def __init__(self, model: PreTrainedModel, *, chunk_bytes: int | None = None) -> None:
        super().__init__()
        self.model = model
        self.chunk_bytes = chunk_bytes
        self.layout: Layout = "padded"
        self.exact = self._short_path_is_exact()

    @property
    def fused(self) -> bool:
        """Whether logits come in chunks: not where the head is more than one matmul (LoRA, quantised, hooks)."""
        return self.exact and _is_one_matmul(self._head())

    def forward(
        self,
        batch: MicroBatch,
        *,
        temperature: float,
        rows_M: torch.Tensor | None = None,
        ids_MK: torch.Tensor | None = None,
        entropy: bool = False,
    ) -> HeadTerms:
        """Log-probs of `batch.response_N`, and at `ids_MK` for the response tokens `rows_M` (ascending), with graph."""
        if not self.fused:
            return dense_terms(
                self.logits(batch),
                batch.response_N,
                temperature=temperature,
                rows_M=rows_M,
                ids_MK=ids_MK,
                entropy=entropy,
            )
        head = cast(torch.nn.Linear, self._head())
        return head_terms(
            self.hidden(batch),
            head.weight,
            batch.response_N,
            bias_V=head.bias,
            temperature=temperature,
            rows_M=rows_M,
            ids_MK=ids_MK,
            entropy=entropy,
            chunk_bytes=self.chunk_bytes,
        )

    @torch.no_grad()
    def topk(self, batch: MicroBatch, k: int, *, temperature: float) -> HeadTop:
        """Log-probs of `batch.response_N`, and of each position's k most likely ids, without graph."""
        if not self.fused:
            return dense_topk(self.logits(batch), batch.response_N, k, temperature=temperature)
        head = cast(torch.nn.Linear, self._head())
        return head_topk(
            self.hidden(batch),
            head.weight,
            batch.response_N,
            k,
            bias_V=head.bias,
            temperature=temperature,
            chunk_bytes=self.chunk_bytes,
        )

    def hidden(self, batch: MicroBatch) -> torch.Tensor:
        """Last hidden states [N, H] that predict `batch.response_N`."""
        return self._hidden(self._inputs(batch)).flatten(0, 1)[batch.predicts_N]

    def logits(self, batch: MicroBatch) -> torch.Tensor:
        """Whole logits [N, V] that predict `batch.response_N`, in the model's compute type."""
        if self.exact:
            return cast(torch.Tensor, self._head()(self.hidden(batch)))
        logits_BTV = cast(torch.Tensor, self.model(**self._inputs(batch)).logits)
        return logits_BTV.flatten(0, 1)[batch.predicts_N]

    def _inputs(self, batch: MicroBatch) -> dict[str, object]:
        """What the model is called with. Errors: ModelError for segments that the model's attention cannot read."""
        if batch.segments is None:
            return {"input_ids": batch.input_ids_BT, "attention_mask": batch.attention_BT, "use_cache": False}
        if not can_read_segments(self.model):
            raise ModelError(
                f"{type(self.model).__name__} cannot switch its attention, which a packed batch needs; wanted a padded "
                "one: set optimizer.layout = 'padded'"
            )
        return {
            "input_ids": batch.input_ids_BT,
            # A mask of four dimensions is handed on as it is, so that no mask over all pairs of tokens is made.
            "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=batch.input_ids_BT.device),
            "position_ids": batch.segments.positions_1T,
            "segments": batch.segments,
            "use_cache": False,
        }

    def _hidden(self, inputs: dict[str, object]) -> torch.Tensor:
        return cast(torch.Tensor, self.model.base_model(**inputs).last_hidden_state)

    def _head(self) -> torch.nn.Module:
        return cast(torch.nn.Module, self.model.get_output_embeddings())

    @torch.no_grad()
    def _short_path_is_exact(self) -> bool:
        if self.model.base_model is self.model or self.model.get_output_embeddings() is None:
            return False
        ids_BT = torch.arange(4, device=self.model.device)[None]
        inputs: dict[str, object] = {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT), "use_cache": False}
        own = cast(torch.Tensor, self.model(**inputs).logits)
        short = cast(torch.Tensor, self._head()(self._hidden(inputs)))
        return torch.equal(own, short)


def _is_one_matmul(head: torch.nn.Module) -> bool:
    hooks = (head._forward_hooks, head._forward_pre_hooks, head._backward_hooks, head._backward_pre_hooks)  # pyright: ignore[reportPrivateUsage]
    return type(head) is torch.nn.Linear and "forward" not in vars(head) and not any(hooks)
