"""What `critique-rl feedback show|stats|validate` print.

Owns: the layout. Must not know: how rows are read or filtered, what a figure means.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from critique_rl.errors import DataError
from critique_rl.feedback.row_sources import source_rows
from critique_rl.feedback.rows import ROW_KEYS, FeedbackRow, feedback_from_json, read_feedback
from critique_rl.feedback.screen import screened
from critique_rl.feedback.summary import summarise
from critique_rl.types import Critique, Directive

_ATTEMPT_CHARS = 2000


def show(path: Path, *, row_id: str | None, limit: int, console: Console | None = None) -> int:
    """Print rows: the attempt, the scores, what was said, what was dropped and why. Raises DataError."""
    console = console or Console(highlight=False)
    shown = 0
    for row in read_feedback(path):
        if row_id is not None and row.rollout.id != row_id:
            continue
        if shown == limit:
            console.print(f"(the first {limit}; --limit N for more, --row ID for one)")
            return 0
        shown += 1
        console.print(_panel(row))
    if row_id is not None and not shown:
        raise DataError(f"{path}: there is no row with id {row_id!r}")
    return 0


def stats(path: Path, *, as_json: bool, console: Console | None = None) -> int:
    """Print the figures of a file. Raises DataError."""
    figures = summarise(read_feedback(path))
    if as_json:
        print(json.dumps(figures, ensure_ascii=False, allow_nan=False))
        return 0
    console = console or Console(highlight=False)
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, value in figures.items():
        if name == "scores":
            continue
        table.add_row(name.replace("_", " "), Text(_shown(value)))
    console.print(table)
    scores = cast("Mapping[str, Mapping[str, object]]", figures["scores"])
    if scores:
        console.print(_score_table(scores))
    return 0


def validate(path: Path, *, console: Console | None = None) -> int:
    """Name every bad row, and every directive that the filters would drop; 1 if a row is bad. Raises DataError."""
    console = console or Console(highlight=False)
    rows = faults = dropped = 0
    first_seen: dict[str, str] = {}
    for found in source_rows(str(path), ROW_KEYS):
        rows += 1
        try:
            if found.error is not None:
                raise found.error
            row = feedback_from_json(found.value, where=found.where)
            if row.rollout.id in first_seen:
                first = first_seen[row.rollout.id]
                raise DataError(f"{found.where}: id {row.rollout.id!r} is also that of {first}; ids must differ")
            first_seen[row.rollout.id] = found.where
        except DataError as error:
            faults += 1
            _say(console, str(error))
            continue
        for text, reason in screened(row).critique.dropped[len(row.critique.dropped) :]:
            dropped += 1
            _say(console, f"{found.where}: would be dropped, because it {reason}: {text}")
    verdict = "no row is bad" if not faults else f"{faults} bad"
    _say(console, f"{path}: {rows} rows, {verdict}; {dropped} directives would be dropped")
    return 1 if faults else 0


def _say(console: Console, line: str) -> None:
    console.print(Text(line), soft_wrap=True)


def _panel(row: FeedbackRow) -> RenderableType:
    rollout, critique = row.rollout, row.critique
    body = Table.grid(padding=(0, 2))
    body.add_column(style="dim", no_wrap=True)
    body.add_column()
    body.add_row("question", Text(rollout.task.question))
    body.add_row("attempt", Text(_middle_out(rollout.attempt)))
    if rollout.task.answer:
        body.add_row("answer", Text(rollout.task.answer))
    if rollout.score is not None:
        body.add_row("reward", Text(f"{rollout.score.reward:g} ({rollout.score.status.value})"))
    body.add_row("outcome", Text(critique.outcome.value + (f": {critique.reason}" if critique.reason else "")))
    if critique.verdict is not None:
        body.add_row("verdict", Text(critique.verdict))
    for one in critique.evaluative:
        sure = "" if one.confidence is None else f" (confidence {one.confidence:g})"
        body.add_row("score", Text(f"{one.criterion} {one.value:g}{sure}"))
    for directive in critique.directives:
        body.add_row(Text("kept", style="green"), _directive(directive))
    for text, reason in critique.dropped:
        body.add_row(Text("dropped", style="yellow"), Text.assemble(text, (f"  [{reason}]", "yellow")))
    return Panel(Group(body), title=Text(f"{rollout.id} · {critique.critic}"), subtitle=Text(_cost(critique)))


def _directive(directive: Directive) -> Text:
    about = f"  on {directive.quote!r}" if directive.quote else ""
    turn = f"  (turn {directive.turn})" if directive.turn is not None else ""
    return Text.assemble(directive.text, (f"  [{directive.kind}]{about}{turn}", "dim"))


def _cost(critique: Critique) -> str:
    usage = critique.usage
    parts = [f"{usage.prompt_tokens}+{usage.completion_tokens} tokens"] if usage.prompt_tokens else []
    if usage.cost_usd is not None:
        parts.append(f"${usage.cost_usd:.5f}")
    if critique.latency_s:
        parts.append(f"{critique.latency_s:.1f} s")
    if critique.cached:
        parts.append("from the cache")
    return " · ".join(parts)


def _score_table(scores: Mapping[str, Mapping[str, object]]) -> Table:
    table = Table(box=None, padding=(0, 2), pad_edge=False)
    for heading in ("score", "count", "mean", "min", "max", "auroc", "judged"):
        table.add_column(heading, justify="left" if heading == "score" else "right")
    for name, figures in scores.items():
        table.add_row(Text(name), *(_shown(figures[key]) for key in ("count", "mean", "min", "max", "auroc", "judged")))
    return table


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        items = cast("Mapping[str, object]", value).items()
        return ", ".join(f"{name} {item}" for name, item in items) or "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _middle_out(text: str) -> str:
    if len(text) <= _ATTEMPT_CHARS:
        return text
    half = _ATTEMPT_CHARS // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters …\n{text[-half:]}"
