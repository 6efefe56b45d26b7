"""Draws an ablation: one panel per class of tasks, one line per arm, each mean with its interval.

Owns: the picture. Must not know: how arms were run or how intervals were made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

_INK, _MUTED, _LINE, _ARM, _REFERENCE = "#1d2330", "#5b6472", "#d7dbe2", "#1f5fbf", "#8a5a00"


def draw_ablation(table: Sequence[Mapping[str, object]], *, reference: str, path: Path) -> None:
    """Write a PNG. `table` rows hold arm, class, mean, low, high, rates (one per seed); errors: OSError."""
    kinds = list(dict.fromkeys(cast(str, row["class"]) for row in table))
    arms = list(dict.fromkeys(cast(str, row["arm"]) for row in table))
    figure = Figure(figsize=(3.0 + 3.4 * len(kinds), 1.1 + 0.34 * len(arms)), layout="constrained")
    figure.get_layout_engine().set(wspace=0.08)  # pyright: ignore
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for panel, kind in zip(axes, kinds, strict=True):
        panel.set_title(kind, fontsize=10, color=_INK, loc="left")
        for row in (row for row in table if row["class"] == kind):
            y = arms.index(cast(str, row["arm"]))
            mean, low, high = (float(cast(float, row[key])) for key in ("mean", "low", "high"))
            colour = _REFERENCE if row["arm"] == reference else _ARM
            if row["arm"] == reference:
                panel.axvspan(low, high, color=_REFERENCE, alpha=0.12, linewidth=0)
            panel.plot([low, high], [y, y], color=colour, linewidth=2, solid_capstyle="butt", zorder=2)
            panel.plot(
                cast("list[float]", row["rates"]),
                [y + 0.26] * len(cast("list[float]", row["rates"])),
                "|",
                color=_MUTED,
                markersize=4,
                zorder=2,
            )
            panel.plot([mean], [y], "o", color=colour, markersize=6, zorder=3)
        panel.set_xlim(-0.02, 1.02)
        panel.set_ylim(len(arms) - 0.5, -0.5)
        panel.set_yticks(range(len(arms)), arms)
        panel.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        panel.tick_params(colors=_MUTED, labelsize=8, length=0)
        panel.grid(axis="x", color=_LINE, linewidth=0.6)
        panel.set_axisbelow(True)
        for side in ("top", "right", "left", "bottom"):
            panel.spines[side].set_visible(False)
    for label in axes[0].get_yticklabels():
        label.set_color(_REFERENCE if label.get_text() == reference else _INK)
    figure.supxlabel("held-out success: mean over seeds, interval, and each seed as a tick", fontsize=8, color=_MUTED)
    figure.savefig(path, dpi=160, facecolor="white", metadata={"Software": None})
