"""`ablate`: every arm of a run file at every seed, compared at equal compute.

Owns: its flags and what it prints. Must not know: how runs are made or compared.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from critique_rl.cli.numbers import count, seed
from critique_rl.errors import ConfigError


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:  # pyright: ignore[reportPrivateUsage]
    """The verb; any key of the run file can be overridden as with `train`."""
    verb = verbs.add_parser("ablate", help="which part of the gain comes from where: arms x seeds at equal tokens")
    verb.add_argument("run", metavar="SPEC.toml", help="a run file with [arms.NAME] and an [ablation] section")
    verb.add_argument("--arms", nargs="+", default=[], metavar="ARM", help="only these, and the reference")
    verb.add_argument("--seeds", type=seed, nargs="+", default=[], metavar="N", help="instead of the file's")
    verb.add_argument("--jobs", type=count, metavar="N", help="runs at a time (default: of the file)")
    verb.add_argument("--output", metavar="DIR", help="default: runs/NAME")
    verb.add_argument("--resume", action="store_true", help="keep what is finished there and go on with the rest")
    verb.add_argument(
        "--judge", action="store_true", help="train nothing: judge the file's claims by the result that lies there"
    )


def handle(known: argparse.Namespace, pairs: Sequence[tuple[str, str]]) -> int:
    """Run it; 0, or 1 if a run failed or a claim is refuted, which one that is not decided is not."""
    from critique_rl.cli.quiet import quiet_libraries
    from critique_rl.config.load import read_run_file, resolve

    run_file = read_run_file(Path(known.run), pairs)
    arm = next(iter(run_file.arms), None)
    first = resolve(run_file, arm=arm)
    output = Path(known.output) if known.output else Path(first.output) / str(run_file.base.get("name", first.name))
    if known.judge and (known.arms or known.seeds or known.jobs or known.resume):
        raise ConfigError("--arms, --seeds, --jobs and --resume have no effect with --judge; remove them")
    if not known.judge and not known.resume and (output / "ablation.json").exists():
        raise ConfigError(f"{output} holds an ablation already; add --resume to go on with it, or choose --output")
    quiet_libraries()
    from critique_rl.ablation import ablate, judge_anew

    command = shlex.join(["critique-rl", *sys.argv[1:]])
    if known.judge:
        return _told(judge_anew(run_file, output, command=command), output, failed={})
    result, failed = ablate(
        run_file,
        output,
        arms=known.arms,
        seeds=known.seeds,
        jobs=known.jobs,
        resume=bool(known.resume),
        command=command,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    return _told(result, output, failed=failed)


def _told(result: Mapping[str, object], output: Path, *, failed: Mapping[str, str]) -> int:
    from critique_rl.report.ablation_table import ablation_table

    if result:
        print(ablation_table(result))
        print(f"result: {output / 'ablation.json'}\npicture: {output / 'ablation.png'}")
    for name, error in failed.items():
        print(f"critique-rl: error: {name}: {error}", file=sys.stderr)
    claims = cast("Sequence[Mapping[str, object]]", result.get("claims", []))
    return 1 if failed or any(claim["holds"] is False for claim in claims) else 0
