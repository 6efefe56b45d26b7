"""`critique-rl critique` and `critique-rl feedback`: flags in, one call, exit code out.

Must not know: how anything works. What needs a client library or torch is imported inside the command.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from critique_rl.cli.quiet import quiet_libraries
from critique_rl.errors import ConfigError

if TYPE_CHECKING:
    from critique_rl.feedback.batch_spec import BatchSpec
    from critique_rl.offline import BatchEnd
    from critique_rl.protocols import Critic

VERBS = ("critique", "feedback")
_CRITIQUE_EPILOG = """\
SPEC names a critic in one line: anthropic/MODEL or another name that LiteLLM knows, MODEL@http://HOST:PORT/v1,
FILE.py[:FUNCTION], FILE.jsonl of recorded exchanges, FILE.toml with a [critic] table. Any key of it can be set as
--critic.KEY VALUE. The same command again goes on where the last one stopped; nothing is paid for twice.
"""


def add_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:  # pyright: ignore[reportPrivateUsage]
    """The parsers of both verbs."""
    critique = verbs.add_parser(
        "critique",
        help="ask a critic about a file of rollouts",
        epilog=_CRITIQUE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    critique.add_argument(
        "rollouts", metavar="ROLLOUTS", help=".jsonl, .parquet, hub:owner/name:split, or a spec .toml"
    )
    critique.add_argument("--critic", metavar="SPEC", help="the critic, in one line (see below)")
    critique.add_argument("--out", metavar="FEEDBACK.jsonl", help="where the feedback goes")
    critique.add_argument("--run", metavar="RUN.toml", help="whose policy answers, for --critic policy")
    critique.add_argument("--limit", type=int, metavar="N", help="only the first N rows")
    critique.add_argument("--shard", metavar="I/N", help="only the I-th of N parts, by a hash of the row ids")
    critique.add_argument("--max-cost-usd", type=float, metavar="X", help="stop asking before the run costs more")
    critique.add_argument("--retry-failed", action="store_true", help="ask again about malformed and refused rows, too")
    critique.add_argument("--dry-run", action="store_true", help="only check the rows and print what they would cost")
    _batch_flags(critique)
    feedback = verbs.add_parser("feedback", help="look at a file of feedback")
    looks = feedback.add_subparsers(dest="feedback_verb", metavar="COMMAND", required=True)
    show = looks.add_parser("show", help="attempts with what was said about them")
    show.add_argument("file", metavar="FEEDBACK.jsonl")
    show.add_argument("--row", metavar="ID", help="only this row")
    show.add_argument("--limit", type=int, default=10, metavar="N", help="at most so many rows (default: 10)")
    stats = looks.add_parser("stats", help="outcomes, directives, scores, cost")
    stats.add_argument("file", metavar="FEEDBACK.jsonl")
    stats.add_argument("--json", action="store_true", help="as one JSON object")
    validate = looks.add_parser("validate", help="check every row, and put its directives through the filters")
    validate.add_argument("file", metavar="FEEDBACK.jsonl")


def _batch_flags(critique: argparse.ArgumentParser) -> None:
    flags = critique.add_argument_group("a provider's batch endpoint")
    flags.add_argument(
        "--mode",
        choices=("online", "batch", "batch-file"),
        default="online",
        help="batch: through the provider's batch endpoint, at its price; batch-file: through a file in its format",
    )
    flags.add_argument("--no-wait", action="store_true", help="batch: submit and leave; the same command collects")
    flags.add_argument("--cancel", action="store_true", help="batch: cancel what is under way for this output")
    flags.add_argument("--cancel-on-exit", action="store_true", help="batch: a Ctrl-C cancels what is under way")
    flags.add_argument(
        "--online-retries", action="store_true", help="batch: ask online again about what came to naught"
    )
    flags.add_argument("--poll-s", type=float, default=15.0, metavar="S", help="batch: seconds before the first look")
    flags.add_argument(
        "--max-enqueued-tokens", type=int, metavar="N", help="batch: no more tokens under way than the provider allows"
    )
    flags.add_argument("--requests", metavar="FILE.jsonl", help="batch-file: write the requests here")
    flags.add_argument("--results", metavar="FILE.jsonl", help="batch-file: take the answers from here")


def handle(known: argparse.Namespace, pairs: Sequence[tuple[str, str]]) -> int:
    """Run `critique` or `feedback`. Errors: every CritiqueRLError, OSError."""
    if known.verb == "critique":
        return _critique(known, pairs)
    from critique_rl.cli import feedback_view as view

    path = Path(known.file)
    if known.feedback_verb == "show":
        return view.show(path, row_id=known.row, limit=known.limit)
    if known.feedback_verb == "stats":
        return view.stats(path, as_json=known.json)
    return view.validate(path)


def spec_from(known: argparse.Namespace, pairs: Sequence[tuple[str, str]]) -> BatchSpec:
    """The batch spec that flags, and a spec file below them, describe. Raises ConfigError."""
    from critique_rl.config.shorthand import critic_from_text, critic_tree
    from critique_rl.feedback.batch_spec import batch_spec, read_batch_file, with_overrides

    from_file = str(known.rollouts).endswith(".toml")
    tree = read_batch_file(Path(known.rollouts)) if from_file else {"rollouts": known.rollouts}
    if known.critic:
        tree["critic"] = critic_from_text(known.critic)
    elif "critic" in tree:
        tree["critic"] = critic_tree(tree["critic"])
    for key in ("out", "run", "limit", "shard"):
        if getattr(known, key) is not None:
            tree[key] = getattr(known, key)
    if known.retry_failed:
        tree["retry_failed"] = True
    for key, flag in (("critic", "--critic SPEC"), ("out", "--out FEEDBACK.jsonl")):
        if key not in tree:
            raise ConfigError(f"{known.rollouts}: {key} is missing: give {flag}")
    money = [] if known.max_cost_usd is None else [("critic.max_cost_usd", str(known.max_cost_usd))]
    source = str(known.rollouts) if from_file else "critique"
    return batch_spec(with_overrides(tree, [*pairs, *money]), source=source)


def _critique(known: argparse.Namespace, pairs: Sequence[tuple[str, str]]) -> int:
    spec = spec_from(known, pairs)
    if spec.run:
        quiet_libraries()
    from critique_rl.offline import estimate_batch, run_batch

    if known.dry_run:
        print("\n".join(estimate_batch(spec).lines()))
        return 0
    if known.mode == "online":
        end = run_batch(spec)
    else:
        critic = _batched(spec, known) if known.mode == "batch" else _from_file(spec, known)
        if critic is None:
            return 0
        end = run_batch(spec) if known.online_retries else run_batch(spec, critic=critic)
    print("\n".join(_ending(spec, end)))
    return 130 if end.interrupted else 0


def _batched(spec: BatchSpec, known: argparse.Namespace) -> Callable[[], Critic] | None:
    """Send and collect; None if there is nothing to write yet."""
    from critique_rl.critics.batch_driver import BatchLimits
    from critique_rl.offline import estimate_batch
    from critique_rl.offline_batches import BatchOptions, cancel, gather

    if known.cancel:
        print(f"{cancel(spec, say=print)} batches asked to end")
        return None
    print("\n".join(estimate_batch(spec).lines()))
    limits = BatchLimits(poll_s=known.poll_s, max_enqueued_tokens=known.max_enqueued_tokens)
    options = BatchOptions(wait=not known.no_wait, cancel_on_exit=known.cancel_on_exit, limits=limits)
    gathered = gather(spec, options=options, say=print)
    print(gathered.message())
    return gathered.critic if gathered.report.finished else None


def _from_file(spec: BatchSpec, known: argparse.Namespace) -> Callable[[], Critic] | None:
    """Write the file of requests, or take in the file of results."""
    from critique_rl.offline_batches import take_result_file, write_request_file

    if bool(known.requests) == bool(known.results):
        raise ConfigError("--mode batch-file: give --requests FILE to write one, or --results FILE to take one in")
    if known.requests:
        print(f"{known.requests}: {write_request_file(spec, Path(known.requests))} requests")
        return None
    taken = take_result_file(spec, Path(known.results))
    print(
        f"{known.results}: {taken.answered} answers, {taken.failed} failed, {taken.missing} requests without a line; "
        f"left out: {taken.unknown} of other runs, {taken.duplicates} repeated, {taken.unreadable} unreadable"
    )
    return taken.critic


def _ending(spec: BatchSpec, end: BatchEnd) -> list[str]:
    lines = [f"{spec.out}: {end.rows} rows, {json.dumps(end.outcomes)}"]
    if end.spent.tokens:
        price = f"${end.spent.cost_usd:.4f}" if not end.spent.unpriced else "price not known"
        lines.append(f"spent: {end.spent.tokens:,} tokens, {price}")
    if end.failed:
        lines.append(f"{end.failed} rows without feedback: {spec.beside('failed.jsonl')}; see feedback.reason there")
    if end.pending:
        lines.append(f"{end.pending} rows are still to be asked about: the same command again goes on")
    return lines
