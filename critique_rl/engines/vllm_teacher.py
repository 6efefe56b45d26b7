"""A teacher behind a vLLM server: log-probs of given tokens at its own top-K, read from its prompt log-probs.

Owns: the proof that both sides have one tokenizer, what of an answer can be used, and rows that got none. Must not
know: directives, the loss. Needs the server's token endpoint (--enable-scale-out). Legend: T tokens, K ids.
Traps: prompt log-probs are at temperature 1 whatever is asked for; the server reads no prefix cache for such requests,
and computes the whole context each time.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from pydantic import BaseModel

from critique_rl.config.algorithm import TeacherServerConfig
from critique_rl.engines.prompt_logprobs import nothing, read_targets
from critique_rl.engines.vllm_connection import (
    WAYS_OUT,
    Refused,
    ServerGone,
    Unreachable,
    VllmConnection,
    call_pool,
    malformed,
)
from critique_rl.errors import CriticError, CriticMalformedError, EngineError
from critique_rl.net import CallResult, PlannedCall
from critique_rl.types import TeacherTargets, TokenIds, Usage

SECTION = "distillation.server"
_LOG = logging.getLogger(__name__)
_ODD_TEXT = (
    "Grüße, naïve “quotes” — 東京 مرحبا \U0001d11e \U0001f469\u200d\U0001f680 ½ ﬁ e\u0301\u200b"
    "\ttab  two\r\n    12345+678 don't"
)
"""What tokenizers treat differently: other scripts, joined and combining characters, blanks, digits, ligatures."""
_ROW_STATUS = frozenset({400, 413, 422})
"""Refusals that concern one row: it is too long for the server, mostly."""


class _Tokens(BaseModel):
    tokens: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scored:
    targets: TeacherTargets
    usage: Usage


class VllmTeacher:
    """Scores (context, completion) pairs with a served model, as `policy.scoring.Scorer.topk` does with a local one.

    `lost_rows` counts rows that the server answered with nothing of use, `lost_tokens` tokens within the others.
    """

    def __init__(
        self,
        server: VllmConnection,
        config: TeacherServerConfig,
        *,
        encode: Callable[[str], Sequence[int]],
        vocabulary: int,
        special_tokens: Sequence[str] = (),
        poll_s: float = 1.0,
    ) -> None:
        """`encode`: by the policy's tokenizer, without added tokens; `vocabulary`: how many ids the policy has."""
        self.lost_rows = 0
        self.lost_tokens = 0
        self._server = server
        self._config = config
        self._encode = encode
        self._vocabulary = vocabulary
        self._text = " ".join([_ODD_TEXT, *special_tokens])
        self._poll_s = poll_s
        self._proven: set[int] = set()
        self._pool = call_pool(timeout_s=config.timeout_s, max_in_flight=config.max_in_flight, poll_s=poll_s)

    def topk(
        self,
        contexts: Sequence[TokenIds],
        completions: Sequence[TokenIds],
        *,
        k: int,
        support: Sequence[TeacherTargets] | None = None,
    ) -> list[TeacherTargets]:
        """Log-probs at the server's top-K, most likely first; `mask_T` is 0 where it gave nothing usable.

        Raises EngineError: the server stayed away, refuses, or has another tokenizer. ValueError: for an empty context,
        after which nothing predicts the first token, or a `support`, at whose ids no server can be asked.
        """
        if support is not None:
            raise ValueError("support: a served teacher scores at its own top-K ids only; wanted None")
        if not all(contexts):
            empty = next(i for i, context in enumerate(contexts) if not context)
            raise ValueError(f"context {empty} holds no token; wanted at least one, such as a beginning-of-text id")
        found: dict[int, TeacherTargets] = {
            i: nothing(context, 0, k) for i, context in enumerate(contexts) if not completions[i]
        }
        lost: dict[int, str] = {}

        def score_the_rest() -> None:
            try:
                self._prove(k)
                left = [i for i in range(len(contexts)) if i not in found and i not in lost]
                calls = [self._call(contexts[i], completions[i], k) for i in left]
                self._sort_out(left, self._pool.run_all(calls), found, lost)
            except ServerGone:
                self._proven.clear()  # what comes back may be another server
                raise

        if len(found) < len(contexts):
            self._server.outlive(
                score_the_rest,
                restarts=self._config.max_restarts,
                wait_s=self._config.restart_wait_s,
                poll_s=self._poll_s,
            )
        self._count(found, lost)
        rows = enumerate(zip(contexts, completions, strict=True))
        return [found[i] if i in found else nothing(context, len(completion), k) for i, (context, completion) in rows]

    def close(self) -> None:
        """Drop what is in flight and close the connections."""
        self._pool.close(self._server.close)

    def _prove(self, k: int) -> None:
        """One tokenizer on both sides, and usable log-probs of a short text. Raises EngineError, ServerGone."""
        if k in self._proven:
            return
        self._server.check_model()
        ours = tuple(self._encode(self._text))
        body = {"model": self._server.model, "prompt": self._text, "add_special_tokens": False}
        theirs = tuple(self._server.ask("POST", "/tokenize", _Tokens, body).tokens)
        if ours != theirs:
            at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), -1)
            at = min(len(ours), len(theirs)) if at < 0 else at
            raise EngineError(
                f"{SECTION}: the server at {self._server.address} has another tokenizer than the policy, so its "
                f"log-probs would be of other tokens: from id {at} on a test text is {ours[at : at + 3]}... here and "
                f"{theirs[at : at + 3]}... there; serve a model of the policy's family"
            )
        (result,) = self._pool.run_all([self._call(ours[:1], ours[1:], k)])
        if isinstance(result.error, Unreachable) or (result.error is not None and not self._server.is_up()):
            raise ServerGone(str(result.error))
        if result.answer is None:
            raise self._unusable(f"k = {k}: {result.error}")
        usable_T = result.answer.targets.mask_T > 0
        if not usable_T.all():
            raise self._unusable(
                f"{np.count_nonzero(~usable_T)} of {len(usable_T)} tokens of a test text have no usable log-probs; "
                f"start it with --logprobs-mode raw_logprobs, and with a model of no more than {self._vocabulary} ids"
            )
        self._proven.add(k)

    def _unusable(self, said: str) -> EngineError:
        return EngineError(
            f"{SECTION}: the server at {self._server.address} cannot be the teacher: {said} (--enable-scale-out "
            f"opens its token endpoint, --max-logprobs has to be distillation.k at least; {WAYS_OUT})"
        )

    def _call(self, context: TokenIds, completion: TokenIds, k: int) -> PlannedCall[_Scored]:
        return PlannedCall(send=partial(self._send, context, completion, k))

    async def _send(self, context: TokenIds, completion: TokenIds, k: int) -> _Scored:
        sampling = {"n": 1, "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": k, "detokenize": False}
        body = {"model": self._server.model, "token_ids": [*context, *completion], "sampling_params": sampling}
        text = await self._server.post("/inference/v1/generate", body)
        try:
            targets = read_targets(text, context, completion, k=k, vocabulary=self._vocabulary)
        except ValueError as error:
            raise malformed(self._server.said(str(error))) from None
        return _Scored(targets=targets, usage=Usage(prompt_tokens=len(context) + len(completion), completion_tokens=1))

    def _sort_out(
        self,
        rows: Sequence[int],
        results: Sequence[CallResult[_Scored]],
        found: dict[int, TeacherTargets],
        lost: dict[int, str],
    ) -> None:
        """Put each row where it belongs. Raises ServerGone if some are to be sent again, EngineError if none can be."""
        doubtful: dict[int, CriticError] = {}
        for i, result in zip(rows, results, strict=True):
            error = result.error
            if result.answer is not None:
                found[i] = result.answer.targets
            elif isinstance(error, Refused) and error.status not in _ROW_STATUS:
                raise self._unusable(str(error))
            elif isinstance(error, Refused | CriticMalformedError):
                lost[i] = str(error)
            elif error is not None:
                doubtful[i] = error
        gone = [error for error in doubtful.values() if isinstance(error, Unreachable)]
        if doubtful and (gone or not self._server.is_up()):
            raise ServerGone(str(next(iter(gone or doubtful.values()))))
        lost |= {i: str(error) for i, error in doubtful.items()}

    def _count(self, found: Mapping[int, TeacherTargets], lost: Mapping[int, str]) -> None:
        tokens = sum(int(np.count_nonzero(targets.mask_T == 0)) for targets in found.values())
        self.lost_rows += len(lost)
        self.lost_tokens += tokens
        if lost:
            said = next(iter(lost.values()))
            _LOG.warning("%s: %d of %d rows got no targets: %s", SECTION, len(lost), len(lost) + len(found), said)
        if tokens:
            _LOG.warning("%s: %d tokens got no targets: no usable log-probs of theirs came", SECTION, tokens)


def vllm_teacher(
    config: TeacherServerConfig,
    *,
    encode: Callable[[str], Sequence[int]],
    vocabulary: int,
    special_tokens: Sequence[str] = (),
    poll_s: float = 1.0,
) -> VllmTeacher:
    """The teacher of a run file's [distillation.server]."""
    server = VllmConnection(
        config.base_url,
        config.model,
        key=os.environ.get(config.api_key_env, "").strip() or None,
        timeout_s=config.timeout_s,
        max_in_flight=config.max_in_flight,
        section=SECTION,
        needs="--enable-scale-out",
    )
    return VllmTeacher(
        server, config, encode=encode, vocabulary=vocabulary, special_tokens=special_tokens, poll_s=poll_s
    )
