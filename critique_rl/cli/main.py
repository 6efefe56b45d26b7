"""`critique-rl`: the parser and the one place where an error becomes a line and an exit code.

Owns: flags and exit codes (0 done, 1 a check failed, 2 bad input, 130 interrupted). Must not know: torch.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from critique_rl import __version__
from critique_rl.cli import (
    ablate_commands,
    curriculum_commands,
    decide_commands,
    feedback_commands,
    phases_commands,
    rescue_commands,
    skills_commands,
)
from critique_rl.cli.numbers import count, seed
from critique_rl.errors import CritiqueRLError

OVERRIDABLE = frozenset({"train", "eval", "demo", "critique", "rollout", "rescue", "ablate", "curriculum"})

EPILOG = """\
Overrides: any key of the run file can be set as --section.key value, for example
  critique-rl train examples/demo.toml --optimizer.learning_rate 1e-4 --rollout.group_size 16
Keys and their meaning: critique-rl keys
"""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="critique-rl",
        description="Reinforcement learning for language models from what critics say, not only what they score.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"critique-rl {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="COMMAND", required=True)
    demo = verbs.add_parser("demo", help="watch scalar RL stall and language feedback break the stall (minutes, CPU)")
    _experiment_flags(demo)
    demo.add_argument("--steps", type=count, metavar="N", help="stop each arm after N steps (a quick look)")
    train = verbs.add_parser("train", help="train what a TOML run file describes", epilog=EPILOG)
    train.add_argument("run", metavar="RUN.toml")
    _experiment_flags(train)
    train.add_argument(
        "--feedback", metavar="FILE.jsonl", help="learn from this file of criticised rollouts; no critic is asked"
    )
    train.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in the output directory")
    evaluate = verbs.add_parser("eval", help="held-out success of a run file's policy or of a checkpoint")
    evaluate.add_argument("run", metavar="RUN.toml")
    evaluate.add_argument("--checkpoint", metavar="DIR", help="a checkpoint directory of a run (default: the start)")
    evaluate.add_argument("--arm", metavar="ARM", help="which arm's sections to use, if the file has arms")
    lab = verbs.add_parser("lab", help="the embedded laboratory policy")
    lab_verbs = lab.add_subparsers(dest="lab_verb", metavar="COMMAND", required=True)
    build = lab_verbs.add_parser("build", help="rebuild the starting policy from nothing and measure it")
    worlds = ("sums", "guess", "school", "search")
    build.add_argument("--world", choices=worlds, default="sums", help="which laboratory (default: sums)")
    build.add_argument("--output", default="lab-policy", metavar="DIR")
    build.add_argument("--seed", type=int, default=0, metavar="N")
    build.add_argument("--steps", type=count, metavar="N", help="default: as for the shipped policy")
    serve = lab_verbs.add_parser("serve", help="the lab's rule critic as an OpenAI-compatible server on this machine")
    serve.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="default: this machine only")
    serve.add_argument("--port", type=int, default=0, metavar="N", help="default: any free one")
    serve.add_argument("--noise", type=float, default=0.0, metavar="P", help="probability that a reply is a lie")
    serve.add_argument("--seed", type=int, default=0, metavar="N", help="which replies are lies")
    serve.add_argument("--latency-s", type=float, default=0.0, metavar="S", help="seconds before each reply")
    feedback_commands.add_parsers(verbs)
    rescue_commands.add_parsers(verbs)
    ablate_commands.add_parser(verbs)
    decide_commands.add_parsers(verbs)
    curriculum_commands.add_parsers(verbs)
    skills_commands.add_parsers(verbs)
    phases_commands.add_parsers(verbs)
    prompts = verbs.add_parser("prompts", help="list the prompt templates, or show one")
    prompts.add_argument("name", nargs="?", metavar="NAME", help="a name from the list, or the path of a template")
    report = verbs.add_parser("report", help="write report.html of a run directory anew")
    report.add_argument("directory", metavar="DIR")
    verbs.add_parser("keys", help="every key of a run file with its default and meaning")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; an expected error is one line on stderr and exit code 2."""
    known, rest = parser().parse_known_args(arguments)
    try:
        from critique_rl.cli import commands

        return commands.dispatch(known, commands.overrides(rest, allowed=known.verb in OVERRIDABLE))
    except CritiqueRLError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        print("critique-rl: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a file or folder that the run could not use; the message names it
        return _refuse(str(error))


def _refuse(reason: str) -> int:
    rank = os.environ.get("RANK", "0")
    who = "" if rank == "0" else f"rank {rank}: "
    print(f"critique-rl: error: {who}{' '.join(reason.split())}", file=sys.stderr)
    return 2


def _experiment_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--seeds", type=seed, nargs="+", default=[], metavar="N", help="run every arm at each seed")
    command.add_argument("--arms", nargs="+", default=[], metavar="ARM", help="only these arms of the run file")
    command.add_argument("--output", metavar="DIR", help="run directory (default: runs/NAME, numbered if it exists)")


if __name__ == "__main__":
    sys.exit(main())
