"""A transfer matrix, predicted orders, and what a staged run came to, as tables for a terminal.

Owns: the text. Must not know: where any number comes from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from critique_rl.stats.transfer import Forecast, Matrix, Stability, TransferMatrix, backward_transfer

Row = Sequence[str]


def matrix_table(matrix: TransferMatrix) -> str:
    """Success after training on each task alone, with the change against the start in percentage points."""
    errors = np.zeros_like(matrix.acc) if matrix.se is None else matrix.se
    head = ["trained on", *matrix.tasks]
    rows = [["(start)", *(f"{value:.1%}" for value in matrix.base)]]
    for i, task in enumerate(matrix.tasks):
        cells = [f"{matrix.acc[i, j]:.1%} ({100 * matrix.effect[i, j]:+.1f})" for j in range(len(matrix.tasks))]
        if matrix.se is not None:
            cells = [f"{cell} ± {100 * errors[i, j]:.1f}" for j, cell in enumerate(cells)]
        rows.append([task, *cells])
    return _table(head, rows)


def order_table(matrix: TransferMatrix, forecasts: Sequence[tuple[str, Forecast, Stability | None]]) -> str:
    """One line an order: by which rule, its predicted mean and worst task, and in how many draws another is best."""
    rows: list[Row] = []
    for rule, forecast, stability in forecasts:
        worst = matrix.tasks[forecast.worst]
        mean = f"{forecast.mean:.1%}" + ("" if matrix.se is None else f" ± {100 * forecast.mean_se:.1f}")
        changed = "" if stability is None else f"{stability.changed:.0%}"
        order = " > ".join(matrix.tasks[i] for i in forecast.order)
        rows.append([rule, order, mean, f"{worst} {forecast.final[forecast.worst]:.1%}", changed])
    return _table(["rule", "order", "predicted mean", "worst task", "another is best in"], rows)


def staged_table(matrix: TransferMatrix, forecast: Forecast, *, start: Matrix, results: Matrix, title: str) -> str:
    """Predicted against realised of one staged run, in the order of its stages: `results[t, i]` is the success of the
    i-th stage's task after stage t, `start[i]` before the first one."""
    own, last = np.diag(results), results[-1]
    rows: list[Row] = []
    for at, j in enumerate(forecast.order):
        predicted_loss = float(matrix.acc[j, j] - forecast.final[j])
        rows.append(
            [
                matrix.tasks[j],
                f"{start[at]:.1%}",
                f"{matrix.acc[j, j]:.1%}",
                f"{own[at]:.1%}",
                f"{forecast.final[j]:.1%}",
                f"{last[at]:.1%}",
                f"{100 * predicted_loss:+.1f}",
                f"{100 * (own[at] - last[at]):+.1f}",
            ]
        )
    head = [
        "task",
        "start",
        "own stage: predicted",
        "realised",
        "end: predicted",
        "realised",
        "forgotten: predicted",
        "realised",
    ]
    told = [title, _table(head, rows)]
    told.append(f"mean at the end: predicted {forecast.mean:.1%}, realised {float(last.mean()):.1%}")
    if len(results) > 1:
        told.append(
            f"backward transfer (negative: forgetting): realised {100 * backward_transfer(results):+.1f} points"
        )
    return "\n".join(told)


def _table(head: Row, rows: Sequence[Row]) -> str:
    widths = [max(len(row[n]) for row in (head, *rows)) for n in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    ]
    return "\n".join([lines[0], "-" * sum(widths, 2 * (len(widths) - 1)), *lines[1:]])
