"""Sequences -> micro-batches in one of three layouts, and where their response logits lie.

Owns: the tensors of a forward pass. Must not know: losses, models. Neither splitting nor layout changes a result: every
denominator is computed before, and each token sees its own prompt and completion only.
Legend: B sequences, T tokens of a row of the batch, N response tokens, flattened sample by sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch

from critique_rl.policy.packing import Piece, own_tokens, plan
from critique_rl.policy.segments import Segments, Span, segments_of
from critique_rl.types import TokenIds

Layout = Literal["padded", "packed", "prefix"]
"""One row a sequence, padded to the longest; all end to end in one row; the same with each shared prompt once."""


class MicroBatch(NamedTuple):
    """`rows`: each row's place in the caller's order; `predicts_N`: flat positions b*T+t that predict `response_N`.

    `segments` is None where each sequence has a row of its own; else B is 1, and it says which token sees which.
    """

    rows: list[int]
    input_ids_BT: torch.Tensor
    attention_BT: torch.Tensor
    predicts_N: torch.Tensor
    response_N: torch.Tensor
    lengths: list[int]
    segments: Segments | None = None


def micro_batches(
    prompts: Sequence[TokenIds],
    completions: Sequence[TokenIds],
    *,
    max_tokens: int,
    pad_id: int,
    device: torch.device,
    layout: Layout = "padded",
) -> Iterator[MicroBatch]:
    """Cut rows into batches of at most `max_tokens`: padded ones for "padded", else really computed ones.

    A single longer row goes alone. Padded rows are sorted by length. Packed ones fill bins, without each row's last
    token, which predicts nothing; under "prefix" a prompt that several rows of a bin share is computed once.
    Errors: ValueError for an empty prompt, after which nothing predicts the first response token.
    """
    if not all(prompts):
        empty = next(i for i, prompt in enumerate(prompts) if not prompt)
        raise ValueError(f"prompt {empty} holds no token; wanted at least one, such as a beginning-of-text id")
    if layout == "padded":
        for rows in _by_length(prompts, completions, max_tokens):
            yield _padded(rows, prompts, completions, pad_id, device)
        return
    for pieces in plan(prompts, completions, max_tokens=max_tokens, share_prompts=layout == "prefix"):
        yield _packed(pieces, prompts, completions, device)


def _by_length(prompts: Sequence[TokenIds], completions: Sequence[TokenIds], max_tokens: int) -> Iterator[list[int]]:
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]) + len(completions[i]), i))
    rows: list[int] = []
    for i in order:
        width = len(prompts[i]) + len(completions[i])
        if rows and width * (len(rows) + 1) > max_tokens:
            yield rows
            rows = []
        rows.append(i)
    if rows:
        yield rows


def _padded(
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


def _packed(
    pieces: Sequence[Piece], prompts: Sequence[TokenIds], completions: Sequence[TokenIds], device: torch.device
) -> MicroBatch:
    ids: list[int] = []
    spans: list[Span] = []
    predicts: list[int] = []
    for piece in pieces:
        prompt, alone, first = prompts[piece[0]], len(piece) == 1, len(spans)
        ids.extend(prompt)
        last = len(ids) - 1
        spans.append(Span(len(prompt) + own_tokens(completions[piece[0]]) if alone else len(prompt)))
        for i in piece:
            own = own_tokens(completions[i])
            if own and not alone:
                spans.append(Span(own, start=len(prompt), after=first))
            # The prompt's last token predicts the first of each completion, wherever that one lies.
            predicts.extend([last, *range(len(ids), len(ids) + own)][: len(completions[i])])
            ids.extend(completions[i][:own])
    rows = [i for piece in pieces for i in piece]
    response = [token for i in rows for token in completions[i]]
    input_ids = torch.tensor([ids], dtype=torch.long, device=device)
    return MicroBatch(
        rows=rows,
        input_ids_BT=input_ids,
        attention_BT=torch.ones_like(input_ids),
        predicts_N=torch.tensor(predicts, dtype=torch.long, device=device),
        response_N=torch.tensor(response, dtype=torch.long, device=device),
        lengths=[len(completions[i]) for i in rows],
        segments=segments_of(spans, device),
    )
