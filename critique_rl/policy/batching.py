"""Sequences -> right-padded micro-batches, and where their response logits lie.

Legend: B sequences, T padded tokens, N response tokens of the micro-batch, flattened sample by sample.
Must not know: losses. Splitting never changes a result: every denominator is computed before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from critique_rl.types import TokenIds


class MicroBatch(NamedTuple):
    """`rows`: each row's place in the caller's order; `predicts_N`: flat positions b*T+t that predict `response_N`."""

    rows: list[int]
    input_ids_BT: torch.Tensor
    attention_BT: torch.Tensor
    predicts_N: torch.Tensor
    response_N: torch.Tensor
    lengths: list[int]


def micro_batches(
    prompts: Sequence[TokenIds],
    completions: Sequence[TokenIds],
    *,
    max_tokens: int,
    pad_id: int,
    device: torch.device,
) -> Iterator[MicroBatch]:
    """Sort by length and cut so that rows x longest row <= max_tokens (a single longer row goes alone).

    Errors: ValueError for an empty prompt, after which nothing predicts the first response token.
    """
    if not all(prompts):
        empty = next(i for i, prompt in enumerate(prompts) if not prompt)
        raise ValueError(f"prompt {empty} holds no token; wanted at least one, such as a beginning-of-text id")
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]) + len(completions[i]), i))
    rows: list[int] = []
    for i in order:
        width = len(prompts[i]) + len(completions[i])
        if rows and width * (len(rows) + 1) > max_tokens:
            yield _pack(rows, prompts, completions, pad_id, device)
            rows = []
        rows.append(i)
    if rows:
        yield _pack(rows, prompts, completions, pad_id, device)


def _pack(
    rows: list[int],
    prompts: Sequence[TokenIds],
    completions: Sequence[TokenIds],
    pad_id: int,
    device: torch.device,
) -> MicroBatch:
    width = max(len(prompts[i]) + len(completions[i]) for i in rows)
    input_ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    attention = torch.zeros((len(rows), width), dtype=torch.long)
    predicts: list[int] = []
    response: list[int] = []
    for b, i in enumerate(rows):
        ids = prompts[i] + completions[i]
        input_ids[b, : len(ids)] = torch.tensor(ids, dtype=torch.long)
        attention[b, : len(ids)] = 1
        start = b * width + len(prompts[i]) - 1
        predicts.extend(range(start, start + len(completions[i])))
        response.extend(completions[i])
    return MicroBatch(
        rows=rows,
        input_ids_BT=input_ids.to(device),
        attention_BT=attention.to(device),
        predicts_N=torch.tensor(predicts, dtype=torch.long, device=device),
        response_N=torch.tensor(response, dtype=torch.long, device=device),
        lengths=[len(completions[i]) for i in rows],
    )
