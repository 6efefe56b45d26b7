"""Critics of files for the tests of offline runs: they answer at once, out of order, or not at all."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

from critique_rl.errors import CriticSetupError
from critique_rl.feedback.batch_spec import BatchSpec, batch_spec
from critique_rl.feedback.rows import read_feedback
from critique_rl.types import CriticOutcome, CriticRequest, Critique, Directive, Usage

OPENAI = {"kind": "openai", "model": "stub", "base_url": "http://127.0.0.1:9/v1", "max_in_flight": 2}
Answer = Callable[[CriticRequest], CriticOutcome]


def said(request: CriticRequest, outcome: CriticOutcome) -> Critique:
    directives = (Directive(text=f"Look at {request.attempt} again.", critic="fake"),)
    return Critique(
        rollout_id=request.rollout_id,
        critic="openai:stub",
        outcome=outcome,
        directives=directives if outcome is CriticOutcome.OK else (),
        reason="" if outcome is CriticOutcome.OK else "because",
        usage=Usage(prompt_tokens=8, completion_tokens=2, cost_usd=0.5),
    )


class Reviewer:
    """A critic that only reviews; keeps what it was asked."""

    name = "fake"

    def __init__(self, answer: Answer = lambda _: CriticOutcome.OK) -> None:
        self.answer = answer
        self.asked: list[str] = []
        self.chunks: list[int] = []
        self.closed = 0

    def review(self, requests: Sequence[CriticRequest]) -> list[Critique]:
        self.chunks.append(len(requests))
        self.asked += [request.rollout_id for request in requests]
        return [said(request, self.answer(request)) for request in requests]

    def close(self) -> None:
        self.closed += 1


class Streamer(Reviewer):
    """Answers each request on a thread, the later ones first; `on_submit` is called with the number asked so far."""

    def __init__(
        self, answer: Answer = lambda _: CriticOutcome.OK, on_submit: Callable[[int], None] | None = None
    ) -> None:
        super().__init__(answer)
        self.on_submit = on_submit or (lambda _: None)
        self.most_open = 0
        self._open = 0
        self._lock = threading.Lock()
        self.futures: list[Future[Critique]] = []
        self.answers = True

    def submit(self, request: CriticRequest) -> Future[Critique]:
        future: Future[Critique] = Future()
        self.futures.append(future)
        with self._lock:
            self.asked.append(request.rollout_id)
            self._open += 1
            self.most_open = max(self.most_open, self._open)
        if self.answers:
            delay_s = 0.03 if len(self.asked) % 2 else 0.0
            threading.Timer(delay_s, self._end, (future, request)).start()
        self.on_submit(len(self.asked))
        return future

    def _end(self, future: Future[Critique], request: CriticRequest) -> None:
        with self._lock:
            self._open -= 1
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(said(request, self.answer(request)))
        except CriticSetupError as error:
            future.set_exception(error)


def spec(folder: Path, *, rows: int = 6, critic: dict[str, object] | None = None, **options: object) -> BatchSpec:
    source = folder / "rollouts.jsonl"
    if not source.exists():
        lines = [json.dumps({"id": f"r{n}", "question": "1 + 1?", "attempt": f"a{n}"}) for n in range(rows)]
        source.write_text("\n".join(lines) + "\n", encoding="utf-8")
    tree = {"rollouts": str(source), "out": str(folder / "f.jsonl"), "critic": critic or OPENAI, **options}
    return batch_spec(tree, source="test")


def ids(path: Path) -> list[str]:
    return [row.rollout.id for row in read_feedback(path)]


def record_of(batch: BatchSpec) -> dict[str, object]:
    return json.loads(batch.beside("run.json").read_text(encoding="utf-8"))
