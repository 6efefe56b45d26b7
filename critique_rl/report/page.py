"""Writes report.html: the parts of a page are computed here, and laid out by page.html.j2.

Owns: the list of parts. Everything from a run is text to be escaped; only the charts are markup. Must not know: how any
part is computed.
"""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from critique_rl.errors import CheckpointError
from critique_rl.report.charts import curve_svg, state_svg
from critique_rl.report.choice import choose_stories
from critique_rl.report.curves import panels, state_panels
from critique_rl.report.headline import Result, headline, interval_basis, percent, results, span
from critique_rl.report.load import RunSet, load_run_set
from critique_rl.report.records import Event

_HERE = Path(__file__).parent
_MAX_EVENTS = 60


def write_report(run_dir: Path) -> Path:
    """Make `run_dir`/report.html from what the directory holds, and return its path.

    Raises DataError if the directory does not exist, CheckpointError if the page cannot be written.
    """
    path = run_dir / "report.html"
    page = render(load_run_set(run_dir))
    try:
        path.write_text(page, encoding="utf-8", errors="replace")
    except OSError as error:
        raise CheckpointError(
            f"{path}: the report cannot be written: {error.strerror}; the run itself is complete. "
            "Free some space and make the report again"
        ) from error
    return path


def render(run_set: RunSet) -> str:
    """The whole page as HTML, without any reference to another file."""
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(percent=percent, count=_count, duration=_duration)
    rows = results(run_set)
    kinds = list(dict.fromkeys(row.kind for row in rows))
    outcome, trigger = headline(run_set)
    return environment.get_template("page.html.j2").render(
        css=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        title=_title(run_set),
        summary=run_set.summary,
        outcome=outcome,
        trigger=trigger,
        basis=interval_basis(rows),
        several=any(row.seeds_counted > 1 for row in rows),
        alone=any(row.seeds_counted <= 1 for row in rows),
        table=[(kind, [row for row in rows if row.kind == kind]) for kind in kinds],
        arms=[(run_set.colour(arm), run_set.label(arm)) for arm in run_set.arms],
        arm_index={arm: run_set.colour(arm) for arm in run_set.arms},
        label=run_set.label,
        seeds=len({run.seed for run in run_set.runs}),
        curves=[(p.kind, curve_svg(p, name=f"curve{i}", moments=i == 0)) for i, p in enumerate(panels(run_set, kinds))],
        states=[(p.label, state_svg(p, name=f"state{i}")) for i, p in enumerate(state_panels(run_set))],
        stories=choose_stories(run_set),
        logs=[(_run_name(run_set, run.arm, run.seed), *_shown(run.events)) for run in run_set.runs if run.events],
        configs=_configs(run_set),
        missing=run_set.missing,
        totals=_totals,
        span=span,
    )


def _title(run_set: RunSet) -> str:
    return run_set.summary.title or run_set.directory.resolve().name


def _run_name(run_set: RunSet, arm: str, seed: str) -> str:
    return f"{run_set.label(arm)}, seed {seed}" if seed else run_set.label(arm)


def _shown(events: tuple[Event, ...]) -> tuple[tuple[Event, ...], int]:
    """The events to list, and how many are left out (routine evaluations go first)."""
    if len(events) <= _MAX_EVENTS:
        return events, 0
    telling = tuple(event for event in events if event.kind != "evaluation")[:_MAX_EVENTS]
    return telling, len(events) - len(telling)


def _configs(run_set: RunSet) -> list[tuple[str, str]]:
    """(name, text) of each arm's config, that of its first seed."""
    shown: dict[str, str] = {}
    for run in run_set.runs:
        if run.config:
            shown.setdefault(run_set.label(run.arm), run.config)
    return list(shown.items())


def _totals(result: Result) -> list[tuple[str, str]]:
    """What an arm took, per seed: (name, number), or the range over seeds, or "" if it was not recorded."""
    said: list[tuple[str, str]] = []
    for name, values in (
        ("steps", [row.steps for row in result.seeds]),
        ("tokens", [row.generated_tokens for row in result.seeds]),
        ("critic calls", [row.critic_calls for row in result.seeds]),
    ):
        known = [value for value in values if value is not None]
        low, high = (_count(min(known)), _count(max(known))) if known else ("", "")
        said.append((name, low if low == high else f"{low}–{high}"))
    return said


def _count(value: float) -> str:
    if value < 10_000:
        return f"{value:,.0f}"
    return f"{value / 1_000:,.0f}k" if value < 10_000_000 else f"{value / 1_000_000:,.1f}M"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
