"""What each command does, in a few lines each: config in, one call, exit code out.

Must not know: how anything works. torch and transformers are imported inside the commands that need them.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from critique_rl.cli.quiet import quiet_libraries
from critique_rl.errors import ConfigError

if TYPE_CHECKING:
    from critique_rl.config.load import RunFile
    from critique_rl.config.run import RunConfig
    from critique_rl.policy.crew import Crew

Overrides = list[tuple[str, str]]
LAUNCHED = ("train", "demo")
"""What several processes can do together."""
DEMO = Path(__file__).parent.parent / "lab" / "demo.toml"


def overrides(rest: Sequence[str], *, allowed: bool) -> Overrides:
    """`--section.key value` or `--section.key=value` pairs. Errors: ConfigError for anything else."""
    pairs: Overrides = []
    waiting = list(rest)
    while waiting:
        flag = waiting.pop(0)
        if not allowed or not flag.startswith("--") or not flag.strip("-"):
            raise ConfigError(f"unknown argument {flag!r}; see --help of this command")
        key, equals, value = flag[2:].partition("=")
        if not equals:
            if not waiting:
                raise ConfigError(f"--{key} needs a value: --{key} VALUE")
            value = waiting.pop(0)
        pairs.append((key, value))
    return pairs


def dispatch(known: argparse.Namespace, pairs: Overrides) -> int:
    """Call the command that was parsed."""
    verb = str(known.verb)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and verb not in LAUNCHED:
        raise ConfigError(f"{verb} works in one process; only {' and '.join(LAUNCHED)} share their work with others")
    if verb == "demo":
        steps = [("budget.max_steps", str(known.steps))] if known.steps else []
        return _experiment(DEMO, known, [*pairs, *steps], resume=False)
    if verb == "train":
        return _experiment(Path(known.run), known, pairs, resume=bool(known.resume), feedback=known.feedback)
    if verb == "eval":
        return _evaluate(Path(known.run), known, pairs)
    if verb == "lab":
        return _serve_lab(known) if known.lab_verb == "serve" else _build_lab(known)
    if verb in {"critique", "feedback"}:
        from critique_rl.cli import feedback_commands

        return feedback_commands.handle(known, pairs)
    if verb == "ablate":
        from critique_rl.cli import ablate_commands

        return ablate_commands.handle(known, pairs)
    if verb in {"rollout", "rescue"}:
        from critique_rl.cli import rescue_commands

        return rescue_commands.handle(known, pairs)
    if verb == "curriculum":
        from critique_rl.cli import curriculum_commands

        return curriculum_commands.handle(known, pairs)
    if verb in {"calibrate", "decide"}:
        from critique_rl.cli import decide_commands

        return decide_commands.handle(known)
    if verb == "skills":
        from critique_rl.cli import skills_commands

        return skills_commands.handle(known)
    if verb == "phases":
        from critique_rl.cli import phases_commands

        return phases_commands.handle(known)
    if verb == "prompts":
        return _prompts(cast("str | None", known.name))
    if verb == "report":
        return _report(Path(known.directory))
    return _keys()


def _experiment(
    path: Path, known: argparse.Namespace, pairs: Overrides, *, resume: bool, feedback: str | None = None
) -> int:
    from critique_rl.config.load import read_run_file, with_feedback

    run_file = read_run_file(path, pairs)
    if feedback is not None:
        run_file = with_feedback(run_file, feedback)
    quiet_libraries()
    from critique_rl.build_sampler import build_crew, follow
    from critique_rl.config.load import resolve

    first = resolve(run_file, arm=next(iter(known.arms or run_file.arms), None), seed=next(iter(known.seeds), None))
    crew = build_crew(first)
    if not crew.leads:
        follow(crew)
        return 0
    try:
        return _lead(run_file, first, known, crew, resume=resume)
    finally:
        crew.release()


def _lead(run_file: RunFile, first: RunConfig, known: argparse.Namespace, crew: Crew, *, resume: bool) -> int:
    from critique_rl.experiment import plan, run_all
    from critique_rl.stages import run_planned

    output = Path(known.output) if known.output else _free(Path(first.output) / first.name, resume=resume)
    if resume and not _holds_a_run(output):
        raise ConfigError(f"--resume: {output} holds no run; leave --resume out to start one there")
    runs = plan(run_file, output, arms=known.arms, seeds=known.seeds)
    command = shlex.join(["critique-rl", *sys.argv[1:]])
    report = run_all(
        runs,
        output,
        title=first.title,
        checks=run_file.checks,
        command=command,
        resume=resume,
        crew=crew,
        run=run_planned,
    )
    summary = json.loads((output / "summary.json").read_text(encoding="utf-8"))
    for row in summary["table"]:
        rate = f"{row['success']:6.1%}  [{row['low']:.1%}, {row['high']:.1%}]"
        print(f"{row['arm']:<16} seed {row['seed']}  {row['class']:<12} {rate}  of {row['trials']} held out")
    for check in summary["checks"]:
        if check["holds"] is not None:
            verdict = "holds" if check["holds"] else "FAILS"
            print(f"{verdict}: {check['name']} ({check['value']:.3f}, wanted {check['target']})")
    print(f"report: {report}\nsummary: {output / 'summary.json'}")
    interrupted = any(row["stopped_because"] == "interrupted" for row in summary["results"])
    return 130 if interrupted else 0


def _evaluate(path: Path, known: argparse.Namespace, pairs: Overrides) -> int:
    from critique_rl.config.load import read_run_file, resolve

    run_file = read_run_file(path, pairs)
    arm = known.arm or next(iter(run_file.arms), None)
    config = resolve(run_file, arm=arm)
    quiet_libraries()
    from dataclasses import asdict

    from critique_rl.build import build
    from critique_rl.config.algorithm import GrpoConfig
    from critique_rl.loop.evaluate import evaluate
    from critique_rl.loop.seeds import derive_seed
    from critique_rl.trackers.fanout import FanoutTracker

    bare = config.model_copy(update={"algorithm": GrpoConfig(), "critic": None})  # nothing but the policy is needed
    parts = build(bare, tracker=FanoutTracker([]))
    if known.checkpoint:
        parts.policy.restore(Path(known.checkpoint))
    found = evaluate(
        parts.tasks.held_out(),
        policy=parts.policy,
        engine=parts.engine,
        reward=parts.reward,
        config=config.evaluation,
        max_tokens=config.evaluation_tokens,
        seed=derive_seed(config.seed, 0, "evaluation"),
        environment=parts.environment,
    )
    print(json.dumps({kind: asdict(success) for kind, success in found.items()}, indent=2))
    return 0


def _serve_lab(known: argparse.Namespace) -> int:
    from critique_rl.lab.serve import run_serve

    return run_serve(known)


def _build_lab(known: argparse.Namespace) -> int:
    from critique_rl.build_tasks import lab_search_tool
    from critique_rl.lab.build import build_policy
    from critique_rl.lab.guess.build import build_guess_policy
    from critique_rl.lab.school.build import build_school_policy
    from critique_rl.lab.search.build import build_search_policy

    def say(step: int, steps: int, loss: float) -> None:
        if step % 50 == 0 or step == steps:
            print(f"step {step} of {steps}, loss {loss:.3f}", file=sys.stderr)

    options = {"steps": int(known.steps)} if known.steps else {}
    worlds: dict[str, Callable[..., object]] = {
        "sums": build_policy,
        "guess": build_guess_policy,
        "school": build_school_policy,
        "search": partial(build_search_policy, find=lab_search_tool()),
    }
    worlds[str(known.world)](Path(known.output), seed=int(known.seed), progress=say, **options)
    print((Path(known.output) / "LAB.json").read_text(encoding="utf-8"), end="")
    return 0


def _prompts(name: str | None) -> int:
    from critique_rl.prompting.catalogue import catalogue, load_prompt

    if name is None:
        for template in catalogue():
            print(f"{template.name:<16} v{template.version}  {template.hash}  inputs: {', '.join(template.inputs)}")
        return 0
    template = load_prompt(name)
    print(f"# {template.name} v{template.version} ({template.hash}), inputs: {', '.join(template.inputs)}")
    if template.system:
        print(f"\n[system]\n{template.system}")
    print(f"\n[user]\n{template.body}")
    return 0


def _report(directory: Path) -> int:
    from critique_rl.report.page import write_report

    print(write_report(directory))
    return 0


def _keys() -> int:
    from critique_rl.config.describe import describe

    print("\n".join(describe()))
    return 0


def _free(wanted: Path, *, resume: bool) -> Path:
    """The wanted directory, or with a number if it is taken; on resume the newest one that exists."""
    numbered = [wanted, *(wanted.with_name(f"{wanted.name}-{n}") for n in range(2, 10_000))]
    if resume:
        existing = [path for path in numbered if path.exists()]
        if not existing:
            raise ConfigError(f"--resume: there is no run directory {wanted}; leave --resume out to start one")
        return existing[-1]
    return next(path for path in numbered if not path.exists())


def _holds_a_run(directory: Path) -> bool:
    found = ("config.json", "stages.json", "*/seed-*/config.json", "*/seed-*/stages.json")
    return any(next(directory.glob(pattern), None) for pattern in found)
