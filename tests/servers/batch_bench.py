"""One journal, one batch server, and as many processes after one another as a test wants."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import httpx
import openai

from critique_rl.critics.batch_driver import BatchDriver, BatchEvent, BatchLimits, BatchReport
from critique_rl.critics.batch_files import BatchLine, ResultLines, read_results
from critique_rl.critics.batch_journal import BatchJournal
from critique_rl.critics.batches import BatchBackend, BatchStatus, ClientBatches
from critique_rl.critics.completion import ChatReply
from critique_rl.critics.openai_batches import OpenAIBatchApi
from critique_rl.critics.redaction import Redactor
from critique_rl.net import Budget, CallLimits
from critique_rl.types import CriticOutcome, Usage
from tests.servers.batches import BatchServer

TEN = tuple(
    BatchLine(
        key=f"{number:02d}" * 32,
        body={"model": "m", "messages": [{"role": "user", "content": f"attempt {number}"}]},
        estimate=Usage(prompt_tokens=60, completion_tokens=40, cost_usd=0.001),
        row_ids=(f"r{number}", f"s{number}"),
    )
    for number in range(10)
)

TLS = ssl.create_default_context()
"""Made once: it costs more than all else in a client."""


class Killed(BaseException):
    """The end of a process, as far as the journal can tell."""


def service(server: BatchServer) -> ClientBatches:
    http = httpx.AsyncClient(verify=TLS, timeout=5.0)
    client = openai.AsyncOpenAI(api_key="none", base_url=server.url, max_retries=0, http_client=http)
    limits = CallLimits(timeout_s=5.0, max_attempts=3, backoff_s=0.001)
    return ClientBatches(OpenAIBatchApi(client), limits=limits, redact=Redactor([]), setup_hint="check")


def read(lines: Sequence[str]) -> ResultLines:
    return read_results(lines, price_usd=lambda asked, told: (asked + told) / 1e6, redact=Redactor([]))


class Clock:
    """Waiting takes no time here."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.waits: list[float] = []

    def now(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now_s += seconds


class Bench:
    """One journal and one server, and as many processes after one another as a test wants."""

    def __init__(self, path: Path, server: BatchServer, *, shard_lines: int = 4) -> None:
        self.path = path
        self.server = server
        self.kept: dict[str, ChatReply] = {}
        self.clock = Clock()
        self.events: list[BatchEvent] = []
        self.limits = BatchLimits(max_shard_lines=shard_lines)
        self.budget = Budget()

    def process(
        self,
        *,
        wait: bool = True,
        on_event: Callable[[BatchEvent], None] | None = None,
        wrap: Callable[[BatchBackend], BatchBackend] = lambda backend: backend,
        lines: Sequence[BatchLine] = TEN,
        cancel: bool = False,
    ) -> BatchReport:
        """Plan what is not kept, work on it, and end."""
        journal, backend = BatchJournal(self.path), service(self.server)

        def observe(event: BatchEvent) -> None:
            self.events.append(event)
            if on_event is not None:
                on_event(event)

        driver = BatchDriver(
            journal,
            wrap(backend),
            read=read,
            on_answer=self.kept.__setitem__,
            limits=self.limits,
            budget=self.budget,
            on_event=observe,
            now=self.clock.now,
            sleep=self.clock.sleep,
        )
        try:
            journal.plan([line for line in lines if line.key not in self.kept])
            if cancel:
                driver.cancel()
            return driver.run(wait=wait)
        finally:
            backend.close()
            journal.close()

    def failures(self) -> dict[str, tuple[CriticOutcome, str]]:
        journal = BatchJournal(self.path)
        found = {key: (line.outcome, line.reason) for key, line in journal.failures().items()}
        journal.close()
        return found

    def check_all_answered_once(self) -> None:
        assert set(self.kept) == {line.key for line in TEN}
        assert self.server.answered == {line.key: 1 for line in TEN}
        assert set(self.server.submissions.values()) == {1}


class Fatal:
    """A backend whose process dies when its n-th call has been made, and before its answer is noted."""

    def __init__(self, backend: BatchBackend, calls: list[int]) -> None:
        self._backend = backend
        self._left = calls

    def _dead(self) -> None:
        self._left[0] -= 1
        if self._left[0] == 0:
            raise Killed

    def upload(self, name: str, content: bytes) -> str:
        answer = self._backend.upload(name, content)
        self._dead()
        return answer

    def submit(self, file_id: str, metadata: Mapping[str, str]) -> str:
        answer = self._backend.submit(file_id, metadata)
        self._dead()
        return answer

    def poll(self, batch_id: str) -> BatchStatus:
        answer = self._backend.poll(batch_id)
        self._dead()
        return answer

    def fetch(self, file_id: str) -> Sequence[str]:
        answer = self._backend.fetch(file_id)
        self._dead()
        return answer

    def cancel(self, batch_id: str) -> None:
        self._backend.cancel(batch_id)

    def find(self, metadata: Mapping[str, str]) -> str | None:
        return self._backend.find(metadata)

    def close(self) -> None:
        self._backend.close()
