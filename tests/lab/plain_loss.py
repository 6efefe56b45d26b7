"""The divergence from the shares that a lesson teaches, token by token, as `share_loss` sums it up."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from critique_rl.lab.measure import LabPolicy
from critique_rl.lab.training import SharedLesson


def plain_terms(policy: LabPolicy, lessons: Sequence[SharedLesson], *, end: str) -> list[float]:
    """One term per piece of every lesson, in order (nats)."""
    terms: list[float] = []
    with torch.no_grad():
        for lesson in lessons:
            ids = list(policy.encode(lesson.prompt))
            for piece, shares in zip(lesson.pieces, lesson.shares, strict=True):
                logprobs = torch.log_softmax(policy.model(torch.tensor([ids])).logits[0, -1], -1)
                token = {p: policy.eos_id if p == end else policy.encode(p)[0] for p in shares}
                terms.append(sum(q * (math.log(q) - float(logprobs[token[p]])) for p, q in shares.items()))
                ids.append(policy.eos_id if piece == end else policy.encode(piece)[0])
    return terms
