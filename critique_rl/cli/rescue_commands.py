"""`rollout` and `rescue`: attempts to a file, and what each critic makes of the failed ones before a run is paid for.

Owns: their flags and what they print. Must not know: how anything is sampled, asked or counted.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from critique_rl.cli.numbers import count
from critique_rl.errors import ConfigError

if TYPE_CHECKING:
    from critique_rl.config.critic import CriticConfig
    from critique_rl.config.run import RunConfig

Overrides = Sequence[tuple[str, str]]


def add_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:  # pyright: ignore[reportPrivateUsage]
    """The two verbs; any key of the run file can be overridden as with `train`."""
    rollout = verbs.add_parser("rollout", help="sample and verify attempts of a run file's policy into a file")
    rollout.add_argument("run", metavar="RUN.toml")
    rollout.add_argument("--out", required=True, metavar="FILE.jsonl", help="must not exist yet")
    rollout.add_argument("--tasks", type=count, metavar="N", help="default: rollout.prompts_per_step")
    rollout.add_argument("--group-size", type=count, metavar="G", help="attempts per task; default: of the run file")
    rollout.add_argument("--failed-only", action="store_true", help="keep only what the verifier found wrong")
    _policy_flags(rollout)
    rescue = verbs.add_parser("rescue", help="what critics are worth on failed attempts, before training with them")
    rescue.add_argument("attempts", metavar="ATTEMPTS", help=".jsonl, .parquet or hub:OWNER/NAME, as `rollout` writes")
    rescue.add_argument("--run", required=True, metavar="RUN.toml", help="whose policy makes the second attempts")
    rescue.add_argument(
        "--critic",
        dest="critics",
        action="append",
        required=True,
        metavar="CRITIC",
        help="lab_rules, lab_school_rules, policy, PROVIDER/MODEL, MODEL@URL, FILE.py:FUNCTION or FILE.toml; "
        "may be given again",
    )
    rescue.add_argument("--limit", type=count, metavar="N", help="failed attempts used, from the file's start")
    rescue.add_argument("--samples", type=count, default=1, metavar="K", help="second attempts per failed attempt")
    rescue.add_argument(
        "--with-reference", action="store_true", help="measure each critic a second time, shown the answer"
    )
    rescue.add_argument(
        "--show-detail", action="store_true", help="show critics the verifier's report, as training does"
    )
    rescue.add_argument("--out", metavar="FILE.json", help="write the whole result here")
    rescue.add_argument("--json", action="store_true", help="print the whole result instead of the table")
    _policy_flags(rescue)


def handle(known: argparse.Namespace, pairs: Overrides) -> int:
    """Run the verb that was parsed."""
    return _rollout(known, pairs) if known.verb == "rollout" else _rescue(known, pairs)


def _rollout(known: argparse.Namespace, pairs: Overrides) -> int:
    out = Path(known.out)
    if out.exists():
        raise ConfigError(f"--out: {out} exists already; choose another file, or remove it")
    config = _config(Path(known.run), known, pairs)
    from critique_rl.feedback.rows import rollout_to_json
    from critique_rl.rescue import failed, sample_rollouts

    rows = sample_rollouts(config, tasks=known.tasks, group_size=known.group_size, checkpoint=_checkpoint(known))
    kept = [row for row in rows if failed(row)] if known.failed_only else rows
    _write(out, "".join(json.dumps(rollout_to_json(row), ensure_ascii=False) + "\n" for row in kept))
    tasks = len({row.task.id for row in rows})
    print(
        f"{len(rows)} attempts at {tasks} tasks, {sum(map(failed, rows))} of them failed; {len(kept)} written to {out}"
    )
    return 0


def _rescue(known: argparse.Namespace, pairs: Overrides) -> int:
    config = _config(Path(known.run), known, pairs)
    critics = [(spec, _critic(spec)) for spec in cast("list[str]", known.critics)]
    from critique_rl.feedback.rows import read_rollouts
    from critique_rl.report.rescue_table import rescue_text
    from critique_rl.rescue import RescueOptions, rescue

    options = RescueOptions(
        samples=known.samples,
        limit=known.limit,
        with_reference=known.with_reference,
        show_detail=known.show_detail,
        checkpoint=_checkpoint(known),
    )
    result = rescue(
        config,
        critics,
        list(read_rollouts(str(known.attempts))),
        options=options,
        command=shlex.join(["critique-rl", *sys.argv[1:]]),
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    text = json.dumps(result, indent=2)
    if known.out:
        _write(Path(known.out), text + "\n")
    print(text if known.json else rescue_text(result))
    return 0


def _policy_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--checkpoint", metavar="DIR", help="a checkpoint directory of a run (default: the start)")
    command.add_argument(
        "--arm", metavar="ARM", help="whose sections to use, if the file has arms (default: the first that refines)"
    )


def _config(path: Path, known: argparse.Namespace, pairs: Overrides) -> RunConfig:
    """The run whose policy, tasks and prompts are used; without --arm the first arm that samples refinements."""
    from critique_rl.cli.quiet import quiet_libraries
    from critique_rl.config.load import read_run_file, resolve

    run_file = read_run_file(path, pairs)
    quiet_libraries()
    if known.arm or not run_file.arms:
        return resolve(run_file, arm=known.arm)
    configs = [resolve(run_file, arm=arm) for arm in run_file.arms]
    return next((config for config in configs if "refinement" in config.reads), configs[0])


def _critic(spec: str) -> CriticConfig:
    """The critic that a line stands for. Errors: ConfigError."""
    from pydantic import TypeAdapter, ValidationError

    from critique_rl.config import critic
    from critique_rl.config.shorthand import critic_from_text

    adapter: TypeAdapter[CriticConfig] = TypeAdapter(critic.CriticConfig)
    try:
        return adapter.validate_python(critic_from_text(spec))
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()
        ]
        raise ConfigError(f"--critic {spec}: {'; '.join(faults)}") from None


def _checkpoint(known: argparse.Namespace) -> Path | None:
    return Path(known.checkpoint) if known.checkpoint else None


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    scratch = path.with_name(f".{path.name}.new")
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, path)
