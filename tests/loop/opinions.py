"""A policy and a teacher who are of one mind at every token, each its own: five ids with known probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from critique_rl.types import TeacherTargets, TokenIds
from tests.loop.fakes import CharPolicy

S, T = (0.50, 0.25, 0.15, 0.07, 0.03), (0.10, 0.60, 0.05, 0.20, 0.05)


class Opinions(CharPolicy):
    """The policy has S and the teacher T at every token, over five ids; `blind` are tokens without a usable reading."""

    def __init__(self, *, blind: dict[str, int] | None = None) -> None:
        super().__init__()
        self.blind = blind or {}

    def topk_logprobs(
        self,
        contexts: Sequence[TokenIds],
        completions: Sequence[TokenIds],
        *,
        k: int,
        who: Literal["policy", "teacher"],
        support: Sequence[TeacherTargets] | None = None,
    ) -> list[TeacherTargets]:
        probs = np.array(S if who == "policy" else T)
        plain = super().topk_logprobs(contexts, completions, k=k, who=who, support=support)
        own = [np.tile(np.argsort(-probs)[:k], (len(c), 1)) for c in completions]
        ids = own if support is None else [given.ids_TK for given in support]
        return [
            replace(
                t,
                ids_TK=ids_TK,
                logprobs_TK=np.log(probs[ids_TK]),
                sampled_logprobs_T=np.log(probs[list(completion)]),
                mask_T=(np.arange(len(completion)) != self.blind.get(who, -1)).astype(float),
            )
            for t, ids_TK, completion in zip(plain, ids, completions, strict=True)
        ]
