"""Provider batch endpoints: a file goes up, a batch is made of it, and its output comes down, at another price.

Owns: what a batch service must be able to do, and the retries, clocks and errors of one behind a client library.
Must not know: which library, the journal, what the lines say, waiting. Callers note an intent before each call:
`submit` may have worked when it fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Generic, Protocol, TypeVar, cast

import httpx
import openai

from critique_rl.critics.redaction import Redactor
from critique_rl.critics.sdk_errors import call_failed, status_of
from critique_rl.errors import CriticError, CriticTimeoutError
from critique_rl.net import Budget, CallFailed, CallLimits, CallPool, LoopThread, PlannedCall, SpendMeter
from critique_rl.types import Usage

_NOTHING_USED = Usage()
TRANSFER_TIMEOUT_S = 600.0
_LISTED_AT_ONCE = 100
_MAX_LISTED = 2_000
"""Batches looked through for a lost one, newest first: weeks of them for any account."""
Value = TypeVar("Value")


class BatchState(StrEnum):
    """What the provider says of a batch, as far as it matters here."""

    RUNNING = "running"
    COMPLETED = "completed"
    EXPIRED = "expired"
    FAILED = "failed"
    CANCELLED = "cancelled"


_STATES = {
    "validating": BatchState.RUNNING,
    "in_progress": BatchState.RUNNING,
    "finalizing": BatchState.RUNNING,
    "cancelling": BatchState.RUNNING,
    "completed": BatchState.COMPLETED,
    "expired": BatchState.EXPIRED,
    "failed": BatchState.FAILED,
    "cancelled": BatchState.CANCELLED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStatus:
    """Where a batch stands. An ended one may have an output file, an error file, both or neither."""

    batch_id: str
    state: BatchState
    output_file_id: str = ""
    error_file_id: str = ""
    done_lines: int = 0
    all_lines: int = 0
    reason: str = ""


class BatchUnsureError(CriticError):
    """A submission that failed in a way that does not tell whether the provider made the batch."""


class BatchBackend(Protocol):
    """A batch service. Every method raises CriticError when it fails for good; errors hold no secret."""

    def upload(self, name: str, content: bytes) -> str:
        """The id of the new file."""
        ...

    def submit(self, file_id: str, metadata: Mapping[str, str]) -> str:
        """The id of the new batch. Raises BatchUnsureError if there may be one all the same."""
        ...

    def poll(self, batch_id: str) -> BatchStatus: ...

    def fetch(self, file_id: str) -> Sequence[str]:
        """The lines of an output or error file."""
        ...

    def cancel(self, batch_id: str) -> None:
        """Ask for the end of a batch; one that has ended already is no error."""
        ...

    def find(self, metadata: Mapping[str, str]) -> str | None:
        """The id of the newest batch that was submitted with this metadata, if any."""
        ...

    def close(self) -> None: ...


class BatchApi(Protocol):
    """The six calls of a client library, and its end; answers are its own objects, errors its own exceptions."""

    async def create_file(self, name: str, content: bytes) -> object: ...

    async def create_batch(self, file_id: str, metadata: Mapping[str, str]) -> object: ...

    async def retrieve_batch(self, batch_id: str) -> object: ...

    async def file_content(self, file_id: str) -> bytes: ...

    async def cancel_batch(self, batch_id: str) -> object: ...

    async def list_batches(self, after: str | None, limit: int) -> Sequence[object]:
        """One page, newest first."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Got(Generic[Value]):
    value: Value
    usage: Usage = _NOTHING_USED


class ClientBatches:
    """A batch backend over a client library; all retries are the call pool's."""

    def __init__(
        self,
        api: BatchApi,
        *,
        limits: CallLimits,
        redact: Redactor,
        setup_hint: str,
        thread: LoopThread | None = None,
    ) -> None:
        """`limits.timeout_s` is for one small call; transfers of files get ten minutes."""
        self._api = api
        self._redact = redact
        self._hint = setup_hint
        self._timeout_s = limits.timeout_s
        # The pool's own clock would count as a failure to send, and send again; every call here has its own clock.
        self._pool = CallPool(_outer(limits), SpendMeter(Budget()), thread=thread)

    def upload(self, name: str, content: bytes) -> str:
        return _id_of(self._call(partial(self._api.create_file, name, content), transfer=True), "file")

    def submit(self, file_id: str, metadata: Mapping[str, str]) -> str:
        return _id_of(self._call(partial(self._api.create_batch, file_id, metadata), once=True), "batch")

    def poll(self, batch_id: str) -> BatchStatus:
        return _read_status(self._call(partial(self._api.retrieve_batch, batch_id)), self._redact)

    def fetch(self, file_id: str) -> Sequence[str]:
        content = self._call(partial(self._api.file_content, file_id), transfer=True)
        # bytes.splitlines would do, str.splitlines would also cut at separators that JSON strings may hold.
        return [line.decode("utf-8", errors="replace") for line in content.splitlines()]

    def cancel(self, batch_id: str) -> None:
        try:
            self._call(partial(self._api.cancel_batch, batch_id))
        except CriticError:
            if self.poll(batch_id).state is BatchState.RUNNING:
                raise

    def find(self, metadata: Mapping[str, str]) -> str | None:
        after, seen = None, 0
        while seen < _MAX_LISTED:
            page = self._call(partial(self._api.list_batches, after, _LISTED_AT_ONCE))
            for batch in page:
                said = cast(object, getattr(batch, "metadata", None))
                held = cast("Mapping[str, object]", said) if isinstance(said, Mapping) else {}
                if all(held.get(name) == value for name, value in metadata.items()):
                    return _id_of(batch, "batch")
            last = _id_of(page[-1], "batch") if page else None
            if last is None or last == after:
                return None
            after, seen = last, seen + len(page)
        return None

    def close(self) -> None:
        self._pool.close(self._api.close)

    def _call(self, send: Callable[[], Awaitable[Value]], *, transfer: bool = False, once: bool = False) -> Value:
        timeout_s = max(self._timeout_s, TRANSFER_TIMEOUT_S) if transfer else self._timeout_s

        async def attempt() -> _Got[Value]:
            try:
                async with asyncio.timeout(timeout_s):
                    return _Got(value=await send())
            except TimeoutError:
                late = f"the batch service did not answer within {timeout_s:g} s"
                if once:
                    raise CallFailed(BatchUnsureError(late), retryable=False) from None
                raise CallFailed(CriticTimeoutError(late), retryable=True) from None
            except (openai.OpenAIError, httpx.HTTPError, ValueError) as error:
                failure = call_failed(error, redact=self._redact, setup_hint=self._hint)
                if once and not _refused(error):
                    raise CallFailed(BatchUnsureError(str(failure.error)), retryable=False) from None
                raise failure from None

        result = self._pool.run_all([PlannedCall(send=attempt)])[0]
        if result.answer is None:
            raise result.error or CriticError("the batch service's call ended with no answer")
        return result.answer.value


def _outer(limits: CallLimits) -> CallLimits:
    return CallLimits(
        timeout_s=max(limits.timeout_s, TRANSFER_TIMEOUT_S) + 60.0,
        stage_deadline_s=None,
        max_in_flight=1,
        max_attempts=limits.max_attempts,
        retry_after_cap_s=limits.retry_after_cap_s,
        backoff_s=limits.backoff_s,
        backoff_cap_s=limits.backoff_cap_s,
    )


def _refused(error: Exception) -> bool:
    """True if the service itself said no: then it made nothing. A 5xx or a cut connection says neither."""
    status = status_of(error)
    return status is not None and 400 <= status < 500 and status not in (408, 409)


def _id_of(answer: object, what: str) -> str:
    found: object = getattr(answer, "id", None)
    if not isinstance(found, str) or not found:
        kind = type(answer).__name__
        message = f"the batch service's answer has no {what} id but is a {kind}: check critic.base_url"
        raise BatchUnsureError(message) if what == "batch" else CriticError(message)
    return found


def _read_status(batch: object, redact: Redactor) -> BatchStatus:
    said: object = getattr(batch, "status", None)
    state = _STATES.get(str(said))
    if state is None:
        raise CriticError(f"a batch with the unknown status {str(said)[:40]!r}; wanted one of {', '.join(_STATES)}")
    counts: object = getattr(batch, "request_counts", None)
    problems = cast(object, getattr(getattr(batch, "errors", None), "data", None))
    first: object = cast("list[object]", problems)[0] if isinstance(problems, list) and problems else None
    return BatchStatus(
        batch_id=_id_of(batch, "batch"),
        state=state,
        output_file_id=_text(batch, "output_file_id"),
        error_file_id=_text(batch, "error_file_id"),
        done_lines=_count(counts, "completed") + _count(counts, "failed"),
        all_lines=_count(counts, "total"),
        reason=redact.line(f"{_text(first, 'code')} {_text(first, 'message')}".strip()),
    )


def _text(holder: object, name: str) -> str:
    value: object = getattr(holder, name, None)
    return value if isinstance(value, str) else ""


def _count(holder: object, name: str) -> int:
    value: object = getattr(holder, name, None)
    return value if isinstance(value, int) and value >= 0 else 0


def batch_limits(timeout_s: float, max_attempts: int, retry_after_cap_s: float) -> CallLimits:
    """How a batch service's own calls are retried."""
    return CallLimits(timeout_s=timeout_s, max_attempts=max_attempts, retry_after_cap_s=retry_after_cap_s)
