"""Draws a risk-coverage curve: the share of answers that is wrong over the share of records that is answered.

Owns: the picture. Must not know: how thresholds were found or what a mistake costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

_INK, _MUTED, _LINE, _CURVE, _MARK = "#1d2330", "#5b6472", "#d7dbe2", "#1f5fbf", "#8a5a00"
_LABELS_AT_MOST = 12
Mark = tuple[str, float, float]


def draw_risk_coverage(
    points: Sequence[tuple[float, float]], *, area: float, error_rate: float, marks: Sequence[Mark], path: Path
) -> None:
    """Write a PNG. `points` are (coverage, risk), rising in coverage; `marks` are (name, coverage, risk), one per
    threshold in use; `error_rate` is the risk of answering all. Errors: OSError."""
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.axhline(error_rate, color=_MUTED, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
    axes.annotate("answering all", (0.0, error_rate), (3, 3), textcoords="offset points", fontsize=7, color=_MUTED)
    xs, ys = [x for x, _ in points], [y for _, y in points]
    axes.plot(xs, ys, color=_CURVE, linewidth=1.8, marker="o" if len(points) <= 30 else "", markersize=3, zorder=2)
    names: dict[tuple[float, float], list[str]] = {}
    for name, coverage, risk in marks:
        names.setdefault((coverage, risk), []).append(name)
    for n, (spot, shared) in enumerate(names.items()):
        axes.plot([spot[0]], [spot[1]], "D", color=_MARK, markersize=6, zorder=3, clip_on=False)
        if n < _LABELS_AT_MOST:
            side = (7, -11) if spot[0] < 0.8 else (-7, -14)
            align = "left" if spot[0] < 0.8 else "right"
            axes.annotate(", ".join(shared), spot, side, textcoords="offset points", fontsize=7, color=_MARK, ha=align)
    axes.set_title(f"area under the curve {area:.4f}", fontsize=9, color=_INK, loc="left")
    axes.set_xlabel("coverage: share of records answered", fontsize=8, color=_MUTED)
    axes.set_ylabel("risk: share of answers that is wrong", fontsize=8, color=_MUTED)
    axes.set_xlim(0.0, 1.02)
    axes.set_ylim(0.0, min(1.05, max([*ys, error_rate, 0.05]) * 1.2))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axes.tick_params(colors=_MUTED, labelsize=8, length=0)
    axes.grid(color=_LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=160, facecolor="white", metadata={"Software": None})
