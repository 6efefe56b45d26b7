"""`critique-rl curriculum`: what each task of a mixture does to the others, and the order in which to train on them.

Owns: the single-task runs behind a transfer matrix, and what a staged run came to.
Must not know: how orders are found or how a stage is run.

    OUTPUT/transfer.json, transfer.png     the matrix, written anew after each run, and its picture
    OUTPUT/TASK/seed-N/...                 each single-task run
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from critique_rl.config.load import RunFile, merge, resolve
from critique_rl.config.stages import STAGE
from critique_rl.config.tasks import MixtureTasksConfig
from critique_rl.errors import ConfigError, CritiqueRLError
from critique_rl.experiment import PlannedRun, plan, run_one, side_by_side, write_json
from critique_rl.loop.evaluate import REWARD, Rate, Success
from critique_rl.loop.forgetting import success_by_part
from critique_rl.provenance import commit, device_name, versions
from critique_rl.report.transfer_chart import draw_transfer
from critique_rl.schedule.transfer_file import transfer_json
from critique_rl.stats.transfer import Normaliser, TransferMatrix, backward_transfer

Json = dict[str, object]
Levels = dict[str, tuple[float, float]]
Say = Callable[[str], None]


class Measured(NamedTuple):
    """The matrix, None where some task has no run that ended well, and the runs that did not, each with its error."""

    matrix: TransferMatrix | None
    failed: Mapping[str, str]


class _Ended(NamedTuple):
    """One single-task run: success by task before and after."""

    task: str
    seed: int
    start: Levels
    end: Levels


def measure(
    run_file: RunFile,
    output: Path,
    *,
    arm: str | None = None,
    seeds: Sequence[int] = (),
    jobs: int = 2,
    resume: bool = False,
    normaliser: Normaliser = "none",
    command: str = "",
    say: Say = lambda _: None,
) -> Measured:
    """Train the file's policy on each task of its mixture alone, at each seed, and evaluate all tasks before and after.

    K tasks are K runs a seed; the start is measured once a seed. The file's budget is that of each run. With `resume`
    what is finished in `output` is kept. Errors: ConfigError before the first run.
    """
    started = time.monotonic()
    alone = single_task_runs(run_file, arm=arm)
    runs = plan(alone, output, seeds=seeds)
    ended: list[_Ended] = []
    failed: dict[str, str] = {}
    matrix: TransferMatrix | None = None
    for planned, outcome in _train_all(runs, jobs=jobs, resume=resume):
        name = f"{planned.arm}/seed-{planned.seed}"
        if isinstance(outcome, CritiqueRLError):
            failed[name] = str(outcome)
            say(f"{name}: FAILED: {outcome}")
            continue
        ended.append(_Ended(planned.arm, planned.seed, _levels(outcome["start"]), _levels(outcome["end"])))
        told = ", ".join(f"{task} {success:.1%}" for task, (success, _) in ended[-1].end.items())
        say(f"{len(ended) + len(failed)}/{len(runs)} after {name}: {told}")
        matrix = _matrix(tuple(alone.arms), ended, normaliser)
        if matrix is not None:
            tree = _result(matrix, runs, ended, source=run_file.source, arm=arm, command=command)
            tree["wall_time_s"] = round(time.monotonic() - started, 1)
            write_json(output / "transfer.json", tree)
            draw_transfer(matrix, path=output / "transfer.png")
    return Measured(matrix, failed)


def single_task_runs(run_file: RunFile, *, arm: str | None = None) -> RunFile:
    """The run file with one arm a task of its mixture, and no stages. Errors: ConfigError."""
    if arm is not None and arm not in run_file.arms:
        raise ConfigError(f"{run_file.source}: there is no arm {arm!r}; it has {sorted(run_file.arms) or 'none'}")
    base = run_file.base if arm is None else merge(run_file.base, run_file.arms[arm])
    base = {key: value for key, value in base.items() if key not in (STAGE, "forgetting")}
    plain = replace(run_file, base=base, arms={}, ablation=None)
    tasks = resolve(plain).tasks
    if not isinstance(tasks, MixtureTasksConfig):
        raise ConfigError(
            f'{run_file.source}: tasks.kind = {tasks.kind!r}; wanted "mixture" with a [tasks.of.NAME] for each task'
        )
    return replace(plain, arms={name: {"tasks": {"only": [name]}} for name in tasks.of})


class StagedRun(NamedTuple):
    """What the stages of one arm came to, as means over its seeds: `start[j]` and `results[t][j]` are the success of
    task j before the first stage and after stage t, in the order of the stages."""

    arm: str
    seeds: int
    order: tuple[str, ...]
    start: tuple[float, ...]
    results: tuple[tuple[float, ...], ...]


def staged_runs(directory: Path, tasks: Sequence[str]) -> list[StagedRun]:
    """Every arm of a run directory whose stages are named after `tasks`. Errors: ConfigError if there is none."""
    rows: list[Json] = []
    for name, key in (("ablation.json", "runs"), ("summary.json", "results")):
        path = directory / name
        if not rows and path.exists():
            try:
                rows = cast("list[Json]", json.loads(path.read_text(encoding="utf-8"))[key])
            except (ValueError, KeyError) as error:
                raise ConfigError(f"{path} cannot be read as the result of runs: {error}") from None
    arms: dict[tuple[str, tuple[str, ...]], list[tuple[Levels, list[Levels]]]] = {}
    for row in rows:
        stages = [stage for stage in cast("list[Json]", row.get("stages", [])) if "end" in stage]
        order = tuple(str(stage["name"]) for stage in stages)
        if order and set(order) == set(tasks):
            ends = [_levels(stage["end"]) for stage in stages]
            arms.setdefault((str(row["arm"]), order), []).append((_levels(row["start"]), ends))
    if not arms:
        raise ConfigError(
            f"{directory} holds no finished run with one stage for each of {', '.join(tasks)}; train the run file that "
            "`critique-rl curriculum order -o FILE` writes"
        )
    return [_mean_over_seeds(arm, order, found) for (arm, order), found in arms.items()]


def staged_result(directory: Path, matrix: TransferMatrix, *, command: str) -> Json:
    """What the staged runs of a directory came to beside what was predicted of them, in the form of docs/results; the
    other arms' means over tasks are with them. Errors: ConfigError."""
    runs = staged_runs(directory, matrix.tasks)
    values: dict[str, float] = {}
    for run in runs:
        forecast = matrix.predict(matrix.named(run.order))
        values |= {
            f"{run.arm}/mean/predicted": forecast.mean,
            f"{run.arm}/mean/realised": statistics.fmean(run.results[-1]),
        }
        if len(run.order) > 1:
            values[f"{run.arm}/backward_transfer"] = backward_transfer(np.array(run.results))
        for at, j in enumerate(forecast.order):
            name = f"{run.arm}/{matrix.tasks[j]}"
            values |= {f"{name}/predicted": float(forecast.final[j]), f"{name}/realised": run.results[-1][at]}
            values |= {f"{name}/own_stage": run.results[at][at], f"{name}/start": run.start[at]}
    told = _whole_result(directory)
    return {
        "title": "Predicted and realised success of staged runs",
        "transfer": transfer_json(matrix),
        "staged": [run._asdict() for run in runs],
        "rows": [
            {"name": name, "value": value, "unit": "held-out success, mean over seeds", "target": None, "holds": None}
            for name, value in values.items()
        ],
        **{key: told.get(key) for key in ("seeds", "device", "versions", "commit", "wall_time_s")},
        "command": command,
        "runs_command": told.get("command"),
    }


def _whole_result(directory: Path) -> Json:
    for name in ("ablation.json", "summary.json"):
        if (directory / name).exists():
            return cast(Json, json.loads((directory / name).read_text(encoding="utf-8")))
    return {}


def _mean_over_seeds(arm: str, order: tuple[str, ...], found: Sequence[tuple[Levels, list[Levels]]]) -> StagedRun:
    def mean(levels: Sequence[Levels]) -> tuple[float, ...]:
        return tuple(statistics.fmean(one[task][0] for one in levels) for task in order)

    ends = tuple(mean([run[t] for _, run in found]) for t in range(len(order)))
    return StagedRun(arm, len(found), order, mean([start for start, _ in found]), ends)


def _levels(by_kind: object) -> Levels:
    """Success and standard error by task, of what a summary holds by kind."""
    kinds = cast("Mapping[str, Mapping[str, float]]", by_kind)
    rates = cast("Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]", by_kind)
    return success_by_part(
        {
            kind: Success(
                kind=kind,
                successes=int(one["successes"]),
                trials=int(one["trials"]),
                success=one["success"],
                low=one["low"],
                high=one["high"],
                rates={name: Rate(**rate) for name, rate in rates[kind].get("rates", {}).items() if name == REWARD},
            )
            for kind, one in kinds.items()
        }
    )


def _train_all(
    runs: Sequence[PlannedRun], *, jobs: int, resume: bool
) -> Iterator[tuple[PlannedRun, Json | CritiqueRLError]]:
    """Each run with its summary or its error, in the order in which they end; each in a process of its own."""
    return side_by_side(runs, partial(train_alone, resume=resume), jobs=jobs)


def train_alone(planned: PlannedRun, resume: bool) -> Json | CritiqueRLError:
    """Train one run; an error of a user's making comes back as a value, so that the other runs go on."""
    try:
        return run_one(planned, resume=resume, console=False)
    except CritiqueRLError as error:
        # The very error may not survive the way between processes: some take more than a message.
        return CritiqueRLError(str(error))


def _matrix(tasks: tuple[str, ...], ended: Sequence[_Ended], normaliser: Normaliser) -> TransferMatrix | None:
    if {run.task for run in ended} != set(tasks):
        return None
    # Runs of one seed begin with the same answers to the same questions: each start counts once.
    starts = list({run.seed: run.start for run in ended}.values())
    base = [_mean([start[task] for start in starts]) for task in tasks]
    cells = [[_mean([run.end[task] for run in ended if run.task == trained]) for task in tasks] for trained in tasks]
    return TransferMatrix(
        tasks=tasks,
        base=np.array([mean for mean, _ in base]),
        acc=np.array([[mean for mean, _ in row] for row in cells]),
        se=np.array([[se for _, se in row] for row in cells]),
        base_se=np.array([se for _, se in base]),
        normaliser=normaliser,
    )


def _mean(levels: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The mean over seeds with its standard error, from how the seeds differ; of one seed, that of its evaluation."""
    values = [success for success, _ in levels]
    if len(values) == 1:
        return levels[0]
    return statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))


def _result(
    matrix: TransferMatrix,
    runs: Sequence[PlannedRun],
    ended: Sequence[_Ended],
    *,
    source: str,
    arm: str | None,
    command: str,
) -> Json:
    rows = [
        {
            "name": f"{trained}->{task}",
            "value": float(matrix.effect[i, j]),
            "unit": "change of held-out success, mean over seeds",
            "target": None,
            "holds": None,
        }
        for i, trained in enumerate(matrix.tasks)
        for j, task in enumerate(matrix.tasks)
    ]
    return {
        **transfer_json(matrix),
        "rows": rows,
        "runs": [
            {
                "task": run.task,
                "seed": run.seed,
                **{k: {t: v[0] for t, v in getattr(run, k).items()} for k in ("start", "end")},
            }
            for run in ended
        ],
        "run_file": source,
        "arm": arm,
        "seeds": sorted({run.seed for run in ended}),
        "command": command,
        "device": device_name(cpu=all(run.config.policy.device == "cpu" for run in runs)),
        "versions": versions(),
        "commit": commit(),
    }
