"""Micro-batches in each layout: every row once, bounded size, and logits taken one position before their token."""

from __future__ import annotations

import pytest
import torch

from critique_rl.policy.batching import Layout, MicroBatch, micro_batches
from critique_rl.types import TokenIds

CPU = torch.device("cpu")


def pack(
    prompts: list[TokenIds], completions: list[TokenIds], max_tokens: int, layout: Layout = "padded"
) -> list[MicroBatch]:
    return list(micro_batches(prompts, completions, max_tokens=max_tokens, pad_id=0, device=CPU, layout=layout))


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


def test_rows_end_to_end_by_hand() -> None:
    (batch,) = pack([(4, 5), (6,)], [(7, 8, 9), (5, 4)], 100, "packed")
    assert batch.rows == [0, 1]  # longer first
    assert batch.input_ids_BT.tolist() == [[4, 5, 7, 8, 6, 5]]  # without 9 and 4, which predict nothing
    assert batch.predicts_N.tolist() == [1, 2, 3, 4, 5]
    assert batch.response_N.tolist() == [7, 8, 9, 5, 4]
    assert batch.lengths == [3, 2]
    assert batch.segments is not None
    assert batch.segments.lengths == (4, 2) and batch.segments.after == (None, None)
    assert batch.segments.positions_1T.tolist() == [[0, 1, 2, 3, 0, 1]]


def test_a_shared_prompt_comes_once_by_hand() -> None:
    prompts: list[TokenIds] = [(4, 5), (6,), (4, 5), (4, 5)]
    (batch,) = pack(prompts, [(7, 8, 9), (5, 4), (3,), ()], 100, "prefix")
    assert batch.rows == [0, 2, 3, 1]
    assert batch.input_ids_BT.tolist() == [[4, 5, 7, 8, 6, 5]]
    # token 5 at place 1 predicts the first token of both completions; the second has no place of its own
    assert batch.predicts_N.tolist() == [1, 2, 3, 1, 4, 5]
    assert batch.response_N.tolist() == [7, 8, 9, 3, 5, 4]
    assert batch.lengths == [3, 1, 0, 2]
    assert batch.segments is not None
    assert batch.segments.lengths == (2, 2, 2) and batch.segments.after == (None, 0, None)
    assert batch.segments.positions_1T.tolist() == [[0, 1, 2, 3, 0, 1]]


@pytest.mark.parametrize("layout", ["packed", "prefix"])
@pytest.mark.parametrize("max_tokens", [1, 7, 9, 12, 1000])
def test_packed_batches_hold_every_row_once_and_keep_the_budget(max_tokens: int, layout: Layout) -> None:
    prompts: list[TokenIds] = [(4,) * n for n in (1, 5, 2, 5, 1, 5, 5)]
    completions: list[TokenIds] = [(6,) * n for n in (2, 1, 4, 0, 2, 3, 6)]
    batches = pack(prompts, completions, max_tokens, layout)
    again = pack(prompts, completions, max_tokens, layout)
    assert [batch.rows for batch in batches] == [batch.rows for batch in again]
    assert sorted(i for batch in batches for i in batch.rows) == list(range(7))
    for batch in batches:
        assert batch.input_ids_BT.numel() <= max_tokens or len(batch.rows) == 1
        assert batch.segments is not None and sum(batch.segments.lengths) == batch.input_ids_BT.numel()
        assert batch.lengths == [len(completions[i]) for i in batch.rows]
        assert sum(batch.lengths) == len(batch.predicts_N) == len(batch.response_N)
    if max_tokens == 1000:
        assert len(batches) == 1
