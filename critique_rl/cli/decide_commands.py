"""`calibrate` and `decide`: from stated confidences to decisions at any price of a mistake, without training again.

Owns: their flags and what they print. Must not know: how anything is fitted or decided.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from critique_rl.cli.numbers import count, seed
from critique_rl.cli.run_records import fitted_on, from_run
from critique_rl.errors import ConfigError, DataError

if TYPE_CHECKING:
    from critique_rl.decisions.deciding import Regime
    from critique_rl.decisions.fitting import Choice
    from critique_rl.decisions.records import FieldNames
    from critique_rl.stats.decisions import Pooling

METHODS = ("auto", "temperature", "platt", "isotonic")
RECORDS = ".jsonl or .parquet, one record a line (other keys are passed over), or the directory of a finished run"


def add_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:  # pyright: ignore[reportPrivateUsage]
    """The two verbs; neither reads a run file."""
    fit = verbs.add_parser("calibrate", help="make stated confidences believable: fit on one part, judge on the other")
    fit.add_argument("records", metavar="RECORDS", help=RECORDS)
    fit.add_argument("--output", required=True, metavar="FILE.json", help="the calibrator, as `decide` reads it")
    fit.add_argument("--method", choices=METHODS, default="auto", help="default: what cross-validation likes best")
    fit.add_argument("--held-out", default="0.5", metavar="SHARE", help="judged on, never fitted on; default 0.5")
    fit.add_argument("--seed", type=seed, default=0, metavar="N", help="which records are held out; default 0")
    fit.add_argument("--group", metavar="FIELD", help="records with equal values of this field stay on one side")
    _field_flags(fit)
    fit.add_argument("--strict", action="store_true", help="refuse with exit code 2 where there would be a warning")
    decide = verbs.add_parser("decide", help="answer or abstain: thresholds from utilities or costs, and their worth")
    decide.add_argument("records", metavar="RECORDS", help=RECORDS)
    believe = decide.add_mutually_exclusive_group()
    believe.add_argument("--calibrator", metavar="FILE.json", help="as `calibrate` wrote it")
    believe.add_argument("--raw", action="store_true", help="believe the confidences as they are")
    believe.add_argument(
        "--class-weights", nargs="+", metavar="W", help="undo the training loss's weights: of right, or one per class"
    )
    price = decide.add_mutually_exclusive_group()
    price.add_argument("--utilities", nargs="+", metavar="C,W,A", help="of right, wrong, abstain: 1,-4,0 (=-1,-9,-3)")
    price.add_argument("--penalty", nargs="+", metavar="L", help="short for 1,-L,0; one row each")
    price.add_argument("--costs", metavar="FILE.json", help="rows: actions (any may be to abstain), columns: classes")
    decide.add_argument("--pool", choices=("mean", "vote"), help="several answers per group: one decision per group")
    decide.add_argument("--group", metavar="FIELD", help="names the question; with --pool the default is group")
    decide.add_argument("--answer", metavar="FIELD", help="for --pool; default answer")
    decide.add_argument("--probabilities", metavar="FIELD", help="for --costs, in place of a confidence")
    decide.add_argument("--label", metavar="FIELD", help="the true class, for --costs; may be absent")
    _field_flags(decide)
    decide.add_argument("--output", metavar="DIR", help="decision.json, decisions.jsonl, curve.csv, curve.png")
    decide.add_argument("--draws", type=count, default=1000, metavar="N", help="resamples behind each interval")
    decide.add_argument("--seed", type=seed, default=0, metavar="N", help="of the resamples; default 0")
    decide.add_argument("--strict", action="store_true", help="refuse with exit code 2 where there would be a warning")


def handle(known: argparse.Namespace) -> int:
    """Run the verb that was parsed."""
    if known.verb == "calibrate":
        known.from_run = from_run(known)
        return _calibrate(known)
    if not (known.utilities or known.penalty or known.costs):
        raise ConfigError("decide needs what a mistake costs: --utilities C,W,A, --penalty L or --costs FILE.json")
    if not (known.calibrator or known.raw or known.class_weights):
        raise ConfigError(
            "decide needs --calibrator FILE.json (`critique-rl calibrate` makes one), --raw to believe the confidences "
            "as they are, or --class-weights to undo those of the training loss"
        )
    for flag, given, needed, present in (
        ("--answer", known.answer, "--pool", known.pool),
        ("--probabilities", known.probabilities, "--costs", known.costs),
        ("--label", known.label, "--costs", known.costs),
        ("--pool", known.pool, "--utilities or --penalty", not known.costs),
    ):
        if given and not present:
            raise ConfigError(f"{flag} has an effect with {needed} only; leave it out, or add that")
    known.from_run = from_run(known)
    if known.calibrator:
        _warn(fitted_on(str(known.records), Path(known.calibrator)), strict=known.strict)
    return _decide_by_costs(known) if known.costs else _decide(known)


def _calibrate(known: argparse.Namespace) -> int:
    held_out = _number(str(known.held_out), "--held-out")
    if not 0 < held_out < 1:
        raise ConfigError(f"--held-out is {known.held_out}; wanted a share between 0 and 1, such as 0.5")
    from critique_rl.decisions.fitting import calibrate, save
    from critique_rl.decisions.records import read_confidences
    from critique_rl.decisions.writing import calibration_text

    records = read_confidences(str(known.records), _names(known), labelled=True)
    fitted = calibrate(records, method=cast("Choice", known.method), held_out=held_out, seed=known.seed)
    _warn(fitted.warnings, strict=known.strict)
    about = {**_about(known), "held_out_share": held_out, "seed": known.seed, "group": known.group}
    save(fitted, Path(known.output), about=about)
    print(f"{calibration_text(fitted)}\ncalibrator: {known.output}")
    return 0


def _decide(known: argparse.Namespace) -> int:
    regimes = _regimes(known)
    if known.class_weights and len(known.class_weights) != 1:
        raise ConfigError("--class-weights: a confidence has one weight, that of right answers in the training loss")
    from critique_rl.decisions.deciding import believed, decide, pooled
    from critique_rl.decisions.fitting import load
    from critique_rl.decisions.records import read_confidences
    from critique_rl.decisions.writing import decision_text, write_decided

    calibrator = load(Path(known.calibrator)) if known.calibrator else None
    weights = _weights(known)
    records = read_confidences(str(known.records), _names(known), labelled=False, answers=bool(known.pool))
    cases = believed(records, calibrator, class_weight=weights[0] if weights else None)
    if known.pool:
        cases = pooled(cases, cast("Pooling", known.pool))
    decided = decide(cases, regimes, draws=known.draws, seed=known.seed)
    _warn(decided.warnings, strict=known.strict)
    print(decision_text(decided))
    if known.output:
        about = {**_about(known), "calibrator": known.calibrator, "pool": known.pool, "seed": known.seed}
        _list(write_decided(decided, Path(known.output), about=about))
    return 0


def _decide_by_costs(known: argparse.Namespace) -> int:
    import numpy as np

    from critique_rl.decisions.costs import decide_by_costs, read_costs
    from critique_rl.decisions.deciding import believed
    from critique_rl.decisions.fitting import load
    from critique_rl.decisions.records import holds_probabilities, read_classes, read_confidences, unit_names
    from critique_rl.decisions.writing import cost_text, write_costs
    from critique_rl.stats.decisions import unweight_classes

    costs, names, weights = read_costs(Path(known.costs)), _names(known), _weights(known)
    if holds_probabilities(str(known.records), names):
        if known.calibrator:
            raise ConfigError("a calibrator maps one confidence, not class probabilities; say --raw or --class-weights")
        if weights and len(weights) != len(costs.classes):
            raise ConfigError(f"--class-weights came with {len(weights)} numbers; wanted {len(costs.classes)}")
        records = read_classes(str(known.records), names, classes=costs.classes)
        p = np.array([record.probabilities for record in records])
        p = unweight_classes(p, weights) if weights else p
        labels = [record.label for record in records]
    else:
        if len(costs.classes) != 2 or len(weights) > 1:
            raise ConfigError(
                f"records with a confidence have two classes, wrong and right, and one class weight; {known.costs} has "
                f"{len(costs.classes)} columns and --class-weights {len(weights)} numbers"
            )
        records = read_confidences(str(known.records), names, labelled=False)
        calibrator = load(Path(known.calibrator)) if known.calibrator else None
        cases = believed(records, calibrator, class_weight=weights[0] if weights else None)
        p = np.array([[1 - case.probability, case.probability] for case in cases])
        labels = [None if record.correct is None else int(record.correct) for record in records]
    found = decide_by_costs(
        p,
        costs,
        labels=[label for label in labels if label is not None] or None,
        units=unit_names(records),
        draws=known.draws,
        seed=known.seed,
    )
    print(cost_text(found))
    if known.output:
        about = {**_about(known), "calibrator": known.calibrator, "costs": known.costs, "seed": known.seed}
        _list(write_costs(found, records, Path(known.output), about=about))
    return 0


def _regimes(known: argparse.Namespace) -> list[Regime]:
    """One per set of utilities. Errors: ConfigError."""
    from critique_rl.decisions.deciding import Regime
    from critique_rl.stats.decisions import Utilities

    def made(flag: str, text: str) -> Regime:
        numbers = [_number(part, flag) for part in text.split(",")]
        if len(numbers) != (3 if flag == "--utilities" else 1):
            wanted = "three numbers C,W,A: of right, wrong and abstain" if flag == "--utilities" else "one number"
            raise ConfigError(f"{flag} is {text!r}; wanted {wanted}")
        try:
            if flag == "--penalty":
                return Regime(name=f"penalty {numbers[0]:g}", utilities=Utilities.of_penalty(numbers[0]))
            correct, wrong, abstain = numbers
            return Regime(name=text, utilities=Utilities(correct=correct, wrong=wrong, abstain=abstain))
        except ValueError as error:
            raise ConfigError(f"{flag} {text}: {error}") from None

    flag, given = ("--utilities", known.utilities) if known.utilities else ("--penalty", known.penalty)
    regimes = [made(flag, text) for text in cast("Sequence[str]", given)]
    twice = next((r.name for r in regimes if [other.name for other in regimes].count(r.name) > 1), None)
    if twice is not None:
        raise ConfigError(f"{flag}: {twice!r} came twice; wanted different ones")
    return regimes


def _weights(known: argparse.Namespace) -> list[float]:
    weights = [_number(str(text), "--class-weights") for text in known.class_weights or ()]
    if any(weight <= 0 for weight in weights):
        raise ConfigError(f"--class-weights are {known.class_weights}; wanted numbers above 0")
    return weights


def _number(text: str, flag: str) -> float:
    """A finite number. Errors: ConfigError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"{flag} holds {text!r}; wanted a finite number")
    return value


def _field_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--confidence", default="confidence", metavar="FIELD", help="0 to 1; default confidence")
    command.add_argument("--correct", default="correct", metavar="FIELD", help="true or false; default correct")


def _names(known: argparse.Namespace) -> FieldNames:
    from critique_rl.decisions.records import FieldNames

    if known.verb == "calibrate":
        return FieldNames(
            confidence=known.confidence, correct=known.correct, group=known.group, skips_missing=known.from_run
        )
    return FieldNames(
        skips_missing=known.from_run,
        confidence=known.confidence,
        correct=known.correct,
        answer=known.answer or "answer",
        group=known.group or ("group" if known.pool else None),
        probabilities=known.probabilities or "probabilities",
        label=known.label or "label",
    )


def _about(known: argparse.Namespace) -> dict[str, object]:
    return {"command": shlex.join(["critique-rl", *sys.argv[1:]]), "source": str(known.records)}


def _warn(warnings: Sequence[str], *, strict: bool) -> None:
    if warnings and strict:
        raise DataError(f"--strict: {'; '.join(warnings)}")
    for warning in warnings:
        print(f"critique-rl: warning: {warning}", file=sys.stderr)


def _list(paths: Sequence[Path]) -> None:
    print("\n".join(str(path) for path in paths))
