"""Draws an ablation, one panel per class of tasks: each arm's mean with its interval, each arm's success over tokens.

Owns: the two pictures. Must not know: how arms were run or how intervals were made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter

from critique_rl.report.ablation_metrics import NO_RATES

_INK, _MUTED, _LINE, _ARM, _REFERENCE = "#1d2330", "#5b6472", "#d7dbe2", "#1f5fbf", "#8a5a00"
_ARMS = ("#1f5fbf", "#c2410c", "#15803d", "#7e22ce", "#be185d", "#0e7490", "#4d7c0f")
_DASHES = ("-", "--", "-.", ":")
_PANELS_ACROSS = 4
_FROM_0 = ("confidence/ece", "confidence/brier", "context_tokens", "monitor/")
"""Of the metrics that are no rates, those whose range begins at 0: what is a third there shall look like a third."""


def draw_ablation(table: Sequence[Mapping[str, object]], *, reference: str, path: Path) -> None:
    """Write a PNG: one panel per class, and one more per class and further metric.

    `table` rows hold arm, class, mean, low, high, rates (one per seed), and maybe metrics: by name mean, low, high
    (None: not known) and values. Errors: OSError.
    """
    kinds = list(dict.fromkeys(cast(str, row["class"]) for row in table))
    arms = list(dict.fromkeys(cast(str, row["arm"]) for row in table))
    columns = list(
        dict.fromkeys(name for row in table for name in cast("Mapping[str, object]", row.get("metrics", {})))
    )
    panels = [(kind, column) for kind in kinds for column in (None, *columns)]
    across = len(panels) if not columns else min(len(panels), _PANELS_ACROSS)
    down = -(-len(panels) // across)
    figure = Figure(figsize=(3.0 + 3.4 * across, down * (1.1 + 0.34 * len(arms))), layout="constrained")
    figure.get_layout_engine().set(wspace=0.08)  # pyright: ignore
    FigureCanvasAgg(figure)
    axes = figure.subplots(down, across, sharey=True, squeeze=False)
    for panel in axes.flat[len(panels) :]:
        panel.set_visible(False)
    for panel, (kind, column) in zip(axes.flat, panels, strict=False):
        panel.set_title(kind if column is None else f"{kind}: {column}", fontsize=10, color=_INK, loc="left")
        drawn: list[float] = []
        for row in (row for row in table if row["class"] == kind):
            if column is None:
                shown = {**row, "values": row["rates"]}
            else:
                shown = cast("Mapping[str, Mapping[str, object]]", row.get("metrics", {})).get(column, {})
            drawn += _draw_arm(panel, arms.index(cast(str, row["arm"])), shown, reference=row["arm"] == reference)
        panel.set_ylim(len(arms) - 0.5, -0.5)
        panel.set_yticks(range(len(arms)), arms)
        if column is None or not column.startswith(NO_RATES):
            panel.set_xlim(-0.02, 1.02)
            panel.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        elif column.startswith(_FROM_0) and min(drawn, default=0.0) >= 0:
            panel.set_xlim(left=0.0)
        _quiet(panel, grid="x")
    for label in (label for row in axes for label in row[0].get_yticklabels()):
        label.set_color(_REFERENCE if label.get_text() == reference else _INK)
    what = "held-out success" if not columns else "held-out success and what is named"
    figure.supxlabel(f"{what}: mean over seeds, interval, and each seed as a tick", fontsize=8, color=_MUTED)
    figure.savefig(path, dpi=160, facecolor="white", metadata={"Software": None})


def _draw_arm(panel: Axes, y: int, shown: Mapping[str, object], *, reference: bool) -> list[float]:
    """Draws one arm's row of a panel; returns the numbers in it."""
    colour = _REFERENCE if reference else _ARM
    mean, low, high = (cast("float | None", shown.get(key)) for key in ("mean", "low", "high"))
    if low is not None and high is not None:
        if reference:
            panel.axvspan(low, high, color=_REFERENCE, alpha=0.12, linewidth=0)
        panel.plot([low, high], [y, y], color=colour, linewidth=2, solid_capstyle="butt", zorder=2)
    values = [value for value in cast("Sequence[float | None]", shown.get("values", ())) if value is not None]
    panel.plot(values, [y + 0.26] * len(values), "|", color=_MUTED, markersize=4, zorder=2)
    if mean is not None:
        panel.plot([mean], [y], "o", color=colour, markersize=6, zorder=3)
    return [*values, *(end for end in (low, mean, high) if end is not None)]


def draw_curves(table: Sequence[Mapping[str, object]], *, reference: str, path: Path) -> None:
    """Write a PNG: mean success over seeds at each evaluation, a faint band from the lowest seed to the highest.

    `table` rows hold arm, class and curve (points with tokens, success, lowest, highest); those without a curve are
    left out. Errors: OSError.
    """
    rows = [row for row in table if row.get("curve")]
    kinds = list(dict.fromkeys(cast(str, row["class"]) for row in rows))
    arms = list(dict.fromkeys(cast(str, row["arm"]) for row in rows))
    others = [arm for arm in arms if arm != reference]
    figure = Figure(figsize=(1.0 + 4.2 * max(1, len(kinds)), 3.4 + 0.18 * len(arms)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, max(1, len(kinds)), sharey=True, squeeze=False)[0]
    for panel, kind in zip(axes, kinds, strict=False):
        panel.set_title(kind, fontsize=10, color=_INK, loc="left")
        for row in (row for row in rows if row["class"] == kind):
            arm = cast(str, row["arm"])
            number = others.index(arm) if arm in others else 0
            colour = _REFERENCE if arm == reference else _ARMS[number % len(_ARMS)]
            dashes = _DASHES[number // len(_ARMS) % len(_DASHES)]
            points = cast("Sequence[Mapping[str, float]]", row["curve"])
            tokens, success, lowest, highest = (
                [point[key] for point in points] for key in ("tokens", "success", "lowest", "highest")
            )
            panel.fill_between(tokens, lowest, highest, color=colour, alpha=0.12, linewidth=0)
            panel.plot(tokens, success, dashes, color=colour, linewidth=1.6, label=arm)
        panel.set_ylim(-0.02, 1.02)
        panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        _quiet(panel, grid="y")
    named: dict[str, object] = {}
    for panel in axes:
        named |= dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    figure.legend([named[arm] for arm in arms], arms, loc="outside upper center", ncols=4, fontsize=8, frameon=False)  # pyright: ignore
    figure.supxlabel(
        "tokens spent, the critic's included: mean over seeds, from the lowest to the highest", fontsize=8, color=_MUTED
    )
    figure.savefig(path, dpi=160, facecolor="white", metadata={"Software": None})


def _quiet(panel: Axes, *, grid: Literal["x", "y"]) -> None:
    panel.tick_params(colors=_MUTED, labelsize=8, length=0)
    panel.grid(axis=grid, color=_LINE, linewidth=0.6)
    panel.set_axisbelow(True)
    for side in ("top", "right", "left", "bottom"):
        panel.spines[side].set_visible(False)
