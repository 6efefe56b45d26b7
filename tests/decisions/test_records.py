"""Records from other people's files: their keys, what is refused and where, and a split that tears no group."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from critique_rl.decisions.records import (
    ClassRecord,
    ConfidenceRecord,
    FieldNames,
    holds_probabilities,
    read_classes,
    read_confidences,
    split_records,
)
from critique_rl.errors import DataError

PLAIN = FieldNames()


def _file(tmp_path: Path, *rows: object) -> str:
    path = tmp_path / "records.jsonl"
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(path)


def _record(n: int, group: str | None = None) -> ConfidenceRecord:
    return ConfidenceRecord(where=f"line {n}", confidence=0.5, correct=n % 2 == 0, group=group)


def test_a_record_is_read_and_other_keys_are_passed_over(tmp_path: Path) -> None:
    row = {"confidence": 1, "correct": False, "group": 7, "answer": "x", "id": 3, "logits": [1, 2]}
    path = _file(tmp_path, row, "", {**row, "correct": 1.0, "id": None})
    first, second = read_confidences(path, FieldNames(group="group"), labelled=True, answers=True)
    assert first == ConfidenceRecord(
        where=f"{path}, line 1", confidence=1.0, correct=False, answer="x", group="7", id="3"
    )
    assert (second.where, second.correct, second.id) == (f"{path}, line 3", True, None)


def test_fields_may_have_other_names(tmp_path: Path) -> None:
    path = _file(tmp_path, {"p": 0.25, "ok": True, "question": "q"})
    names = FieldNames(confidence="p", correct="ok", group="question")
    assert read_confidences(path, names, labelled=True)[0].group == "q"


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"correct": True}, "line 2: confidence is missing or null; wanted a number from 0 to 1"),
        ({"confidence": None, "correct": True}, "line 2: confidence is missing or null"),
        ({"confidence": "95%", "correct": True}, 'line 2: confidence is "95%"; wanted a number from 0 to 1'),
        ({"confidence": "0.95", "correct": True}, 'line 2: confidence is "0.95"; wanted a number'),
        ({"confidence": 95, "correct": True}, "line 2: confidence is 95; .*divide percentages by 100"),
        ({"confidence": 10**400, "correct": True}, "line 2: confidence is 1000"),
        ({"confidence": -0.1, "correct": True}, r"line 2: confidence is -0.1; wanted a number from 0 to 1$"),
        ({"confidence": True, "correct": True}, "line 2: confidence is true"),
        ('{"confidence": NaN, "correct": true}', "line 2: holds NaN"),
        ('{"confidence": 1e999, "correct": true}', "line 2: holds the number 1e999"),
        ({"confidence": 0.5}, "line 2: correct is missing or null; wanted true or false"),
        ({"confidence": 0.5, "correct": "yes"}, 'line 2: correct is "yes"'),
        ({"confidence": 0.5, "correct": 0.5}, "line 2: correct is 0.5"),
        ("{not json", "line 2: not JSON"),
        ("[0.5, true]", "line 2: got .*; wanted a JSON object"),
    ],
)
def test_a_bad_record_is_refused_with_its_line(tmp_path: Path, row: object, wanted: str) -> None:
    path = _file(tmp_path, {"confidence": 0.5, "correct": True}, row)
    with pytest.raises(DataError, match=wanted):
        read_confidences(path, PLAIN, labelled=True)


def test_answers_and_groups_must_be_there_where_they_are_needed(tmp_path: Path) -> None:
    path = _file(tmp_path, {"confidence": 0.5, "correct": True, "answer": [1]})
    with pytest.raises(DataError, match=r"answer is \[1\]; wanted a text or a whole number"):
        read_confidences(path, PLAIN, labelled=True, answers=True)
    with pytest.raises(DataError, match="topic is missing or null"):
        read_confidences(path, FieldNames(group="topic"), labelled=True)


def test_verdicts_are_in_all_records_or_in_none(tmp_path: Path) -> None:
    assert read_confidences(_file(tmp_path, {"confidence": 0.5}), PLAIN, labelled=False)[0].correct is None
    path = _file(tmp_path, {"confidence": 0.5, "correct": True}, {"confidence": 0.5})
    with pytest.raises(DataError, match="line 2: correct is missing, and other records have it"):
        read_confidences(path, PLAIN, labelled=False)


def test_a_file_without_records_is_refused(tmp_path: Path) -> None:
    for path in (_file(tmp_path), _file(tmp_path, "", "")):
        with pytest.raises(DataError, match="holds no records"):
            read_confidences(path, PLAIN, labelled=True)
        with pytest.raises(DataError, match="holds no records"):
            read_classes(path, PLAIN, classes=("0", "1"))
        assert not holds_probabilities(path, PLAIN)


def test_class_records(tmp_path: Path) -> None:
    path = _file(
        tmp_path, {"probabilities": [0.2, 0.8], "label": "cat", "id": "a"}, {"probabilities": [1, 0], "label": 1}
    )
    assert holds_probabilities(path, PLAIN)
    assert read_classes(path, PLAIN, classes=("cat", "dog")) == [
        ClassRecord(where=f"{path}, line 1", probabilities=(0.2, 0.8), label=0, id="a"),
        ClassRecord(where=f"{path}, line 2", probabilities=(1.0, 0.0), label=1),
    ]
    assert read_classes(_file(tmp_path, {"probabilities": [0.5, 0.5]}), PLAIN, classes=("0", "1"))[0].label is None


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({}, "probabilities is missing or null; wanted a list of 2 numbers"),
        ({"probabilities": [0.5, 0.3, 0.2]}, "wanted a list of 2 numbers"),
        ({"probabilities": [0.5, 0.6]}, "with sum 1"),
        ({"probabilities": [1.5, -0.5]}, "from 0 to 1"),
        ({"probabilities": ["0.5", 0.5]}, "numbers from 0 to 1"),
        ({"probabilities": 0.5}, "probabilities is 0.5; wanted a list"),
        ({"probabilities": [0.5, 0.5], "label": 2}, "label is 2; wanted one of cat, dog"),
        ({"probabilities": [0.5, 0.5], "label": "cow"}, 'label is "cow"'),
        ({"probabilities": [0.5, 0.5], "label": True}, "label is true"),
    ],
)
def test_a_bad_class_record_is_refused(tmp_path: Path, row: dict[str, object], wanted: str) -> None:
    with pytest.raises(DataError, match=f"line 1: .*{wanted}"):
        read_classes(_file(tmp_path, row), PLAIN, classes=("cat", "dog"))


# -- the split ---------------------------------------------------------------------------------------------------------


@given(sizes=st.lists(st.integers(1, 4), min_size=2, max_size=12), share=st.floats(0.01, 0.99), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_a_split_tears_no_group_and_loses_nothing(sizes: list[int], share: float, seed: int) -> None:
    records = [_record(n * 10 + i, f"g{n}") for n, size in enumerate(sizes) for i in range(size)]
    fit, held = split_records(records, held_out=share, seed=seed)
    assert sorted(r.where for r in [*fit, *held]) == sorted(r.where for r in records)
    assert {r.group for r in fit}.isdisjoint({r.group for r in held})
    groups = len({r.group for r in held})
    assert groups == min(max(1, round(share * len(sizes))), len(sizes) - 1)


def test_a_split_depends_on_the_seed_only() -> None:
    records = [_record(n) for n in range(30)]
    one = split_records(records, held_out=0.3, seed=1)
    assert len(one.held_out) == 9
    assert one == split_records(records, held_out=0.3, seed=1)
    assert one != split_records(records, held_out=0.3, seed=2)


def test_what_cannot_be_split_is_refused() -> None:
    with pytest.raises(DataError, match="1 record cannot be split"):
        split_records([_record(0)], held_out=0.5, seed=0)
    with pytest.raises(DataError, match="3 records of one group cannot be split"):
        split_records([_record(n, "g") for n in range(3)], held_out=0.5, seed=0)
