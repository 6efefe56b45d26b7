"""Arms x seeds of one run file: each trained from the same start, then one summary.json and one report.html.

Owns: the run directory's layout and what a summary holds. Must not know: what happens inside a run.

    OUTPUT/summary.json, report.html          several runs: table of all, report of all
    OUTPUT/ARM/seed-N/config.json, metrics.jsonl, events.jsonl, samples.jsonl, summary.json, checkpoints/
    OUTPUT/...                                 a single run lies directly in OUTPUT
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol, cast

from critique_rl.build import build
from critique_rl.config.load import RunFile, dump, load_resolved, resolve, resolve_stages
from critique_rl.config.run import RunConfig
from critique_rl.config.stages import StageConfig
from critique_rl.critics.estimate import Estimator
from critique_rl.engines.vllm_server import VllmServerEngine
from critique_rl.errors import CheckpointError, ConfigError, CritiqueRLError
from critique_rl.loop.checkpoint import latest_checkpoint
from critique_rl.loop.parts import Parts
from critique_rl.loop.progress import Progress
from critique_rl.loop.train import Trainer
from critique_rl.policy.crew import Crew
from critique_rl.provenance import commit, device_name, versions
from critique_rl.report.page import write_report
from critique_rl.trackers.console import ConsoleTracker
from critique_rl.trackers.fanout import FanoutTracker
from critique_rl.trackers.jsonl import JsonlTracker
from critique_rl.types import CriticRequest, Score

Json = dict[str, object]
OnTrainer = Callable[[Trainer], None]
COMPARED = ("steps", "generated_tokens", "critic_calls", "stall_step", "first_critic_step")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """One arm at one seed and where it goes; with stages, `config` is the last one's with the budget of them all."""

    arm: str
    seed: int
    config: RunConfig
    directory: Path
    stages: tuple[StageConfig, ...] = ()


class RunOne(Protocol):
    """What trains one planned run, such as `run_one`."""

    def __call__(self, planned: PlannedRun, *, resume: bool = False, crew: Crew | None = None) -> Json: ...


def plan(run_file: RunFile, output: Path, *, arms: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[PlannedRun]:
    """Every run of a file, all validated before the first one starts. Errors: ConfigError."""
    chosen_arms: list[str | None] = [*dict.fromkeys(arms)] or [*run_file.arms] or [None]
    chosen_seeds: list[int | None] = [*dict.fromkeys(seeds)] or [*dict.fromkeys(run_file.seeds)] or [None]
    runs: list[PlannedRun] = []
    for seed in chosen_seeds:
        for arm in chosen_arms:
            config = resolve(run_file, arm=arm, seed=seed)
            alone = len(chosen_arms) * len(chosen_seeds) == 1
            name = arm or config.name
            directory = output if alone else output / name / f"seed-{config.seed}"
            stages = resolve_stages(run_file, arm=arm, seed=seed)
            runs.append(PlannedRun(arm=name, seed=config.seed, config=config, directory=directory, stages=stages))
    return runs


def run_all(
    runs: Sequence[PlannedRun],
    output: Path,
    *,
    title: str,
    checks: Sequence[Json],
    command: str,
    resume: bool = False,
    crew: Crew | None = None,
    run: RunOne | None = None,
) -> Path:
    """Run each planned run (those already finished are kept on resume); return the report's path.

    Called on the leading rank of a `crew`, whose others `build.follow`. `run` takes the place of `run_one`.
    """
    started = time.monotonic()
    for check in checks:
        _judged(check, [])
    rows: list[Json] = []
    for planned in runs:
        rows.append((run or run_one)(planned, resume=resume, crew=crew))
        summary = overall(runs, rows, output, title=title, checks=checks, command=command)
        summary["wall_time_s"] = round(time.monotonic() - started, 1)
        write_json(output / "summary.json", summary)
        if rows[-1]["stopped_because"] == "interrupted":
            break
    return write_report(output)


def run_one(
    planned: PlannedRun,
    *,
    resume: bool = False,
    console: bool = True,
    crew: Crew | None = None,
    on_start: OnTrainer | None = None,
    on_end: OnTrainer | None = None,
) -> Json:
    """Train one run to its budget and return its summary. Errors: every CritiqueRLError; what is on disk stays.

    `on_start` is called before the first step, unless a checkpoint is resumed; `on_end` after the last one.
    """
    directory = planned.directory
    saved = latest_checkpoint(directory / "checkpoints") if resume else None
    if saved is not None:
        earlier = load_resolved(directory / "config.json")
        _check_same_run(directory, earlier, planned.config)
        done = _finished_result(planned) if earlier == planned.config else None
        if done is not None:
            return done
    step = Progress.from_json(cast(Json, saved.state["progress"])).step if saved else None
    files = JsonlTracker(directory, resume_step=-1 if resume and saved is None else step)
    title = f"{planned.arm} · seed {planned.seed}"
    tracker = FanoutTracker([files, ConsoleTracker(title=title)] if console else [files])
    try:
        write_text(directory / "config.json", dump(planned.config))
        parts = build(planned.config, tracker=tracker, exchanges=directory / "exchanges.jsonl", crew=crew)
        trainer = Trainer(planned.config, parts, directory)
        try:
            _tell_what_a_step_may_cost(planned.config, parts)
            if saved is not None:
                trainer.resume(saved)
            elif on_start is not None:
                on_start(trainer)
            trainer.run()
            if on_end is not None:
                on_end(trainer)
        finally:
            if parts.critic is not None:
                parts.critic.close()
            if isinstance(parts.engine, VllmServerEngine):
                parts.engine.close()
            for close in parts.closing:
                close()
    finally:
        tracker.close()
    result = summarise(planned, trainer)
    summary = overall([planned], [result], directory, title=planned.config.title, checks=[], command="")
    write_json(directory / "summary.json", summary)
    return result


CHARS_PER_TOKEN = 4
"""Of a long attempt, for the estimate: above what usual tokenizers make of prose."""


def _tell_what_a_step_may_cost(config: RunConfig, parts: Parts) -> None:
    """Before the first call: what a step may use at most, if the critic is behind a network."""
    if parts.critic is None or config.critic is None:
        return
    estimator = Estimator(config.critic)
    tasks = parts.tasks.batch(0, config.rollout.prompts_per_step, seed=config.seed)
    attempt = "x" * (CHARS_PER_TOKEN * config.rollout.max_tokens)
    attempts = min(config.refinement.max_attempts, config.rollout.group_size)
    for task in tasks:
        request = CriticRequest(rollout_id="", task=task, attempt=attempt, score=Score(reward=0.0))
        for _ in range(attempts):
            estimator.add(request)
    count = len(tasks) * attempts
    for line in estimator.estimate(source="", rows=count, asked=count).step_lines():
        parts.tracker.event(0, "critic", line)


def _check_same_run(directory: Path, earlier: RunConfig, wanted: RunConfig) -> None:
    """A run is resumed with the config it was started with; only its budget may change."""
    changed = [name for name in RunConfig.model_fields if getattr(earlier, name) != getattr(wanted, name)]
    if set(changed) - {"budget"}:
        raise ConfigError(
            f"{directory}: the run to resume was started with another config: {', '.join(changed)} differ from its "
            "config.json; resume with the same run file and overrides, or choose another --output"
        )


def _finished_result(planned: PlannedRun) -> Json | None:
    """What an earlier call of `run_one` returned, if that run came to its end; a broken summary is made anew."""
    try:
        summary = json.loads((planned.directory / "summary.json").read_text(encoding="utf-8"))
        rows = [row for row in summary["results"] if (row["arm"], row["seed"]) == (planned.arm, planned.seed)]
        return cast(Json, rows[0]) if rows[0]["stopped_because"] != "interrupted" else None
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None


def side_by_side(
    runs: Sequence[PlannedRun], train: Callable[[PlannedRun], Json | CritiqueRLError], *, jobs: int
) -> Iterator[tuple[PlannedRun, Json | CritiqueRLError]]:
    """Each run with what `train` made of it, in the order in which they end; never more than `jobs` at once."""
    waiting = list(runs)
    # One run per process: what torch and the libraries hold is given back at its end.
    with ProcessPoolExecutor(max_workers=jobs, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        running: dict[Future[Json | CritiqueRLError], PlannedRun] = {}
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    planned = waiting.pop(0)
                    running[pool.submit(train, planned)] = planned
                ended, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    yield running.pop(future), future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def summarise(planned: PlannedRun, trainer: Trainer) -> Json:
    """What one run came to, as plain JSON."""
    progress = trainer.progress
    last = cast("Mapping[str, Json]", progress.evaluations[-1]["success"]) if progress.evaluations else {}
    first = cast("Mapping[str, Json]", progress.evaluations[0]["success"]) if progress.evaluations else {}
    return {
        "arm": planned.arm,
        "seed": planned.seed,
        "algorithm": planned.config.algorithm.name,
        "steps": progress.step,
        "optimizer_steps": trainer.parts.policy.version,
        "generated_tokens": progress.generated_tokens,
        "critic_calls": progress.critic.calls,
        "critic_outcomes": dict(progress.critic.outcomes),
        "critic_completion_tokens": progress.critic.completion_tokens,
        "critic_cost_usd": progress.critic.cost_usd,
        "trust": dict(trainer.parts.trust.figures()) if trainer.parts.trust is not None else {},
        "critic_trusted": trainer.parts.trust.asks_critic if trainer.parts.trust is not None else None,
        "refinements_injected": progress.injected,
        "stall_step": _from_one(trainer.parts.plateau.first_stall_step),
        "first_critic_step": _from_one(progress.first_critic_step),
        "stopped_because": trainer.stopped_because,
        "train_wall_s": round(progress.wall_s, 1),
        "start": first,
        "end": last,
    }


def _from_one(step: int | None) -> int | None:
    """Steps as the trackers count them."""
    return None if step is None else step + 1


def overall(
    runs: Sequence[PlannedRun], rows: Sequence[Json], output: Path, *, title: str, checks: Sequence[Json], command: str
) -> Json:
    """What summary.json says of the runs that have ended, in their order."""
    done = runs[: len(rows)]
    table = [
        {
            "arm": row["arm"],
            "seed": row["seed"],
            "class": kind,
            **{key: result[key] for key in ("successes", "trials", "success", "low", "high")},
            **{key: row[key] for key in COMPARED},
        }
        for row in rows
        for kind, result in cast("Mapping[str, Json]", row["end"]).items()
    ]
    judged = [_judged(check, table) for check in checks]
    return {
        "title": title or runs[0].config.title or runs[0].config.name,
        "arms": list(dict.fromkeys(run.arm for run in runs)),
        "seeds": list(dict.fromkeys(run.seed for run in runs)),
        "runs": {f"{run.arm}/{run.seed}": os.path.relpath(run.directory, output) for run in done},
        "table": table,
        "checks": judged,
        "rows": [*judged, *(_row(entry) for entry in table), *(more for row in rows for more in _further_rows(row))],
        "results": list(rows),
        "command": command,
        "device": device_name(cpu=all(run.config.policy.device == "cpu" for run in runs)),
        "versions": versions(),
        "commit": commit(),
    }


def _row(entry: Json) -> Json:
    """A table entry in the form that every figure of the docs is read from."""
    name = f"{entry['arm']}/seed-{entry['seed']}/{entry['class']}"
    return {"name": name, "value": entry["success"], "unit": "held-out success", "target": None, "holds": None}


def _further_rows(run: Json) -> list[Json]:
    """What else the last evaluation of a run measured, in the same form: pass@k, votes, calibration."""
    found: list[Json] = []
    for kind, result in cast("Mapping[str, Mapping[str, Mapping[str, Json]]]", run["end"]).items():
        rates: Mapping[str, object] = {name: rate["value"] for name, rate in result.get("rates", {}).items()}
        stated = {f"confidence/{name}": value for name, value in result.get("calibration", {}).items()}
        for values, unit in ((rates, "share of held-out tasks"), (stated, "held-out calibration")):
            for name, value in values.items():
                where = f"{run['arm']}/seed-{run['seed']}/{kind}/{name}"
                found.append({"name": where, "value": value, "unit": unit, "target": None, "holds": None})
    return found


def _judged(check: Json, table: Sequence[Json]) -> Json:
    """A `[[checks]]` entry of the run file against every seed: the worst one decides."""
    values = [
        float(cast(float, row["success"]))
        for row in table
        if row["arm"] == check.get("arm") and row["class"] == check.get("class")
    ]
    at_most, at_least = check.get("at_most"), check.get("at_least")
    if (at_most is None) == (at_least is None):
        raise ConfigError(f"[[checks]] {check.get('name')!r}: give exactly one of at_most and at_least")
    bound = float(cast(float, at_most if at_least is None else at_least))
    value = (max(values) if at_least is None else min(values)) if values else None
    holds = None if value is None else (value <= bound if at_least is None else value >= bound)
    sign = "<=" if at_least is None else ">="
    return {"name": check.get("name"), "value": value, "unit": "success", "target": f"{sign} {bound:g}", "holds": holds}


def write_json(path: Path, data: Mapping[str, object]) -> None:
    """As `write_text`."""
    write_text(path, json.dumps(data, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """The whole file or nothing of it. Errors: CheckpointError."""
    scratch = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)
    except OSError as error:
        with suppress(OSError):
            scratch.unlink()
        raise CheckpointError(f"{path} could not be written: {error.strerror}; what is there is whole") from error
