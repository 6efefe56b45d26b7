"""Which rows share a forward pass without padding: pieces of rows, filled into bins of a token budget.

Owns: the choice, as row numbers. Must not know: tensors, models. Equal input gives equal bins.
"""

from __future__ import annotations

from collections.abc import Sequence

from critique_rl.types import TokenIds

Piece = tuple[int, ...]
"""Rows that are computed behind one copy of their prompt: one row, or several with equal prompt ids."""


def plan(
    prompts: Sequence[TokenIds], completions: Sequence[TokenIds], *, max_tokens: int, share_prompts: bool
) -> list[list[Piece]]:
    """The pieces of each forward pass, at most `max_tokens` computed tokens (a longer row goes alone).

    With `share_prompts`, rows with equal prompt ids form pieces as large as the budget allows.
    """
    if share_prompts:
        groups: dict[TokenIds, list[int]] = {}
        for i, prompt in enumerate(prompts):
            groups.setdefault(tuple(prompt), []).append(i)
        pieces = [
            tuple(members[at] for at in part)
            for prompt, members in groups.items()
            for part in fill([own_tokens(completions[i]) for i in members], max_tokens - len(prompt))
        ]
    else:
        pieces = [(i,) for i in range(len(prompts))]
    sizes = [len(prompts[piece[0]]) + sum(own_tokens(completions[i]) for i in piece) for piece in pieces]
    return [[pieces[at] for at in part] for part in fill(sizes, max_tokens)]


def own_tokens(completion: TokenIds) -> int:
    """Tokens of a completion that are computed: the last one predicts nothing."""
    return max(len(completion) - 1, 0)


def fill(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """First-fit decreasing: bins of places in `sizes`, each of `capacity` at most, or of a single place."""
    bins: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        at = next((b for b, free in enumerate(room) if sizes[i] <= free), len(bins))
        if at == len(bins):
            bins.append([])
            room.append(capacity)
        bins[at].append(i)
        room[at] -= sizes[i]
    return bins
