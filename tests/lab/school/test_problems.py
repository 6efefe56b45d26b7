from __future__ import annotations

import pytest

from critique_rl.errors import ConfigError, DataError
from critique_rl.lab.problems import Split
from critique_rl.lab.school.problems import (
    FILLERS,
    KINDS,
    TOPICS,
    Kind,
    Recall,
    Sort,
    Sum,
    Write,
    kind_of,
    select_problems,
    split_size,
)
from critique_rl.lab.school.splits import split_of

SPLITS: tuple[Split, ...] = ("build", "train", "held_out")


def test_each_kind_by_hand() -> None:
    total = Sum(left=27, right=8)
    assert (total.question, total.answer, total.slip) == ("s 27+8=", "35", "36")
    assert (Sort(digits="4172").question, Sort(digits="4172").answer) == ("o 4172=", "1247")
    recall = Recall(letters="acbf", numbers=("41", "72", "25", "90"), asked=1)
    assert (recall.question, recall.answer) == ("r a41 c72 b25 f90 c=", "72")
    write = Write(topic="sea", banned=("wave", "salt"))
    assert (write.question, write.answer) == ("w sea wave salt=", "tide sand fish ship")
    assert len(write.fitting) == 6
    assert Write.parse(write.question) == write


@pytest.mark.parametrize("question", ["w sea wave tree=", "w moor wave salt=", "w sea wave=", "s 27+8="])
def test_a_line_about_nothing_is_refused(question: str) -> None:
    with pytest.raises(DataError, match="wanted a topic with two of its words"):
        Write.parse(question)


@pytest.mark.parametrize("kind", KINDS)
def test_splits_are_apart_and_selection_only_grows(kind: Kind) -> None:
    found = {s: select_problems(s, kind, 30, chain_length=5) for s in SPLITS}
    questions = [p.question for chosen in found.values() for p in chosen]
    assert len(set(questions)) == 90
    assert all(split_of(p.question) == s and kind_of(p) == kind for s, chosen in found.items() for p in chosen)
    assert select_problems("train", kind, 7, chain_length=5) == found["train"][:7]


def test_every_sum_has_two_digits_with_and_without_slips() -> None:
    for split in SPLITS:
        for p in select_problems(split, "sum", split_size(split, "sum", 0, chain_length=5), chain_length=5):
            assert isinstance(p, Sum)
            assert len(p.answer) == len(p.slip) == 2


def test_words_are_all_different() -> None:
    words = [*FILLERS, *TOPICS, *(word for topic in TOPICS.values() for word in topic)]
    assert len(set(words)) == len(words)


def test_too_many_are_refused_and_sizes_are_told() -> None:
    assert split_size("train", "write", 5, chain_length=5) == 31
    assert split_size("train", "chain", 5, chain_length=5) == 5
    with pytest.raises(ConfigError, match=r"32 problems of the kind 'write' .* split 'train', which has 31"):
        select_problems("train", "write", 32, chain_length=5)
