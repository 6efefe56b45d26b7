"""Right-padded micro-batches: every row once, bounded size, and logits taken one position before their token."""

from __future__ import annotations

import pytest
import torch

from critique_rl.policy.batching import MicroBatch, micro_batches
from critique_rl.types import TokenIds

CPU = torch.device("cpu")


def pack(prompts: list[TokenIds], completions: list[TokenIds], max_tokens: int) -> list[MicroBatch]:
    return list(micro_batches(prompts, completions, max_tokens=max_tokens, pad_id=0, device=CPU))


def test_two_rows_by_hand() -> None:
    (batch,) = pack([(4, 5), (6,)], [(7, 8, 9), (5, 4)], 100)
    assert batch.rows == [1, 0]  # shorter first
    assert batch.input_ids_BT.tolist() == [[6, 5, 4, 0, 0], [4, 5, 7, 8, 9]]
    assert batch.attention_BT.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch.predicts_N.tolist() == [0, 1, 6, 7, 8]  # b * 5 + t
    assert batch.response_N.tolist() == [5, 4, 7, 8, 9]
    assert batch.lengths == [2, 3]


@pytest.mark.parametrize("max_tokens", [1, 6, 9, 12, 1000])
def test_every_row_comes_once_and_no_batch_is_too_large(max_tokens: int) -> None:
    prompts: list[TokenIds] = [(4,) * n for n in (1, 5, 2, 3, 1)]
    completions: list[TokenIds] = [(6,) * n for n in (2, 1, 4, 0, 2)]
    batches = pack(prompts, completions, max_tokens)
    assert sorted(i for batch in batches for i in batch.rows) == [0, 1, 2, 3, 4]
    for batch in batches:
        assert batch.input_ids_BT.numel() <= max_tokens or len(batch.rows) == 1
        before = batch.input_ids_BT.flatten()[batch.predicts_N + 1]
        assert torch.equal(before, batch.response_N)
        assert batch.lengths == [len(completions[i]) for i in batch.rows]
    if max_tokens == 1000:
        assert len(batches) == 1


def test_no_rows_are_no_batches() -> None:
    assert pack([], [], 10) == []


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="prompt 1 holds no token"):
        pack([(4,), ()], [(5,), (6,)], 10)
