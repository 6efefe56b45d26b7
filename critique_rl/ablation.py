"""`critique-rl ablate`: the arms of a run file at equal compute, several seeds each, beside one reference arm.

Owns: running them in several processes, resuming, and the figures with their intervals and claims.
Must not know: what an arm does.

    OUTPUT/ablation.json, ablation.png, ablation.md      the result, the picture, the table to read
    OUTPUT/ablation_curves.png                           success over tokens, if runs were evaluated on the way
    OUTPUT/ARM/seed-N/...                                each run; held_out.jsonl if all answers together are needed
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

from critique_rl.config.ablation import AblationConfig, ClaimConfig
from critique_rl.config.load import RunFile
from critique_rl.decisions.deployed import deployed_figures, stated_figures
from critique_rl.decisions.held_out import held_out_answers
from critique_rl.errors import ConfigError, CritiqueRLError
from critique_rl.experiment import PlannedRun, plan, side_by_side
from critique_rl.provenance import commit, device_name, versions
from critique_rl.report.ablation_chart import draw_ablation, draw_curves
from critique_rl.report.ablation_differences import with_differences
from critique_rl.report.ablation_metrics import POOLED_FIGURES, last_monitored
from critique_rl.report.ablation_rows import Courses, judged, judged_anew, rows_of
from critique_rl.report.ablation_table import ablation_table, has_floors
from critique_rl.report.course import Course, read_course
from critique_rl.stages import final_run, run_planned

Json = dict[str, object]
Say = Callable[[str], None]


class Ablated(NamedTuple):
    """The result in the form of docs/results, and the runs that ended in an error, each with it."""

    result: Json
    failed: Mapping[str, str]


def ablate(
    run_file: RunFile,
    output: Path,
    *,
    arms: Sequence[str] = (),
    seeds: Sequence[int] = (),
    jobs: int | None = None,
    resume: bool = False,
    command: str = "",
    say: Say = lambda _: None,
) -> Ablated:
    """Run every arm at every seed and compare. The table is written anew after each run, so that a kill loses little.

    A run that ends in an error is named and left out; the others go on. Errors: ConfigError before the first run.
    """
    started = time.monotonic()
    spec = _section(run_file)
    if arms and spec.reference not in arms:
        arms = (spec.reference, *arms)
    runs = plan(run_file, output, arms=arms, seeds=seeds)
    if len(runs) < 2:
        raise ConfigError(f"{run_file.source}: one arm at one seed is nothing to compare; add arms or seeds")
    _check_equal_compute(runs)
    _check_floors(spec.claims, runs)
    _check_columns(spec.columns, runs)
    done: dict[str, Json] = {}
    courses: dict[tuple[object, object], Course] = {}
    failed: dict[str, str] = {}
    result: Json = {}
    for planned, outcome in _train_all(runs, spec, jobs=jobs or spec.jobs, resume=resume):
        name = f"{planned.arm}/seed-{planned.seed}"
        if isinstance(outcome, CritiqueRLError):
            failed[name] = str(outcome)
            say(f"{name}: FAILED: {outcome}")
            continue
        done[name] = outcome
        if planned.config.evaluation.every:
            courses[planned.arm, planned.seed] = read_course(
                planned.directory, cast("Mapping[str, object]", outcome["end"]).keys()
            )
        say(f"{len(done) + len(failed)}/{len(runs)} {name}: {_in_words(outcome)}")
        finished = [done[n] for n in (f"{r.arm}/seed-{r.seed}" for r in runs) if n in done]
        result = _result(runs, finished, courses, spec, command=command)
        result["wall_time_s"] = round(time.monotonic() - started, 1)
        _write(output, result, spec)
    return Ablated(result, failed)


def judge_anew(run_file: RunFile, output: Path, *, command: str = "") -> Json:
    """Judge the file's claims by the result that `output` holds, and write that anew; nothing is trained or measured.

    What made the runs stays as it was; "judged" says what judged them. Errors: ConfigError where no ablation ended, or
    one with another reference arm.
    """
    spec, path = _section(run_file), output / "ablation.json"
    try:
        earlier = cast(Json, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} is no result to judge: {error}; run the ablation first, or name its --output"
        ) from None
    if earlier.get("reference") != spec.reference:
        raise ConfigError(
            f"{path} has the reference arm {earlier.get('reference')!r}, {run_file.source} has {spec.reference!r}; "
            "judge with the run file that it was made by, or one that differs in claims only"
        )
    result = {**judged_anew(earlier, spec.claims), "judged": {"command": command, "commit": commit()}}
    _write(output, result, spec)
    return result


def _section(run_file: RunFile) -> AblationConfig:
    if run_file.ablation is None:
        raise ConfigError(
            f"{run_file.source}: there is no [ablation] section; add one that names the reference arm: "
            'reference = "ARM"'
        )
    return run_file.ablation


def _check_equal_compute(runs: Sequence[PlannedRun]) -> None:
    budgets = {run.arm: run.config.budget.max_generated_tokens for run in runs}
    if None in budgets.values():
        arm = next(arm for arm, tokens in budgets.items() if tokens is None)
        raise ConfigError(f"arm {arm!r} has no budget.max_generated_tokens, so its compute cannot be compared; set it")
    if len(set(budgets.values())) > 1:
        raise ConfigError(f"budget.max_generated_tokens differs between arms ({budgets}); give all of them the same")
    for run in runs:
        if run.config.critic is not None and not run.config.budget.count_critic_tokens:
            raise ConfigError(
                f"arm {run.arm!r} asks a critic whose tokens would not count; set budget.count_critic_tokens = true"
            )


def _check_floors(claims: Sequence[ClaimConfig], runs: Sequence[PlannedRun]) -> None:
    """A floor is found between evaluations; without them the claim could never hold."""
    for claim in (claim for claim in claims if claim.floor_above is not None):
        for run in runs:
            budget, every = run.config.budget, run.config.evaluation.every
            if run.arm == claim.arm and not 0 < every < budget.max_steps:
                raise ConfigError(
                    f"claim {claim.name!r} has a floor_above, and arm {claim.arm!r} is not evaluated on the way "
                    f"(evaluation.every = {every}, budget.max_steps = {budget.max_steps}); set an evaluation.every "
                    "well below the steps of the run"
                )


def _check_columns(columns: Sequence[str], runs: Sequence[PlannedRun]) -> None:
    """What no run would measure could only be told when all of them have ended."""
    for run in runs:
        asked = run.config.evaluation
        stated = any(reward.kind == "with_confidence" for reward in run.config.rewards.values())
        for metric in columns:
            way_out = ""
            if metric.startswith("pass") and int(metric[5:]) not in asked.pass_at:
                way_out = f"add {metric[5:]} to evaluation.pass_at"
            elif metric.endswith("_vote") and asked.samples_per_task == 1:
                way_out = "set evaluation.samples_per_task above 1"
            elif metric.startswith(("confidence/", "weighted_", "most_confident")) and not stated:
                way_out = 'judge by a [rewards.NAME] of kind = "with_confidence"'
            elif metric.startswith("monitor/"):
                options = run.config.monitors
                probed = options is not None and options.probe_tasks > 0
                on = probed if metric.startswith("monitor/probe/") else options is not None and options.batch
                way_out = "" if on else "set monitors.probe_tasks, or monitors.batch for figures of the batch"
            elif metric in ("with_skills", "context_tokens") and run.config.skills is not None:
                way_out = "" if run.config.skills.evaluate_with_skills else "set skills.evaluate_with_skills = true"
            if way_out:
                raise ConfigError(f"ablation.columns: arm {run.arm!r} does not measure {metric!r}; {way_out}")


def _train_all(runs: Sequence[PlannedRun], spec: AblationConfig, *, jobs: int, resume: bool):
    """Each run with its summary or its error, in the order in which they end; never more than `jobs` at once."""
    return side_by_side(runs, partial(_train, resume=resume, spec=spec), jobs=jobs)


def _train(planned: PlannedRun, resume: bool, spec: AblationConfig) -> Json | CritiqueRLError:
    """In a process of its own: errors of a user's making come back as values, others as they are."""
    try:
        run = run_planned(planned, resume=resume, console=False)
        pooled = _pooled_figures(planned, spec) if spec.needs_answers else {}
        if spec.needs_monitors:
            pooled |= {k: v for k, v in last_monitored(final_run(planned).directory).items() if k in spec.columns}
        return {**run, POOLED_FIGURES: pooled} if spec.needs_answers or spec.needs_monitors else run
    except CritiqueRLError as error:
        # The very error may not survive the way between processes: some take more than a message.
        return CritiqueRLError(str(error))


def _pooled_figures(planned: PlannedRun, spec: AblationConfig) -> dict[str, float]:
    """Of the answers of all classes together."""
    given = held_out_answers(*final_run(planned))
    if spec.decisions is None:
        return stated_figures(given)
    by_confidence = planned.arm in spec.decisions.by_confidence
    return stated_figures(given) | deployed_figures(given, spec.decisions, by_confidence=by_confidence)


def _result(
    runs: Sequence[PlannedRun], finished: Sequence[Json], courses: Courses, spec: AblationConfig, *, command: str
) -> Json:
    arms = [arm for arm in dict.fromkeys(run.arm for run in runs) if any(row["arm"] == arm for row in finished)]
    table = [
        row
        for arm in arms
        for row in rows_of(
            arm,
            [row for row in finished if row["arm"] == arm],
            courses,
            classes=spec.classes,
            columns=spec.columns,
        )
    ]
    claims = [judged(claim, table) for claim in spec.claims]
    seeds = sorted({cast(int, row["seed"]) for row in finished})
    result: Json = {
        "title": runs[0].config.title or runs[0].config.name,
        "reference": spec.reference,
        "rows": [
            *claims,
            *(
                {
                    "name": f"{r['arm']}/{r['class']}",
                    "value": r["mean"],
                    "unit": "held-out success, mean over seeds",
                    "target": None,
                    "holds": None,
                }
                for r in table
            ),
            *(
                {
                    "name": f"{r['arm']}/{r['class']}/{name}",
                    "value": found["mean"],
                    "unit": "held out, mean over seeds",
                    "target": None,
                    "holds": None,
                }
                for r in table
                for name, found in cast("Mapping[str, Json]", r.get("metrics", {})).items()
            ),
        ],
        "table": table,
        "claims": claims,
        "runs": [{**run, **_course_json(courses.get((run["arm"], run["seed"])))} for run in finished],
        "budget_tokens": runs[0].config.budget.max_generated_tokens,
        "seeds": seeds,
        "command": command,
        "device": device_name(cpu=all(run.config.policy.device == "cpu" for run in runs)),
        "versions": versions(),
        "commit": commit(),
    }
    return with_differences(result)


def _course_json(course: Course | None) -> Json:
    return {} if course is None else {"course": course.to_json()}


def _write(output: Path, result: Json, spec: AblationConfig) -> None:
    output.mkdir(parents=True, exist_ok=True)
    table = cast("list[Json]", result["table"])
    for name, text in (("ablation.json", json.dumps(result, indent=2) + "\n"), ("ablation.md", ablation_table(result))):
        scratch = output / f".{name}.new"
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(output / name)
    draw_ablation(table, reference=spec.reference, path=output / "ablation.png")
    if has_floors(result):
        draw_curves(table, reference=spec.reference, path=output / "ablation_curves.png")


def _in_words(run: Json) -> str:
    ends = cast("Mapping[str, Json]", run["end"])
    rates = ", ".join(f"{kind} {cast(float, end['success']):.1%}" for kind, end in ends.items())
    return f"{rates} after {run['steps']} steps ({run['stopped_because']})"
