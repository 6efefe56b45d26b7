"""One run in stages: each begins with the policy that the one before it saved, and all of them are one course.

Owns: what is handed on (weights, memories, what is left of the token budget) and the files of the whole: DIRECTORY has
stages.json, one stage-N-NAME/ as a single run lies in its directory for each stage, and beside them metrics, events and
samples of all of them in a row, with one summary. Must not know: what happens inside a stage, which is a run of its own
and is resumed as one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

from critique_rl.config.load import dump, load_resolved
from critique_rl.config.run import RunConfig
from critique_rl.config.stages import StageConfig
from critique_rl.engines.sync import write_checkpoint
from critique_rl.errors import CheckpointError, ConfigError
from critique_rl.experiment import Json, PlannedRun, overall, run_one, write_json
from critique_rl.loop.checkpoint import SavedRun, latest_checkpoint
from critique_rl.loop.seeds import derive_seed
from critique_rl.loop.train import Trainer
from critique_rl.policy.crew import Crew
from critique_rl.policy.hf import HFPolicy
from critique_rl.report.joined import StageFiles, join_stages

STAGES = "stages.json"
CARRIED = ("skills", "monitors", "forgetting")
"""Memories that a stage hands to the next one, where both have them: what was learned to do, and what was measured at
the very start or when a task's own training ended. What is known of prompts, critics and guards belongs to a stage."""

SKIPPED = "skipped: the token budget of all stages was spent"
_SUMS = (
    "steps",
    "optimizer_steps",
    "generated_tokens",
    "critic_calls",
    "critic_completion_tokens",
    "refinements_injected",
)


class FinalRun(NamedTuple):
    """The config and the directory that hold a run's final policy."""

    config: RunConfig
    directory: Path


class _Ended(NamedTuple):
    stage: StageConfig
    directory: Path
    row: Json


def run_planned(planned: PlannedRun, *, resume: bool = False, console: bool = True, crew: Crew | None = None) -> Json:
    """Train one planned run, stage by stage if it has stages, and return its summary. Errors: as `run_one`."""
    if not planned.stages:
        return run_one(planned, resume=resume, console=console, crew=crew)
    _note_stages(planned, resume=resume)
    ended: list[_Ended] = []
    skipped: list[str] = []
    for number, stage in enumerate(planned.stages, start=1):
        here = planned.directory / f"stage-{number}-{stage.name}"
        config = _placed(planned, stage, ended)
        if config is None:
            skipped.append(stage.name)
            continue
        before = _saved(ended[-1].directory) if ended else None
        hand_over = number < len(planned.stages) and config.policy.lora is not None
        row = run_one(
            PlannedRun(arm=stage.name, seed=planned.seed, config=config, directory=here),
            resume=resume,
            console=console,
            crew=crew,
            on_start=None if before is None else partial(_carry, before),
            on_end=partial(_write_whole_policy, here) if hand_over else None,
        )
        ended.append(_Ended(stage, here, row))
        join_stages(planned.directory, [_files_of(planned, one) for one in ended])
        if row["stopped_because"] == "interrupted":
            break
        _write_summary(planned, ended, skipped)
    return _write_summary(planned, ended, skipped)


def final_run(planned: PlannedRun) -> FinalRun:
    """Where the final policy of a run that has ended lies: its own directory, or that of the last stage that ran."""
    if not planned.stages:
        return FinalRun(planned.config, planned.directory)
    for number in range(len(planned.stages), 0, -1):
        directory = planned.directory / f"stage-{number}-{planned.stages[number - 1].name}"
        if (directory / "config.json").exists():
            return FinalRun(load_resolved(directory / "config.json"), directory)
    raise CheckpointError(f"{planned.directory} holds no stage that ran; run it anew")


# -- before a stage ----------------------------------------------------------------------------------------------------


def _note_stages(planned: PlannedRun, *, resume: bool) -> None:
    """Write down what the stages are; a resumed run must have the same ones, but for their budgets."""
    path = planned.directory / STAGES
    wanted: list[Json] = [{"name": s.name, "config": json.loads(dump(s.config))} for s in planned.stages]
    if path.exists():
        if not resume:
            raise ConfigError(
                f"{path.parent} already holds an earlier run; resume that run, or choose another --output"
            )
        earlier = cast("list[Json]", json.loads(path.read_text(encoding="utf-8"))["stages"])
        if _without_budgets(earlier) != _without_budgets(wanted):
            raise ConfigError(
                f"{path}: the run to resume was started with other stages, or another config of one; resume with the "
                "same run file and overrides, or choose another --output"
            )
    write_json(path, {"stages": wanted})


def _without_budgets(stages: Sequence[Json]) -> list[Json]:
    return [
        {**stage, "config": {k: v for k, v in cast(Json, stage["config"]).items() if k != "budget"}} for stage in stages
    ]


def _placed(planned: PlannedRun, stage: StageConfig, ended: Sequence[_Ended]) -> RunConfig | None:
    """The stage's config where it stands now: behind the last policy, with the tokens that are left; None: no token."""
    config = stage.config
    total, own = planned.config.budget.max_generated_tokens, config.budget.max_generated_tokens
    if total is not None:
        left = total - sum(_spent(one) for one in ended)
        if left <= 0:
            return None
        own = left if own is None else min(own, left)
        config = config.model_copy(update={"budget": config.budget.model_copy(update={"max_generated_tokens": own})})
    if not ended:
        return config
    seed = derive_seed(planned.seed, len(ended), f"stage {stage.name}") % 2**31
    policy = config.policy.model_copy(update={"model": str(_policy_of(ended[-1])), "gguf_file": None})
    return config.model_copy(update={"policy": policy, "seed": seed})


def _spent(one: _Ended) -> int:
    critic = cast(int, one.row["critic_completion_tokens"]) if one.stage.config.budget.count_critic_tokens else 0
    return cast(int, one.row["generated_tokens"]) + critic


def _saved(directory: Path) -> SavedRun:
    found = latest_checkpoint(directory / "checkpoints")
    if found is None:
        raise CheckpointError(f"{directory} holds no checkpoint for the next stage to begin with; run the stage anew")
    return found


def _policy_of(one: _Ended) -> Path:
    """What the next stage loads: the last checkpoint's weights, or with adapters the whole model that was written."""
    whole = one.directory / "policy"
    return (whole if one.stage.config.policy.lora is not None else _saved(one.directory).directory / "policy").resolve()


def _carry(before: SavedRun, trainer: Trainer) -> None:
    trainer.carry_over({name: before.state[name] for name in CARRIED if name in before.state})


def _write_whole_policy(directory: Path, trainer: Trainer) -> None:
    policy = trainer.parts.policy
    assert isinstance(policy, HFPolicy)
    try:
        write_checkpoint(policy.whole_model(), directory / "policy")
        policy.tokenizer.save_pretrained(directory / "policy")
    except OSError as error:
        raise CheckpointError(
            f"{directory / 'policy'} could not be written: {error}; free some space and resume"
        ) from error


# -- after a stage -----------------------------------------------------------------------------------------------------


def _write_summary(planned: PlannedRun, ended: Sequence[_Ended], skipped: Sequence[str]) -> Json:
    """summary.json of the stages so far; returns the row of the whole."""
    row = _of_the_whole(planned, ended, skipped)
    summary = overall([planned], [row], planned.directory, title=planned.config.title, checks=[], command="")
    write_json(planned.directory / "summary.json", summary)
    return row


def _of_the_whole(planned: PlannedRun, ended: Sequence[_Ended], skipped: Sequence[str]) -> Json:
    """One row as `experiment.summarise` makes it: counters added up, the first start, the last end."""
    rows = [one.row for one in ended]
    costs = [cast("float | None", row["critic_cost_usd"]) for row in rows]
    outcomes: dict[str, int] = {}
    for row in rows:
        for outcome, count in cast("Mapping[str, int]", row["critic_outcomes"]).items():
            outcomes[outcome] = outcomes.get(outcome, 0) + count
    return {
        **rows[-1],
        "arm": planned.arm,
        "seed": planned.seed,
        "algorithm": " > ".join(str(row["algorithm"]) for row in rows),
        **{key: sum(cast(int, row[key]) for row in rows) for key in _SUMS},
        "critic_outcomes": outcomes,
        "critic_cost_usd": None if None in costs else sum(cost or 0.0 for cost in costs),
        **{key: _first(rows, key) for key in ("stall_step", "first_critic_step")},
        "train_wall_s": round(sum(cast(float, row["train_wall_s"]) for row in rows), 1),
        "start": rows[0]["start"],
        "stages": [*map(_told, ended), *({"name": name, "stopped_because": SKIPPED} for name in skipped)],
    }


def _first(rows: Sequence[Json], key: str) -> int | None:
    """The first stage's step that says something, counted over all stages."""
    offset = 0
    for row in rows:
        if row[key] is not None:
            return offset + cast(int, row[key])
        offset += cast(int, row["steps"])
    return None


def _told(one: _Ended) -> Json:
    kept = ("algorithm", "steps", "generated_tokens", "stopped_because", "end")
    return {"name": one.stage.name, **{key: one.row[key] for key in kept}}


def _files_of(planned: PlannedRun, one: _Ended) -> StageFiles:
    number = 1 + next(n for n, stage in enumerate(planned.stages) if stage is one.stage)
    return StageFiles(
        directory=one.directory,
        steps=cast(int, one.row["steps"]),
        title=f"stage {number} of {len(planned.stages)}, {one.stage.name} ({one.row['algorithm']})",
        ended=f"{one.row['stopped_because']} after {one.row['steps']} steps",
    )
