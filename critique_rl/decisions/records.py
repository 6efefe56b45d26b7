"""Records of confidences or class probabilities with their truth, from files that need not be ours.

Owns: the keys of such a record, their checks, and the split into two parts. Must not know: calibrators, costs.
A record may hold any other key; it is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np

from critique_rl.errors import DataError
from critique_rl.feedback.fields import shown
from critique_rl.feedback.row_sources import source_rows

Row = tuple[str, Mapping[str, object]]
SUM_SLACK = 1e-3  # probabilities are often written with three places


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldNames:
    """What the keys are called in the file. `group` None: no record belongs with another. `skips_missing`: records
    without a confidence are passed over, and are no error."""

    confidence: str = "confidence"
    correct: str = "correct"
    answer: str = "answer"
    group: str | None = None
    probabilities: str = "probabilities"
    label: str = "label"
    skips_missing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceRecord:
    """One answer: how sure its maker said to be, and whether it was right (None: nobody knows).

    `where` is its place in the file; `group` names the question, if several records answer the same one.
    """

    where: str
    confidence: float
    correct: bool | None = None
    answer: str | None = None
    group: str | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRecord:
    """One prediction: a probability for each class, and the number of the true one (None: nobody knows)."""

    where: str
    probabilities: tuple[float, ...]
    label: int | None = None
    group: str | None = None
    id: str | None = None


class Split(NamedTuple):
    """The records that a map is fitted on, and those that it is judged by."""

    fit: list[ConfidenceRecord]
    held_out: list[ConfidenceRecord]


def read_confidences(
    source: str, names: FieldNames, *, labelled: bool, answers: bool = False
) -> list[ConfidenceRecord]:
    """The records of a .jsonl or .parquet file (or hub:OWNER/NAME). Raises DataError naming the line and the key.

    `labelled`: each must say whether it was right; otherwise all or none must. `answers`: each must hold its answer.
    """
    found = [
        ConfidenceRecord(
            where=where,
            confidence=_share(value, names.confidence, where),
            correct=_verdict(value, names.correct, where) if labelled or names.correct in value else None,
            answer=_text(value, names.answer, where) if answers else None,
            group=_text(value, names.group, where) if names.group is not None else None,
            id=_optional_id(value),
        )
        for where, value in _rows(source, names)
    ]
    _check_all(source, [(record.where, record.correct is None) for record in found], names.correct)
    return found


def read_classes(source: str, names: FieldNames, *, classes: Sequence[str]) -> list[ClassRecord]:
    """The records of a file of class probabilities; a label is a class's number or name. Raises DataError."""
    found = [
        ClassRecord(
            where=where,
            probabilities=_shares(value, names.probabilities, where, len(classes)),
            label=_label(value, names.label, where, classes) if names.label in value else None,
            group=_text(value, names.group, where) if names.group is not None else None,
            id=_optional_id(value),
        )
        for where, value in _rows(source, names)
    ]
    _check_all(source, [(record.where, record.label is None) for record in found], names.label)
    return found


def holds_probabilities(source: str, names: FieldNames) -> bool:
    """Whether the first record has class probabilities. Raises DataError."""
    first = next(_rows(source, names), None)
    return first is not None and names.probabilities in first[1]


def split_records(records: Sequence[ConfidenceRecord], *, held_out: float, seed: int) -> Split:
    """`held_out` of the questions (records without a group are one each), drawn by `seed`, and the rest.

    All records of one group land on the same side. Raises DataError if one side would be empty.
    """
    units: dict[str, list[ConfidenceRecord]] = {}
    for unit, record in zip(unit_names(records), records, strict=True):
        units.setdefault(unit, []).append(record)
    if len(units) < 2:
        what = "1 record" if len(records) == 1 else f"{len(records)} records of one group"
        raise DataError(f"{what} cannot be split into a part to fit on and a part to judge by; wanted many more")
    names = list(units)
    drawn = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    kept = min(max(1, round(held_out * len(names))), len(names) - 1)
    held = set(drawn[:kept])
    sides: dict[bool, list[ConfidenceRecord]] = {True: [], False: []}
    for name, members in units.items():
        sides[name in held].extend(members)
    return Split(sides[False], sides[True])


def unit_names(records: Sequence[ConfidenceRecord | ClassRecord]) -> list[str]:
    """What must not be torn apart: one name per group, and one per record without a group."""
    return [f"record {n}" if r.group is None else f"group {r.group}" for n, r in enumerate(records)]


def _rows(source: str, names: FieldNames) -> Iterator[Row]:
    columns = [names.confidence, names.correct, names.answer, names.probabilities, names.label, "id"]
    for row in source_rows(source, [*columns, *([names.group] if names.group is not None else [])]):
        if row.error is not None:
            raise row.error
        stated = {key: value for key, value in row.value.items() if value is not None}
        if names.confidence in stated or not names.skips_missing:
            yield row.where, stated


def _check_all(source: str, rows: Sequence[tuple[str, bool]], key: str) -> None:
    """There are rows, and `key` is missing in all of them or in none. Raises DataError."""
    if not rows:
        raise DataError(f"{source!r} holds no records; wanted one JSON object a line")
    without = [where for where, missing in rows if missing]
    if 0 < len(without) < len(rows):
        raise DataError(f"{without[0]}: {key} is missing, and other records have it; wanted it in all or in none")


def _share(value: Mapping[str, object], key: str, where: str) -> float:
    number = value.get(key)
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise DataError(f"{where}: {key} is {_came(value, key)}; wanted a number from 0 to 1, such as 0.95")
    if not 0 <= number <= 1:
        hint = " (divide percentages by 100)" if 1 < number <= 100 else ""
        raise DataError(f"{where}: {key} is {_came(value, key)}; wanted a number from 0 to 1{hint}")
    return float(number)


def _verdict(value: Mapping[str, object], key: str, where: str) -> bool:
    verdict = value.get(key)
    if isinstance(verdict, bool):
        return verdict
    if isinstance(verdict, (int, float)) and verdict in (0, 1):
        return bool(verdict)
    raise DataError(f"{where}: {key} is {_came(value, key)}; wanted true or false (or 1 or 0)")


def _shares(value: Mapping[str, object], key: str, where: str, classes: int) -> tuple[float, ...]:
    given = value.get(key)
    wanted = f"a list of {classes} numbers from 0 to 1 with sum 1, one per class of the costs"
    if not isinstance(given, list):
        raise DataError(f"{where}: {key} is {_came(value, key)}; wanted {wanted}")
    shares = cast("list[object]", given)
    numbers = [float(x) for x in shares if isinstance(x, (int, float)) and not isinstance(x, bool) and 0 <= x <= 1]
    if len(numbers) != len(shares) or len(shares) != classes or abs(sum(numbers) - 1) > SUM_SLACK:
        raise DataError(f"{where}: {key} is {_came(value, key)}; wanted {wanted}")
    return tuple(numbers)


def _label(value: Mapping[str, object], key: str, where: str, classes: Sequence[str]) -> int:
    label = value.get(key)
    if isinstance(label, str) and label in classes:
        return classes.index(label)
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(classes):
        return label
    named = ", ".join(classes)
    raise DataError(f"{where}: {key} is {_came(value, key)}; wanted one of {named}, or its number from 0 on")


def _text(value: Mapping[str, object], key: str, where: str) -> str:
    text = value.get(key)
    if isinstance(text, (str, int)) and not isinstance(text, bool):
        return str(text)
    raise DataError(f"{where}: {key} is {_came(value, key)}; wanted a text or a whole number")


def _optional_id(value: Mapping[str, object]) -> str | None:
    found = value.get("id")
    return None if found is None else str(found)


def _came(value: Mapping[str, object], key: str) -> str:
    return shown(value[key]) if key in value else "missing or null"
