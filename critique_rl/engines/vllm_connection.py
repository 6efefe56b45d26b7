"""A line to one vLLM server: sending, waiting, and what its refusals mean. Written against vLLM 0.32.

Owns: keys, status codes, lost connections and the wait for a server that went away. Must not know: which endpoints are
asked, and what their answers are used for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from critique_rl.errors import CriticError, CriticMalformedError, CriticSetupError, CriticTimeoutError, EngineError
from critique_rl.net import Budget, CallFailed, CallLimits, CallPool, SpendMeter

_CONNECT_TIMEOUT_S = 10.0
_GONE_STATUS = frozenset({502, 503, 504})
_RETRYABLE_STATUS = _GONE_STATUS | {408, 425, 429, 500}
_MAX_SAID_CHARS = 300
_SENDS = 3
WAYS_OUT = "docs/engines.md has the command that starts the server"


class ServerGone(Exception):
    """The server cannot be reached, or came back without the weights that it was given: waiting can help."""


class Unreachable(CriticError):
    """A send that met no server."""


class Refused(CriticSetupError):
    """A send that the server will never answer otherwise."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"refused ({status}): {said}")
        self.status = status


class _Card(BaseModel):
    id: str


class _Cards(BaseModel):
    data: list[_Card]


Parsed = TypeVar("Parsed", bound=BaseModel)
Done = TypeVar("Done")


def call_pool(*, timeout_s: float, max_in_flight: int, poll_s: float) -> CallPool:
    """The calls of one client: each is sent three times at the most; a server of one's own costs no money."""
    limits = CallLimits(
        timeout_s=timeout_s,
        max_in_flight=max_in_flight,
        max_attempts=_SENDS,
        backoff_s=poll_s,
        backoff_cap_s=10.0 * poll_s,
    )
    return CallPool(limits, SpendMeter(Budget()))


class VllmConnection:
    """One server and one model of it. `post` runs on an event loop; everything else blocks its caller."""

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        key: str | None,
        timeout_s: float,
        max_in_flight: int,
        section: str = "engine",
        needs: str = "VLLM_SERVER_DEV_MODE=1",
    ) -> None:
        """`section`: of the run file, for messages; `needs`: what the server has to be started with."""
        # At INFO it logs each address in full, user and password included.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        self._base_url = base_url.rstrip("/").removesuffix("/v1")
        self._key = key
        self._section = section
        self._needs = needs
        self.model = model
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_TIMEOUT_S))
        self._client = httpx.AsyncClient(
            base_url=self._base_url,
            headers=headers,
            timeout=timeout,
            limits=httpx.Limits(max_connections=max_in_flight, max_keepalive_connections=max_in_flight),
        )
        # Minutes pass between control calls: a kept connection would be one that the server has closed.
        self._control = httpx.Client(
            base_url=self._base_url, headers=headers, timeout=timeout, limits=httpx.Limits(max_keepalive_connections=0)
        )

    @property
    def address(self) -> str:
        """The server's host and port, without user and password."""
        url = httpx.URL(self._base_url)
        return f"{url.host}:{url.port}" if url.port else url.host

    async def post(self, path: str, body: Mapping[str, object]) -> str:
        """The text of a good answer. Raises CallFailed."""
        try:
            response = await self._client.post(path, json=body)
        except httpx.TimeoutException as error:
            late = CriticTimeoutError(f"no answer in time: {type(error).__name__}")
            raise CallFailed(late, retryable=True) from None
        except httpx.HTTPError as error:
            raise CallFailed(Unreachable(f"the connection failed: {self.said(str(error))}"), retryable=True) from None
        status = response.status_code
        if status in _RETRYABLE_STATUS:
            kind = Unreachable if status in _GONE_STATUS else CriticError
            raise CallFailed(kind(f"server error {status}: {self.said(response.text)}"), retryable=True)
        if status != 200:
            raise CallFailed(Refused(status, self.said(response.text)), retryable=False)
        return response.text

    def ask(self, method: str, path: str, form: type[Parsed], body: Mapping[str, object] | None = None) -> Parsed:
        """A control call whose answer is read. Raises EngineError, ServerGone."""
        try:
            return form.model_validate_json(self.call(method, path, body))
        except ValidationError as error:
            raise EngineError(
                f"{self._section}: {path} of {self.address} answered in another form than vLLM 0.32 does: "
                f"{error.errors()[0]['msg']} at {error.errors()[0]['loc']}"
            ) from None

    def call(self, method: str, path: str, body: Mapping[str, object] | None = None) -> str:
        """A control call; the text of a good answer. Raises EngineError, ServerGone."""
        try:
            response = self._control.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise ServerGone(f"{path}: {type(error).__name__}: {self.said(str(error))}") from None
        if response.status_code in _GONE_STATUS:
            raise ServerGone(f"{path}: status {response.status_code}")
        if response.status_code == 404:
            raise EngineError(
                f"{self._section}: the server at {self.address} has no {path}: start it with {self._needs} ({WAYS_OUT})"
            )
        if response.status_code != 200:
            raise EngineError(
                f"{self._section}: {path} of {self.address} failed with {response.status_code}: "
                f"{self.said(response.text)}"
            )
        return response.text

    def check_model(self) -> None:
        """Whether it serves the model that is asked for. Raises EngineError, ServerGone."""
        served = [card.id for card in self.ask("GET", "/v1/models", _Cards).data]
        if self.model not in served:
            raise EngineError(
                f"{self._section}.model: the server at {self.address} serves {served}, not {self.model!r}; name one "
                "of those, or start the server with --served-model-name"
            )

    def is_up(self) -> bool:
        """Whether it says that it is healthy."""
        try:
            return self._control.get("/health").status_code == 200
        except httpx.HTTPError:
            return False

    def wait_until_up(self, limit_s: float, poll_s: float) -> None:
        """Return once it is healthy. Raises EngineError after `limit_s`."""
        deadline = time.monotonic() + limit_s
        while not self.is_up():
            if time.monotonic() >= deadline:
                raise EngineError(
                    f"{self._section}.base_url: no healthy server at {self.address} for {limit_s:g} s; start it and "
                    f"resume the run ({WAYS_OUT})"
                )
            time.sleep(poll_s)

    def outlive(self, work: Callable[[], Done], *, restarts: int, wait_s: float, poll_s: float) -> Done:
        """Do `work`, again after each ServerGone once the server is back. Raises EngineError when it stays away, or
        after more than `restarts`."""
        gone: ServerGone | None = None
        for attempt in range(restarts + 1):
            if attempt:
                self.wait_until_up(wait_s, poll_s)
            try:
                return work()
            except ServerGone as error:
                gone = error
        raise EngineError(
            f"{self._section}: the server at {self.address} went away {restarts + 1} times within one batch ({gone}); "
            "see its log, then resume the run"
        )

    async def close(self) -> None:
        """Close the connections, on the loop that `post` ran on."""
        self._control.close()
        await self._client.aclose()

    def said(self, text: str) -> str:
        """One line of what came from outside, without the key."""
        line = " ".join((text.replace(self._key, "[redacted]") if self._key else text).split())
        return line if len(line) <= _MAX_SAID_CHARS else line[: _MAX_SAID_CHARS - 3] + "..."


def malformed(what: str) -> CallFailed:
    """An answer of which nothing can be used; sending again would bring the same."""
    return CallFailed(CriticMalformedError(f"an answer that cannot be used: {what}"), retryable=False)
