"""What a client library's exception means: which critic error it is, and whether sending again can help.

Owns: the reading of status codes, error bodies and Retry-After, for the openai client and for LiteLLM, whose exceptions
subclass it. Must not know: which transport raised it, prompts, retries themselves.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import cast

import openai

from critique_rl.critics.redaction import Redactor
from critique_rl.errors import (
    CriticError,
    CriticMalformedError,
    CriticRateLimitError,
    CriticRefusedError,
    CriticSetupError,
    CriticTimeoutError,
)
from critique_rl.net import CallFailed

RETRYABLE_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_NO_ACCESS_STATUS = frozenset({401, 402, 403})
_FORM_STATUS = frozenset({400, 415, 422, 501})
_OVERFLOW = ("context_length", "context length", "context window", "exceed_context_size", "maximum context", "too long")
_FILTERED = ("content_filter", "content management policy", "content policy", "safety system")
_FORM_WORDS = ("response_format", "json_schema", "json_object", "structured output", "guided", "grammar")
_NO_QUOTA = ("insufficient_quota", "exceeded your current quota", "billing")
_UNKNOWN_PROVIDER = "llm provider not provided"


def status_of(error: Exception) -> int | None:
    """The HTTP status that an exception carries, if any."""
    status: object = getattr(error, "status_code", None)
    return status if isinstance(status, int) else None


def refuses_form(error: Exception) -> bool:
    """True if a server may have refused the structured-output request rather than the rest of the call."""
    text = str(error).lower()
    status = status_of(error)
    if status == 500:
        return any(word in text for word in _FORM_WORDS)
    settled = any(word in text for word in (*_OVERFLOW, *_FILTERED, _UNKNOWN_PROVIDER))
    return status in _FORM_STATUS and not settled


def call_failed(error: Exception, *, redact: Redactor, setup_hint: str) -> CallFailed:
    """Translate one exception; `setup_hint` says what the user can do about a key, a model name or an address."""
    status, text = status_of(error), str(error).lower()
    said = redact.line(str(error)) or type(error).__name__
    if isinstance(error, openai.APITimeoutError):
        return CallFailed(CriticTimeoutError(f"no answer in time: {said}"), retryable=True)
    if status == 429:
        return _rate_limited(error, text, said)
    if status in _NO_ACCESS_STATUS:
        return _setup(f"the critic's server refused access ({status}): {said}: {setup_hint}")
    if status == 404 or _UNKNOWN_PROVIDER in text:
        return _setup(f"the critic's model or address is unknown: {said}: {setup_hint}")
    if status in RETRYABLE_STATUS:
        wish = retry_after_s(error)
        return CallFailed(CriticError(f"server error {status}: {said}"), retryable=True, retry_after_s=wish)
    if isinstance(error, openai.APIConnectionError):
        return CallFailed(CriticError(f"the connection failed: {said}"), retryable=True)
    if status is not None:
        return CallFailed(_refused_or_failed(status, text, said), retryable=False)
    if isinstance(error, openai.APIResponseValidationError | ValueError):
        return CallFailed(CriticMalformedError(f"the server's answer cannot be read: {said}"), retryable=True)
    return CallFailed(CriticError(f"{type(error).__name__}: {said}"), retryable=False)


def _setup(message: str) -> CallFailed:
    return CallFailed(CriticSetupError(message), retryable=False)


def _rate_limited(error: Exception, text: str, said: str) -> CallFailed:
    wish = retry_after_s(error)
    limited = CriticRateLimitError(f"rate limited: {said}", retry_after_s=wish)
    return CallFailed(limited, retryable=not any(word in text for word in _NO_QUOTA), retry_after_s=wish)


def _refused_or_failed(status: int, text: str, said: str) -> CriticError:
    if any(word in text for word in _FILTERED):
        return CriticRefusedError(f"refused by a content filter: {said}")
    if any(word in text for word in _OVERFLOW):
        return CriticError(f"the prompt is longer than the model's context: {said}")
    return CriticError(f"bad request ({status}): {said}")


def retry_after_s(error: Exception) -> float | None:
    """Seconds that the server asks to wait (retry-after-ms, or Retry-After as seconds or as a date), else None."""
    headers = _headers(error)
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - time.time()
            except ValueError:
                continue
        if seconds == seconds and seconds < float("inf"):
            return max(0.0, seconds)
    return None


def _headers(error: Exception) -> Mapping[str, str]:
    """LiteLLM keeps the server's headers apart from its made-up response, so its attribute comes first."""
    for found in (
        cast(object, getattr(error, "litellm_response_headers", None)),
        cast(object, getattr(getattr(error, "response", None), "headers", None)),
    ):
        if isinstance(found, Mapping) and found:
            pairs = cast(Mapping[object, object], found)
            return {str(name).lower(): str(value) for name, value in pairs.items()}
    return {}
