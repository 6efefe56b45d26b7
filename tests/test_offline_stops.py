"""How an offline run stops: Ctrl-C once, twice, a critic that gives up, kill -9."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from critique_rl import offline
from critique_rl.errors import CriticSetupError
from critique_rl.offline import run_batch
from critique_rl.types import CriticOutcome, CriticRequest
from tests.batch_fakes import Reviewer, Streamer, ids, record_of, spec
from tests.benchmarks.kill_resume import kill_and_resume, results
from tests.servers.chat import ChatOptions, ChatServer


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Reviewer], Reviewer]:
    """Every critic that is built from here on is the one given."""

    def put(critic: Reviewer) -> Reviewer:
        monkeypatch.setattr(offline, "build_critic", lambda config, ask=None: critic)
        return critic

    return put


@pytest.fixture
def console() -> Console:
    return Console(quiet=True)


def test_the_first_ctrl_c_waits_for_what_is_open(
    tmp_path: Path, use: Callable[[Reviewer], Reviewer], console: Console
) -> None:
    critic = use(Streamer(on_submit=lambda n: os.kill(os.getpid(), signal.SIGINT) if n == 11 else None))
    batch = spec(tmp_path, rows=60)
    before = signal.getsignal(signal.SIGINT)
    end = run_batch(batch, console=console)
    assert signal.getsignal(signal.SIGINT) is before
    assert end.interrupted
    assert end.rows == len(critic.asked) < 60
    assert end.pending == 60 - end.rows
    assert record_of(batch)["state"] == "interrupted"
    use(Streamer())
    assert run_batch(batch, console=console).rows == 60
    assert ids(batch.out_path) == [f"r{n}" for n in range(60)]


def test_the_second_ctrl_c_stops_at_once(tmp_path: Path, use: Callable[[Reviewer], Reviewer], console: Console) -> None:
    def press(n: int) -> None:
        assert isinstance(critic, Streamer)
        if n == 6:
            critic.answers = False
        if n >= 8:
            os.kill(os.getpid(), signal.SIGINT)
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()

    critic = use(Streamer(on_submit=press))
    batch = spec(tmp_path, rows=60)
    with pytest.raises(KeyboardInterrupt):
        run_batch(batch, console=console)
    assert critic.closed == 1
    assert isinstance(critic, Streamer)
    assert all(future.done() for future in critic.futures)
    assert len(ids(batch.out_path)) == 6
    assert record_of(batch)["state"] == "interrupted"


def test_a_critic_that_can_never_answer_stops_the_run_and_keeps_what_is_done(
    tmp_path: Path, use: Callable[[Reviewer], Reviewer], console: Console
) -> None:
    def answer(request: CriticRequest) -> CriticOutcome:
        if request.rollout_id == "r9":
            raise CriticSetupError("the key was withdrawn")
        return CriticOutcome.OK

    use(Streamer(answer))
    batch = spec(tmp_path, rows=60)
    with pytest.raises(CriticSetupError, match="withdrawn"):
        run_batch(batch, console=console)
    assert record_of(batch)["state"] == "stopped"
    assert 0 < len(ids(batch.out_path)) < 60


def test_no_kill_loses_a_row_or_pays_twice(tmp_path: Path) -> None:
    with ChatServer(ChatOptions(latency_s=0.05)) as server:
        report = kill_and_resume(tmp_path, server, rows=60, kills=3, in_flight=4, seed=1)
    assert all(row.holds for row in results(report, 4)), report
