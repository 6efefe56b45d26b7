"""What a training step costs: ours against TRL's `GRPOTrainer` and `SDPOTrainer`, or alone on a GPU.

`python -m tests.benchmarks.step --json --peer-python VENV/bin/python` on a CPU; the venv holds `trl==1.16.0` and our
versions of torch and transformers. Progress on stderr; `--quick` for a smoke run; without the venv the peers are left
out, and a row says so.

- Same model object (a Qwen3 of 4 layers, hidden 256, tied embeddings, random weights from one seed), rollouts, dtype
  (float32), threads, losses and optimiser on both sides. `grad_norm_difference` shows that it is the same work: both
  sides' gradient of the plain step has the same norm.
- A measurement is a process of its own: a warm-up step on two rows, then the timed ones. Memory is that process's peak
  resident size (VmHWM), libraries, weights and optimiser included; `own` memory is what the steps added. Rounds go
  through all measurements, the next one backwards; medians are compared.
- Time on the CPU with one thread is processor time, which other work on the machine moves less than the wall clock, but
  moves all the same; with more threads it is wall time. What a step is on each side: `step_ours`, `step_peers`.
- Known bias for us: on a CPU TRL's chunked head scores every padded position, prompts included; on CUDA it leaves out
  what no loss reads. Targets compare with TRL's faster (time) or leaner (memory) variant at the same micro-batch.

`--device cuda` measures tokens/s, MFU and memory of ours alone: `step_throughput`, which `--suite throughput` runs on
the CPU with a tiny shape.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

from critique_rl.provenance import commit, device_name
from tests.benchmarks.results import Row
from tests.benchmarks.step_batch import Job, Measured
from tests.benchmarks.step_rows import FULL, GIB, QUICK, Cost, cost_of, label, plan, rows_of

ROOT = Path(__file__).parents[2]
OURS = "tests.benchmarks.step_ours"
PEERS = "tests.benchmarks.step_peers"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Worker:
    """A process that imports its libraries once and forks a child for each measurement."""

    def __init__(self, python: str, module: str, *, threads: int) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
        self.process = subprocess.Popen(
            [python, "-m", module], cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.about: dict[str, str] = json.loads(self._line() or '{"failed": "its process ended"}')

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def ask(self, job: Job) -> Measured | str:
        """The measurement, or why there is none."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asdict(job)) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self._line() or '{"error": "its worker ended"}')
        return str(answer["error"]) if "error" in answer else Measured(**answer)

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def measure_all(
    jobs: Sequence[Job], workers: Mapping[str, Worker], *, rounds: int, minutes: float
) -> tuple[dict[Job, Cost], dict[Job, str]]:
    """Costs by job, and why others have none: those are not tried again. Nothing is begun after `minutes`."""
    until = time.monotonic() + 60 * minutes
    found: dict[Job, list[Measured]] = {job: [] for job in jobs}
    failed: dict[Job, str] = {}
    for index in range(rounds):
        for job in jobs if index % 2 == 0 else reversed(jobs):
            if job in failed or time.monotonic() > until:
                continue
            answer = workers["ours" if job.side == "ours" else "peers"].ask(job)
            if isinstance(answer, str):
                failed[job] = answer
                say(f"{label(job)}: {answer}")
                continue
            found[job].append(answer)
            wall, cpu = answer.wall_s[-1], answer.cpu_s[-1]
            say(f"round {index + 1}: {label(job)}: {wall:.2f} s, {cpu:.2f} s cpu, {answer.peak_bytes / GIB:.2f} GiB")
    return {job: cost_of(job, f) for job, f in found.items() if f and job not in failed}, failed


def step_suite(arguments: argparse.Namespace) -> tuple[list[Row], dict[str, str]]:
    sizes = QUICK if arguments.quick else FULL
    base = replace(sizes.base, threads=arguments.threads, device=arguments.device, seed=arguments.seed)
    sizes = sizes._replace(base=base, rounds=arguments.rounds or sizes.rounds)
    workers = {"ours": Worker(sys.executable, OURS, threads=arguments.threads)}
    peer = arguments.peer_python
    if peer is not None and Path(peer).is_file():
        workers["peers"] = Worker(str(peer), PEERS, threads=arguments.threads)
    peers = "trl" in workers["peers"].about if "peers" in workers else False
    if not peers:
        say("no peers: give --peer-python the Python of an environment with trl, torch and transformers")
    jobs = [job for job in plan(sizes, peers=peers) if re.search(arguments.only, label(job))]
    costs, failed = measure_all(jobs, workers, rounds=sizes.rounds, minutes=arguments.minutes)
    versions = {"critique-rl": version("critique-rl")}
    for worker in workers.values():
        versions |= worker.about
        worker.close()
    return rows_of(sizes, costs, failed, peers=peers), versions


def save(path: Path, rows: Sequence[Row], versions: Mapping[str, str], *, seed: int, cpu: bool, wall_s: float) -> None:
    """Write the run in the form of docs/results."""
    run = {
        "title": "The training step",
        "command": shlex.join(["python", "-m", "tests.benchmarks.step", *_shown(sys.argv[1:])]),
        "commit": commit(),
        "device": device_name(cpu=cpu),
        "versions": dict(versions),
        "seeds": [seed],
        "wall_time_s": round(wall_s, 1),
        "rows": [row._asdict() for row in rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")


def _shown(arguments: Sequence[str]) -> list[str]:
    """The command line without this machine's paths."""
    hidden = {"--peer-python": "VENV/bin/python", "--save": "docs/results/step.json"}
    return [hidden.get(before, a) for before, a in zip(["", *arguments], arguments, strict=False)]


def main() -> int:
    """Print every row; exit code 1 if one that has a target misses it."""
    parser = argparse.ArgumentParser(description="the training step, against TRL's or on a GPU")
    parser.add_argument("--json", action="store_true", help="one JSON object a line (default: a table)")
    parser.add_argument("--quick", action="store_true", help="a smoke run; its figures mean little")
    parser.add_argument("--save", type=Path, metavar="FILE", help="also write the run in the form of docs/results")
    parser.add_argument("--peer-python", type=Path, metavar="PATH", help="a Python whose environment has TRL")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--suite", choices=["step", "throughput"], help="default: step on cpu, throughput on cuda")
    parser.add_argument("--rounds", type=int, help="measurements of each kind (default: 2)")
    parser.add_argument("--only", default="", metavar="REGEX", help="measure only what has such a name")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no measurement after so long")
    parser.add_argument("--threads", type=int, default=1, help="torch threads on the CPU")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.monotonic()
    if (arguments.suite or ("throughput" if arguments.device == "cuda" else "step")) == "step":
        rows, versions = step_suite(arguments)
    else:
        from tests.benchmarks.step_throughput import throughput

        rows, versions = throughput(arguments.device, quick=arguments.quick, seed=arguments.seed)
    for row in rows:
        held = {None: "", True: "holds", False: "MISSED"}[row.holds]
        line = f"{row.name:<58}{row.value:>12,.5g} {row.unit:<34} {row.target or '':<8} {held}".rstrip()
        print(json.dumps(row._asdict()) if arguments.json else line, flush=True)
    if arguments.save:
        cpu, wall_s = arguments.device == "cpu", time.monotonic() - started
        save(arguments.save, rows, versions, seed=arguments.seed, cpu=cpu, wall_s=wall_s)
    return 1 if any(row.holds is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
