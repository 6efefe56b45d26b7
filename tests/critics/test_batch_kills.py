"""The state machine killed at every step, resumed, and counted by the server itself."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from critique_rl.critics.batch_driver import BatchEvent
from tests.servers.batch_bench import TEN, Bench, Fatal, Killed
from tests.servers.batches import BatchServer


@pytest.fixture
def server() -> Iterator[BatchServer]:
    one = BatchServer()
    yield one
    one.close()


def test_killed_after_every_step_nothing_is_lost_or_sent_twice(tmp_path: Path) -> None:
    for step in range(60):
        server = BatchServer()
        bench = Bench(tmp_path / f"{step}.sqlite", server, shard_lines=5)
        seen = 0

        def die(_event: BatchEvent, at: int = step) -> None:
            nonlocal seen
            seen += 1
            if seen == at + 1:
                raise Killed

        try:
            bench.process(on_event=die)
        except Killed:
            bench.process()
            bench.check_all_answered_once()
            continue
        finally:
            server.close()
        assert step >= 12  # the run was over before it was killed: every step has had its turn
        return
    pytest.fail("the run never ended")


def test_killed_between_each_call_and_its_note_nothing_is_lost_or_sent_twice(tmp_path: Path) -> None:
    for call in range(1, 60):
        server = BatchServer()
        bench = Bench(tmp_path / f"{call}.sqlite", server, shard_lines=5)
        try:
            bench.process(wrap=lambda backend, n=call: Fatal(backend, [n]))
        except Killed:
            bench.process()
            bench.check_all_answered_once()
            continue
        finally:
            server.close()
        assert call >= 8  # two uploads, submissions, polls, fetches
        return
    pytest.fail("the run never ended")


CHILD = """
    import json, sys
    from pathlib import Path
    from tests.servers.batch_bench import TEN, read, service
    from critique_rl.critics.batch_driver import BatchDriver, BatchLimits
    from critique_rl.critics.batch_journal import BatchJournal
    from types import SimpleNamespace

    folder, url = Path(sys.argv[1]), sys.argv[2]
    journal = BatchJournal(folder / "FEEDBACK.batches.sqlite")
    kept = folder / "kept"
    kept.mkdir(exist_ok=True)
    journal.plan([line for line in TEN if not (kept / line.key).exists()])
    driver = BatchDriver(
        journal,
        service(SimpleNamespace(url=url)),
        read=read,
        on_answer=lambda key, reply: (kept / key).write_text(reply.text),
        limits=BatchLimits(max_shard_lines=2, poll_s=0.01, settle_s=0.2),
        on_event=lambda event: print(event.state, flush=True),
    )
    driver.run()
    print("over", flush=True)
"""


@pytest.mark.slow
def test_sigkill_at_moments_of_its_own_choice(tmp_path: Path, server: BatchServer) -> None:
    server.script.polls = 2
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(tmp_path), server.url]
    lines_before_the_kill = 2
    for _ in range(12):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            said = [line for _, line in zip(range(lines_before_the_kill), child.stdout, strict=False)]
            time.sleep(0.003 * lines_before_the_kill)
            child.send_signal(signal.SIGKILL)
        if any("over" in line for line in said):
            break
        lines_before_the_kill += 5
    else:
        pytest.fail("twelve processes did not finish ten lines")
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {line.key for line in TEN}
    assert server.answered == {line.key: 1 for line in TEN}
    assert set(server.submissions.values()) == {1}
