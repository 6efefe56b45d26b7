"""What `calibrate` and `decide` show: tables for a terminal, and the files of an output directory.

Owns: the names and forms of those files. Must not know: how anything was decided.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from critique_rl.decisions.costs import CostDecisions
from critique_rl.decisions.deciding import Decided
from critique_rl.decisions.fitting import Fitted
from critique_rl.decisions.records import ClassRecord, ConfidenceRecord
from critique_rl.stats.forecasts import ForecastFigures

Json = dict[str, object]


def calibration_text(fitted: Fitted) -> str:
    """The method with its parameters, and the held-out figures before and after."""
    made = fitted.calibrator
    shape = {
        "temperature": f"temperature {made.temperature:.4g}",
        "platt": f"platt, slope {made.slope:.4g}, intercept {made.intercept:.4g}",
        "isotonic": f"isotonic, {len(made.knots)} knots",
    }[made.method]
    losses = ", ".join(f"{name} {loss:.4f}" for name, loss in fitted.log_losses.items())
    chosen = f" (cross-validated log loss: {losses})" if losses else ""
    head = ["held out", "records", "accuracy", "confidence", "ECE", "ECE equal mass", "Brier", "log loss", "AUROC"]
    rows = [head, _figures("before", fitted.before), _figures("after", fitted.after)]
    return (
        f"{shape}, fitted on {made.count} records{chosen}\n\n{_table(rows)}\n"
        f"calibrated records would have an ECE below {fitted.chance:.3f} in 99 of 100 cases"
    )


def decision_text(decided: Decided) -> str:
    """One line per regime; with the truth known also what it was worth."""
    head = ["regime", "threshold", "coverage"]
    judged = decided.curve is not None
    head += (
        ["right of answered", "utility", "95 %", "answer all", "best threshold", "its utility", "regret", "95 %"]
        if judged
        else ["expected utility"]
    )
    rows = [head]
    for entry in decided.table:
        row = [str(entry["regime"]), _number(entry["threshold"]), _percent(entry["coverage"])]
        if not judged:
            rows.append([*row, _number(entry["expected_utility"])])
            continue
        best = "none answered" if entry["best_threshold"] is None else _number(entry["best_threshold"])
        rows.append(
            [
                *row,
                _percent(entry["selective_accuracy"]),
                _number(entry["utility"]),
                _span(entry, "utility"),
                _number(entry["answer_all_utility"]),
                best,
                _number(entry["best_utility"]),
                _number(entry["regret"]),
                _span(entry, "regret"),
            ]
        )
    notes = [f"{entry['regime']}: {entry['note']}" for entry in decided.table if entry["note"]]
    if decided.curve is None:
        notes.append("no record says whether it was right, so nothing could be judged")
    else:
        curve = decided.curve
        notes.append(
            f"area under the risk-coverage curve {curve.area:.4f} (perfect ranking {curve.best_area:.4f}, by chance "
            f"{curve.error_rate:.4f})"
        )
    return "\n".join([_table(rows), *notes])


def cost_text(found: CostDecisions) -> str:
    """The share of each action, and the cost beside what it could have been."""
    report = found.report
    shares = cast("Mapping[str, float]", report["actions"])
    lines = [f"{name:<16} {share:7.1%}" for name, share in shares.items()]
    lines.append(f"expected cost per record {_number(report['expected_cost'])}")
    if report["threshold"] is not None:
        lines.append(f"threshold {_number(report['threshold'])}")
    if "cost" in report:
        lines += [
            f"cost per record {_number(report['cost'])} {_span(report, 'cost')}",
            f"best single action {report['best_single_action']}: {_number(report['best_single_cost'])}; saved "
            f"{_number(report['saving'])} {_span(report, 'saving')}",
            f"with the truth known {_number(report['hindsight_cost'])}; regret {_number(report['regret'])}",
        ]
    return "\n".join([*lines, *found.notes])


def write_decided(decided: Decided, directory: Path, *, about: Mapping[str, object]) -> list[Path]:
    """decision.json, decisions.jsonl (one line per case and regime), and, judged, curve.csv and curve.png."""
    directory.mkdir(parents=True, exist_ok=True)
    curve, figures = decided.curve, decided.figures
    report: Json = {**about, "regimes": decided.table, "warnings": list(decided.warnings)}
    if curve is not None and figures is not None:
        report["figures"] = figures._asdict()
        report["risk_coverage"] = {
            "area": curve.area,
            "best_area": curve.best_area,
            "error_rate": curve.error_rate,
            "curve": "curve.csv",
        }
    written = [_json(directory / "decision.json", report), _lines(directory / "decisions.jsonl", _choices(decided))]
    return written if curve is None else [*written, *_curve(decided, directory)]


def write_costs(
    found: CostDecisions,
    records: Sequence[ClassRecord] | Sequence[ConfidenceRecord],
    directory: Path,
    *,
    about: Mapping[str, object],
) -> list[Path]:
    """decision.json and decisions.jsonl."""
    directory.mkdir(parents=True, exist_ok=True)
    return [
        _json(directory / "decision.json", {**about, **found.report, "notes": list(found.notes)}),
        _lines(directory / "decisions.jsonl", _cheapest(found, records)),
    ]


def _choices(decided: Decided) -> Iterator[Json]:
    for n, case in enumerate(decided.cases):
        told = {"id": case.id, "group": case.group, "answer": case.answer, "confidence": case.confidence}
        known = {key: value for key, value in told.items() if value is not None}
        for regime, actions in zip(decided.regimes, decided.actions, strict=True):
            yield {
                "where": case.where,
                **known,
                "probability": case.probability,
                "regime": regime.name,
                "action": actions[n],
            }


def _cheapest(found: CostDecisions, records: Sequence[ClassRecord] | Sequence[ConfidenceRecord]) -> Iterator[Json]:
    for record, action, cost in zip(records, found.actions, found.expected_costs.tolist(), strict=True):
        known = {} if record.id is None else {"id": record.id}
        yield {"where": record.where, **known, "expected_cost": cost, "action": action}


def _curve(decided: Decided, directory: Path) -> list[Path]:
    from critique_rl.report.decision_chart import draw_risk_coverage

    curve, regimes = decided.curve, decided.regimes
    assert curve is not None
    table, picture = directory / "curve.csv", directory / "curve.png"
    with table.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(
            ["threshold", "coverage", "risk", "selective_accuracy", *(f"utility, {one.name}" for one in regimes)]
        )
        for point in curve.points:
            worth = [
                point.coverage * one.utilities.expected(1 - point.risk) + (1 - point.coverage) * one.utilities.abstain
                for one in regimes
            ]
            out.writerow([*point, 1 - point.risk, *worth])
    marks = [
        (str(entry["regime"]), cast(float, entry["coverage"]), 1 - cast(float, entry["selective_accuracy"]))
        for entry in decided.table
        if entry["selective_accuracy"] is not None
    ]
    draw_risk_coverage(
        [(point.coverage, point.risk) for point in curve.points],
        area=curve.area,
        error_rate=curve.error_rate,
        marks=marks,
        path=picture,
    )
    return [table, picture]


def _figures(name: str, figures: ForecastFigures) -> list[str]:
    auroc = "-" if figures.auroc is None else f"{figures.auroc:.4f}"
    shown = (figures.ece, figures.ece_equal_mass, figures.brier, figures.log_loss)
    means = (f"{figures.accuracy:.1%}", f"{figures.mean_confidence:.1%}")
    return [name, str(figures.records), *means, *(f"{value:.4f}" for value in shown), auroc]


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if n == 0 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _number(value: object) -> str:
    return f"{cast(float, value):.4g}"


def _percent(value: object) -> str:
    return "-" if value is None else f"{cast(float, value):.1%}"


def _span(entry: Mapping[str, object], name: str) -> str:
    return f"[{_number(entry[f'{name}_low'])}, {_number(entry[f'{name}_high'])}]"


def _json(path: Path, value: Mapping[str, object]) -> Path:
    path.write_text(json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def _lines(path: Path, rows: Iterator[Json]) -> Path:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    return path
