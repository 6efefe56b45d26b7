"""Draws a transfer matrix, what training on each task changes of each other one, and what was predicted of orders.

Owns: the pictures. Must not know: how the matrix was measured or which order was chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from critique_rl.stats.transfer import Forecast, Matrix, TransferMatrix

_INK, _MUTED, _LINE, _GUESS, _FOUND = "#1d2330", "#5b6472", "#d7dbe2", "#8a5a00", "#1f5fbf"
_STRONG = 0.6
"""Share of the colour range from which on a cell's number is written in white."""


def draw_staged(arms: Sequence[tuple[str, Forecast, Matrix]], *, tasks: Sequence[str], path: Path) -> None:
    """Write a PNG: one panel an arm, with each task's predicted success at the end (a ring, with two standard errors)
    beside what was realised (a dot), in the order of the stages. `arms` hold a name, a prediction, and the realised
    success of the order's tasks. Errors: OSError."""
    figure = Figure(figsize=(1.2 + 2.6 * len(arms), 0.9 + 0.36 * len(tasks)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(arms), squeeze=False)[0]
    for panel, (arm, forecast, realised) in zip(panels, arms, strict=True):
        places = range(len(forecast.order))
        order = list(forecast.order)
        predicted, errors = 100 * forecast.final[order], 200 * forecast.se[order]
        panel.errorbar(
            predicted, places, xerr=errors, fmt="o", color=_GUESS, mfc="none", markersize=7, label="predicted"
        )
        panel.plot(100 * realised, places, "o", color=_FOUND, markersize=4, label="realised")
        panel.set_title(arm, fontsize=9, color=_INK, loc="left")
        panel.set_yticks(places, [tasks[j] for j in order])
        panel.set_ylim(len(order) - 0.5, -0.5)
        panel.set_xlim(-3, max(103.0, float((predicted + errors).max()) + 3))  # the sum of effects may pass 100 %
        panel.set_xlabel("success at the end, %", fontsize=8, color=_MUTED)
        panel.tick_params(colors=_MUTED, labelsize=8, length=0)
        panel.grid(axis="x", color=_LINE, linewidth=0.6)
        panel.set_axisbelow(True)
        for side in ("top", "right", "left", "bottom"):
            panel.spines[side].set_visible(False)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8, frameon=False
    )
    figure.savefig(path, dpi=160, facecolor="white", metadata={"Software": None})


def draw_transfer(matrix: TransferMatrix, *, path: Path) -> None:
    """Write a PNG: rows are what was trained on, columns whose success changed, in percentage points; losses are brown,
    gains green, both on the scale of the largest change of another task. Errors: OSError."""
    effect, count = matrix.effect * 100, len(matrix.tasks)
    others = effect[~np.eye(count, dtype=bool)]
    largest = float(np.abs(others).max()) if others.size else 0.0
    reach = max(largest, 1.0)
    figure = Figure(figsize=(2.4 + 0.9 * count, 1.5 + 0.6 * count), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    # The diagonal, what each task does to itself, is of another size: its colour is clipped.
    axes.imshow(effect, cmap="BrBG", norm=TwoSlopeNorm(0.0, -reach, reach), aspect="auto")
    for i in range(count):
        for j in range(count):
            text = f"{effect[i, j]:+.1f}"
            if matrix.se is not None:
                text += f"\n± {100 * matrix.se[i, j]:.1f}"
            strong = min(1.0, abs(effect[i, j]) / reach) > _STRONG
            axes.text(j, i, text, ha="center", va="center", fontsize=7, color="white" if strong else _INK)
    axes.set_xticks(range(count), [f"{task}\n{base:.1%}" for task, base in zip(matrix.tasks, matrix.base, strict=True)])
    axes.set_yticks(range(count), matrix.tasks)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("change of success on (percentage points; below the name: at the start)", fontsize=8, color=_MUTED)
    axes.set_ylabel("after training on", fontsize=8, color=_MUTED)
    axes.tick_params(colors=_MUTED, labelsize=8, length=0)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=160, facecolor="white", metadata={"Software": None})
