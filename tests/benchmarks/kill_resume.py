"""kill -9 at random moments of an offline run: `python -m tests.benchmarks.kill_resume --json`.

Owns: the kills and what is counted after them. The server counts the requests it took per attempt; a request that was
open at a kill may be asked again, no other one may.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.results import Row, save
from tests.servers.chat import ChatOptions, ChatProcess, ChatServer, Stats, expected_reply

ROOT = Path(__file__).parents[2]
IN_FLIGHT = 16
_PATIENCE_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KillReport:
    """What is left after the last sitting. `repeats` are requests of one attempt beyond its first, per kill."""

    rows: int
    kills: int
    kills_with_requests: int
    one_outcome: bool
    in_order: bool
    right_replies: int
    repeats: tuple[int, ...]
    requests: int
    record_complete: bool


def kill_and_resume(
    directory: Path,
    server: ChatServer | ChatProcess,
    *,
    rows: int,
    kills: int,
    in_flight: int = IN_FLIGHT,
    seed: int = 0,
) -> KillReport:
    """Start the run again and again, killing it when its output reaches a random length, then let it end."""
    draw = random.Random(seed)
    source, out = directory / "rollouts.jsonl", directory / "feedback.jsonl"
    attempts = {f"r{n}": f"attempt {n}: 27 + 15 = {n}" for n in range(rows)}
    with source.open("w", encoding="utf-8") as file:
        for name, attempt in attempts.items():
            file.write(json.dumps({"id": name, "question": "What is 27 + 15?", "attempt": attempt}) + "\n")
    command = [sys.executable, "-m", "critique_rl.cli.main", "critique", str(source), "--out", str(out)]
    command += ["--critic", f"stub@{server.url}", "--critic.max_in_flight", str(in_flight)]
    before = _repeats(server.stats())
    repeats: list[int] = []
    busy = 0
    for target in sorted(draw.randrange(rows) for _ in range(kills)):
        asked = server.stats().total
        _kill_at(command, out, target, draw)
        time.sleep(0.2)  # what was on the wire is counted
        busy += server.stats().total > asked
        after = _repeats(server.stats())
        repeats.append(after - before)
        before = after
        print(f"killed at {_lines(out)} rows", file=sys.stderr)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    if done.returncode:
        raise RuntimeError(f"the last sitting ended with {done.returncode}: {done.stderr}")
    stats = server.stats()
    repeats.append(_repeats(stats) - before)
    found = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    record = json.loads(out.with_suffix(".run.json").read_text(encoding="utf-8"))
    return KillReport(
        rows=rows,
        kills=kills,
        kills_with_requests=busy,
        one_outcome=Counter(row["id"] for row in found) == Counter(attempts.keys()),
        in_order=[row["id"] for row in found] == list(attempts),
        right_replies=sum(_is_right(row, attempts) for row in found),
        repeats=tuple(repeats),
        requests=stats.total,
        record_complete=record["state"] == "complete" and record["pending"] == 0,
    )


def _kill_at(command: list[str], out: Path, target: int, draw: random.Random) -> None:
    """A target that an earlier sitting has passed kills this one at a random moment of its start."""
    started = time.monotonic()
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        if _lines(out) >= target > 0:
            time.sleep(draw.uniform(0.0, 5.0))
        while _lines(out) < target and process.poll() is None and time.monotonic() - started < _PATIENCE_S:
            time.sleep(0.01)
        time.sleep(draw.uniform(0.0, 0.05))
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()


def _lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def _repeats(stats: Stats) -> int:
    return sum(len(met) - 1 for met in stats.requests.values())


def _is_right(row: dict[str, dict[str, object]], attempts: dict[str, str]) -> bool:
    feedback = row["feedback"]
    directives = feedback["directives"]
    wanted = expected_reply(attempts[str(row["id"])]).directive
    return (
        feedback["outcome"] == "ok" and isinstance(directives, list) and [one["text"] for one in directives] == [wanted]
    )


def results(report: KillReport, in_flight: int) -> list[Row]:
    """The report in the form that every benchmark prints."""
    worst = max(report.repeats)
    figures: list[tuple[str, float, str, str, bool]] = [
        (
            "rows_with_exactly_one_outcome",
            report.rows if report.one_outcome else 0,
            "rows",
            f"{report.rows}",
            report.one_outcome,
        ),
        ("rows_in_input_order", report.rows if report.in_order else 0, "rows", f"{report.rows}", report.in_order),
        (
            "rows_with_the_right_reply",
            report.right_replies,
            "rows",
            f"{report.rows}",
            report.right_replies == report.rows,
        ),
        ("requests_asked_again_after_one_kill", worst, "requests", f"<= {in_flight}", worst <= in_flight),
        (
            "requests_asked_again_in_all",
            sum(report.repeats),
            "requests",
            f"<= {in_flight * report.kills}",
            sum(report.repeats) <= in_flight * report.kills,
        ),
        ("kills", report.kills, "kills", f"{report.kills}", report.record_complete),
        ("kills_while_asking", report.kills_with_requests, "kills", "> 0", report.kills_with_requests > 0),
    ]
    return [Row(f"kill_resume/{name}", value, unit, target, holds) for name, value, unit, target, holds in figures]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object a line (always)")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, metavar="FILE", help="also write the run in the form of docs/results")
    known = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as directory, ChatProcess(ChatOptions(latency_s=0.1)) as server:
        report = kill_and_resume(Path(directory), server, rows=known.rows, kills=known.kills, seed=known.seed)
    rows = results(report, IN_FLIGHT)
    for row in rows:
        print(json.dumps(row._asdict()))
    if known.save:
        title = "An offline run that is killed and resumed"
        wall_time_s = time.monotonic() - started
        save(known.save, rows, name="kill_resume", title=title, seed=known.seed, wall_time_s=wall_time_s)
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
