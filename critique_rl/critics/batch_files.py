"""The file of a provider batch: one request a line going out, one answer or error a line coming back.

Owns: the OpenAI batch form, vLLM's `run_batch` errors (inline, doubly nested), and what each kind of error line means.
Must not know: who uploads the file, the journal, prompts. A line that cannot be read is counted, never guessed at.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

from openai.types.chat import ChatCompletion

from critique_rl.critics.completion import ChatReply, read_completion
from critique_rl.critics.redaction import Redactor
from critique_rl.critics.sdk_errors import call_failed
from critique_rl.errors import CriticError, CriticMalformedError, CriticTimeoutError, DataError
from critique_rl.net import CallFailed
from critique_rl.types import Usage

ENDPOINT = "/v1/chat/completions"
MAX_KEY_CHARS = 64
_NOTHING_USED = Usage()
JsonBody = Mapping[str, object]
Price = Callable[[int, int], float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLine:
    """One request: `key` is its custom_id and the cache's key, `body` what the server gets, `estimate` the most that it
    can use at the batch price, `row_ids` the rows that wait for its answer."""

    key: str
    body: JsonBody
    estimate: Usage = _NOTHING_USED
    row_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LineResult:
    """What came back for one request: a reply, or an error; `retryable`: sending the line again can help.
    `used`: what an error was billed for (a refusal may be)."""

    key: str
    reply: ChatReply | None = None
    error: CriticError | None = None
    retryable: bool = False
    used: Usage = _NOTHING_USED


class ResultLines(NamedTuple):
    """The first result of each key, in the file's order; lines that say a key again, and lines that say nothing."""

    results: dict[str, LineResult]
    duplicates: int
    unreadable: int


class _LineError(Exception):
    """An error line, in the shape that `call_failed` reads."""

    def __init__(self, message: str, status: int | None) -> None:
        super().__init__(message)
        self.status_code = status


def encode_line(key: str, body: JsonBody) -> str:
    """One line of a batch's input file, without its line end. Raises DataError for a key that servers refuse."""
    if not 0 < len(key) <= MAX_KEY_CHARS:
        raise DataError(f"custom_id {key[:80]!r}: {len(key)} characters; a batch takes 1 to {MAX_KEY_CHARS}")
    line = {"custom_id": key, "method": "POST", "url": ENDPOINT, "body": dict(body)}
    return json.dumps(line, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def encode_file(lines: Iterable[BatchLine]) -> bytes:
    """A whole input file, UTF-8, each line ended."""
    return "".join(encode_line(line.key, line.body) + "\n" for line in lines).encode()


def write_requests(path: Path, lines: Iterable[BatchLine]) -> int:
    """Write an input file for a server's own batch runner, whole or not at all; the number of lines.

    Equal keys become one line. Raises DataError if the file cannot be written.
    """
    once = {line.key: line for line in lines}
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            for line in once.values():
                file.write(encode_file((line,)))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise DataError(f"{path}: the batch file cannot be written: {error}: name another place") from error
    return len(once)


def read_results(lines: Iterable[str], *, price_usd: Price, redact: Redactor) -> ResultLines:
    """Read output and error lines, in any order and number. A reply takes precedence over an error of the same key."""
    results: dict[str, LineResult] = {}
    duplicates = unreadable = 0
    for line in lines:
        if not line.strip():
            continue
        result = _read_line(line, price_usd, redact)
        if result is None:
            unreadable += 1
            continue
        known = results.get(result.key)
        duplicates += known is not None
        if known is None or (known.reply is None and result.reply is not None):
            results[result.key] = result
    return ResultLines(results=results, duplicates=duplicates, unreadable=unreadable)


def read_result_file(path: Path, *, price_usd: Price, redact: Redactor) -> ResultLines:
    """Read a results file from disk. Raises DataError if there is none."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return read_results(_without_newlines(file), price_usd=price_usd, redact=redact)
    except OSError as error:
        raise DataError(f"{path}: the batch's results cannot be read: {error}") from error


def _without_newlines(file: Iterable[str]) -> Iterator[str]:
    # str.splitlines would also cut at the separators that JSON strings may hold.
    return (line.rstrip("\r\n") for line in file)


def _read_line(text: str, price_usd: Price, redact: Redactor) -> LineResult | None:
    try:
        line: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    fields = _mapping(line)
    key = fields.get("custom_id")
    if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY_CHARS:
        return None
    response = _mapping(fields.get("response"))
    status, body = response.get("status_code"), _mapping(response.get("body"))
    if status == 200 and body and not _mapping(fields.get("error")):
        return _read_body(key, body, price_usd)
    error = _mapping(fields.get("error")) or body
    return _failed(key, error, status if isinstance(status, int) and status != 200 else None, redact)


def _read_body(key: str, body: JsonBody, price_usd: Price) -> LineResult:
    try:
        # construct() checks nothing, as the client itself does not: read_completion takes nothing on trust.
        reply = read_completion(ChatCompletion.construct(None, **dict(body)), price_usd=price_usd)
    except CallFailed as failure:
        used = failure.used or _NOTHING_USED
        return LineResult(key=key, error=failure.error, retryable=failure.retryable, used=used)
    except (AttributeError, TypeError, ValueError) as error:
        malformed = CriticMalformedError(f"the batch's answer is no chat completion ({type(error).__name__})")
        return LineResult(key=key, error=malformed, retryable=True)
    return LineResult(key=key, reply=reply)


def _failed(key: str, error: JsonBody, status: int | None, redact: Redactor) -> LineResult:
    """OpenAI says {"code", "message"} or a body {"error": {...}}; vLLM says {"error": {"error": {...}}}."""
    while inner := _mapping(error.get("error")):
        error = inner
    said, code = error.get("message"), error.get("code")
    message = str(said) if said else f"an error line without a message (code {code!r})"
    if status is None and isinstance(code, int):
        status = code
    if status is None:
        expired = str(code) == "batch_expired"
        failure: CriticError = (
            CriticTimeoutError(f"the batch expired before this line: {redact.line(message)}")
            if expired
            else CriticError(f"the batch gave no answer: {redact.line(message)}")
        )
        return LineResult(key=key, error=failure, retryable=True)
    read = call_failed(_LineError(message, status), redact=redact, setup_hint="check the critic's model")
    return LineResult(key=key, error=read.error, retryable=read.retryable)


def _mapping(value: object) -> JsonBody:
    return cast(JsonBody, value) if isinstance(value, dict) else {}
