"""What a vLLM server's prompt log-probs say of a completion's tokens, and which of it can be used.

Owns: that nothing missing, padded or unnormalised becomes a target. Must not know: servers, when they are asked.
Legend: T tokens of a completion, K ids. Trap: a token's own log-prob comes first, whatever its rank, and is one more
than the top-K unless it is one of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel

from critique_rl.types import TeacherTargets, TokenIds

_NO_LOGPROB = -9998.0
"""vLLM sends -9999 in place of -inf."""
_ROUNDING = 1e-3


class _Entry(BaseModel):
    logprob: float | None


class _Answer(BaseModel):
    prompt_logprobs: list[dict[int, _Entry] | None]


def read_targets(text: str, context: TokenIds, completion: TokenIds, *, k: int, vocabulary: int) -> TeacherTargets:
    """What an answer says of the completion's tokens. Raises ValueError if it is no answer about these tokens."""
    answer = _Answer.model_validate_json(text).prompt_logprobs
    wanted = len(context) + len(completion)
    if len(answer) != wanted:
        raise ValueError(f"log-probs of {len(answer)} prompt tokens came; wanted {wanted}, one per token that was sent")
    targets = nothing(context, len(completion), k)
    for t, (token, entries) in enumerate(zip(completion, answer[len(context) :], strict=True)):
        if entries is None or token not in entries:
            raise ValueError(f"no log-prob of id {token}, which is token {t} of the completion: other ids were scored")
        logprobs = {i: math.nan if entry.logprob is None else entry.logprob for i, entry in entries.items()}
        top = _top(logprobs, token, k)
        if _usable(top, logprobs[token], vocabulary):
            targets.ids_TK[t] = [i for i, _ in top]
            targets.logprobs_TK[t] = [logprob for _, logprob in top]
            targets.sampled_logprobs_T[t] = logprobs[token]
            targets.mask_T[t] = 1.0
    return targets


def nothing(context: TokenIds, tokens: int, k: int) -> TeacherTargets:
    """Targets that say nothing: every token masked, every log-prob not a number."""
    return TeacherTargets(
        ids_TK=np.zeros((tokens, k), dtype=np.int64),
        logprobs_TK=np.full((tokens, k), np.nan),
        sampled_logprobs_T=np.full(tokens, np.nan),
        mask_T=np.zeros(tokens),
        context_ids=tuple(context),
    )


def _top(logprobs: Mapping[int, float], token: int, k: int) -> list[tuple[int, float]]:
    """The K most likely (id, log-prob), most likely first: the token itself is one more unless it is one of them."""
    if len(logprobs) not in (k, k + 1):
        raise ValueError(f"log-probs at {len(logprobs)} ids came for id {token}; wanted {k}, and its own")
    top = [(i, logprob) for i, logprob in logprobs.items() if len(logprobs) == k or i != token]
    return sorted(top, key=lambda entry: (-entry[1], entry[0]))


def _usable(top: Sequence[tuple[int, float]], own: float, vocabulary: int) -> bool:
    """Whether these are normalised log-probs of known ids: none is padded, none is a logit."""
    values = [own, *(logprob for _, logprob in top)]
    if not all(_NO_LOGPROB < value <= _ROUNDING for value in values):
        return False
    first = top[0][1]
    misplaced = own - top[-1][1] > _ROUNDING and own not in values[1:]
    # Of V ids the likeliest has 1 / V at least; a server's V may be padded, but not twofold.
    return (
        not misplaced
        and first >= -math.log(2 * vocabulary)
        and math.fsum(math.exp(value) for value in values[1:]) <= 1.0 + _ROUNDING
        and all(0 <= i < vocabulary for i, _ in top)
    )
