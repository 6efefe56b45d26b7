"""One chat completion: the ladder of structured-output requests, and reading the answer with nothing taken on trust.

Owns: what a server is asked to constrain, and the guard against answers of the wrong shape.
Must not know: which client sends, retries, what the text means.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, cast

from critique_rl.config.critic import StructuredOutput
from critique_rl.critics.asking import FIRST_ASK, Ask
from critique_rl.critics.sdk_errors import refuses_form
from critique_rl.errors import CriticMalformedError, CriticRefusedError
from critique_rl.feedback.schema import JsonObject, wire_schema
from critique_rl.net import CallFailed
from critique_rl.types import Message, Usage

_LOG = logging.getLogger(__name__)
_LADDER: tuple[StructuredOutput, ...] = ("json_schema", "json_object", "text")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatReply:
    """The text of one answer, with what the server said about it; `form` is what it was asked to constrain."""

    text: str
    finish_reason: str
    model: str
    usage: Usage
    form: StructuredOutput | None = None


class Transport(Protocol):
    """Sends one request. `complete` raises CallFailed and nothing else; errors hold no secret."""

    @property
    def endpoint(self) -> str:
        """Host and path of the server, without scheme, user, password and query: part of a request's key."""
        ...

    async def complete(self, messages: Sequence[Message], ask: Ask = FIRST_ASK) -> ChatReply: ...

    def body(self, messages: Sequence[Message], ask: Ask = FIRST_ASK) -> dict[str, object]:
        """The JSON body of such a request, as a batch file holds it."""
        ...

    def price_usd(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """What so many tokens cost, or None if no price is known."""
        ...

    def batch_price_usd(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """The same through a batch endpoint; None if no batch price is known."""
        ...

    async def close(self) -> None: ...


class Formed(NamedTuple):
    """A server's answer, and the form that it took."""

    answer: object
    form: StructuredOutput


class StructuredLadder:
    """Asks for a JSON schema, steps down for a server that refuses it, and remembers what was answered.

    A step down is remembered only once the lower form was answered: another fault must not cost the schema.
    """

    def __init__(self, start: StructuredOutput, criteria: Sequence[str], *, directives: bool) -> None:
        self.form: StructuredOutput = start
        self._schema = wire_schema(criteria, directives=directives)

    @property
    def response_format(self) -> JsonObject | None:
        """What the present form sends; None for plain text."""
        return self._response_format(self.form)

    async def ask(self, send: Callable[[JsonObject | None], Awaitable[object]]) -> Formed:
        """Call `send` with the response format, or None for plain text, until the server takes one."""
        for form in _LADDER[_LADDER.index(self.form) :]:
            try:
                answer = await send(self._response_format(form))
            except Exception as error:
                if form == _LADDER[-1] or not refuses_form(error):
                    raise
                continue
            if _LADDER.index(form) > _LADDER.index(self.form):
                _LOG.warning("the critic's server refused structured_output = %s; using %s", self.form, form)
                self.form = form
            return Formed(answer=answer, form=form)
        raise AssertionError("the last form either answers or raises")

    def _response_format(self, form: StructuredOutput) -> JsonObject | None:
        if form == "text":
            return None
        if form == "json_object":
            return {"type": "json_object"}
        return {"type": "json_schema", "json_schema": {"name": "critique", "strict": True, "schema": self._schema}}


class _ChatMessage(Protocol):
    content: str | None


class _Choice(Protocol):
    message: _ChatMessage
    finish_reason: str | None


def read_completion(
    answer: object, *, price_usd: Callable[[int, int], float | None], form: StructuredOutput | None = None
) -> ChatReply:
    """Take text, finish reason and usage out of a chat completion. Raises CallFailed for anything else.

    A web page answered with status 200 arrives as a str from the client, and as an object without choices otherwise.
    """
    choices = cast(Sequence[_Choice] | None, getattr(answer, "choices", None))
    if not choices:
        shown = " ".join(answer[:60].split()) if isinstance(answer, str) else type(answer).__name__
        error = CriticMalformedError(f"the server's answer is no chat completion but {shown!r}: check base_url")
        raise CallFailed(error, retryable=True)
    choice = choices[0]
    told: object = getattr(answer, "usage", None)
    prompt_tokens, completion_tokens = _count(told, "prompt_tokens"), _count(told, "completion_tokens")
    usage = Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        cost_usd=price_usd(prompt_tokens, completion_tokens),
    )
    refusal: object = getattr(choice.message, "refusal", None)
    if refusal or choice.finish_reason == "content_filter":
        raise CallFailed(CriticRefusedError("the critic declined to answer"), retryable=False, used=usage)
    return ChatReply(
        text=_writable(choice.message.content or ""),
        finish_reason=choice.finish_reason or "",
        model=_writable(str(getattr(answer, "model", "") or "")),
        form=form,
        usage=usage,
    )


def _writable(text: str) -> str:
    """Half of a surrogate pair, which JSON can carry and UTF-8 cannot, becomes a question mark."""
    return text.encode("utf-8", errors="replace").decode()


def _count(usage: object, name: str) -> int:
    value: object = getattr(usage, name, None)
    return value if isinstance(value, int) and value >= 0 else 0
