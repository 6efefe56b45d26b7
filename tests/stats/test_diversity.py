"""Surface diversity: the spec's numbers, plain loops, invariances, degenerate sets."""

from __future__ import annotations

import builtins
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from critique_rl.errors import MissingExtraError
from critique_rl.stats.diversity import (
    distinct_n,
    jaccard_kernel,
    mean_overlap,
    normal_query,
    self_bleu,
    unique_ratio,
    vendi,
)

SAMPLES = ["a b c d", "a b c e", "a b c d"]
QUERIES = ["capital of france", "capital city of france", "paris population"]
WORDS = st.lists(st.sampled_from("abcd"), max_size=6)


def test_9_6_distinct_n() -> None:
    words = [sample.split() for sample in SAMPLES]
    assert distinct_n(words, 1) == pytest.approx(5 / 12)  # a b c d e among 12
    assert distinct_n(words, 2) == pytest.approx(4 / 9)  # ab bc cd ce among 9


def test_9_6_self_bleu() -> None:
    values = self_bleu(SAMPLES, 2)
    # The second: 3 of 4 words and 2 of 3 pairs are found, sqrt(3/4 * 2/3); the others are copies.
    assert values == pytest.approx([1.0, math.sqrt(0.5), 1.0], abs=1e-9)
    assert sum(values) / 3 == pytest.approx(0.902369, abs=1e-6)


def test_9_6_queries() -> None:
    sets = [frozenset(query.split()) for query in QUERIES]
    kernel = jaccard_kernel(sets)
    assert [kernel[0, 1], kernel[0, 2], kernel[1, 2]] == [0.75, 0.0, 0.0]
    overlap = mean_overlap(sets)
    assert overlap is not None and 1 - overlap == pytest.approx(0.75)


def test_9_6_vendi() -> None:
    kernel = np.array([[1, 0.6, 0], [0.6, 1, 0], [0, 0, 1]])
    # K / 3 has the eigenvalues 1.6/3, 0.4/3 and 1/3
    assert vendi(kernel) == pytest.approx(2.63825, abs=1e-5)


def test_the_ends_of_vendi() -> None:
    assert vendi(np.ones((5, 5))) == pytest.approx(1.0)
    assert vendi(np.eye(5)) == pytest.approx(5.0)
    twice = np.kron(np.eye(3), np.ones((2, 2)))  # three pairs of copies
    assert vendi(twice) == pytest.approx(3.0)


@given(st.lists(WORDS, max_size=6), st.integers(1, 3))
def test_distinct_against_a_plain_loop(samples: list[list[str]], n: int) -> None:
    grams = [tuple(s[i : i + n]) for s in samples for i in range(len(s) - n + 1)]
    assert distinct_n(samples, n) == (len(set(grams)) / len(grams) if grams else None)
    assert distinct_n(samples[::-1], n) == distinct_n(samples, n)


def bleu_by_hand(sample: str, others: list[str], order: int) -> float:
    """Clipped counts, geometric mean, closest reference length (the shorter of two as close), no smoothing."""
    words = sample.split()
    logs = 0.0
    for n in range(1, order + 1):
        own = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        most: Counter[tuple[str, ...]] = Counter()
        for other in others:
            o = other.split()
            most |= Counter(tuple(o[i : i + n]) for i in range(len(o) - n + 1))
        matched = sum((own & most).values())
        if not matched:
            return 0.0
        logs += math.log(matched / own.total()) / order
    closest = min((abs(len(o.split()) - len(words)), len(o.split())) for o in others)[1]
    return math.exp(logs + min(0.0, 1 - closest / len(words)))


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=5).map(" ".join), min_size=2, max_size=5))
def test_self_bleu_against_a_plain_loop(samples: list[str]) -> None:
    wanted = [bleu_by_hand(s, samples[:i] + samples[i + 1 :], 2) for i, s in enumerate(samples)]
    assert self_bleu(samples, 2) == pytest.approx(wanted, abs=1e-9)


def test_brevity_by_hand() -> None:
    # "a b" against "a b c d": both orders match in full, exp(1 - 4/2)
    assert self_bleu(["a b", "a b c d"], 2)[0] == pytest.approx(math.exp(-1))


def test_self_bleu_of_too_little() -> None:
    assert self_bleu([], 2) == self_bleu(["a b"], 2) == []
    assert self_bleu(["", ""], 1) == [0.0, 0.0]
    with pytest.raises(ValueError, match="order is 0"):
        self_bleu(SAMPLES, 0)


def test_without_sacrebleu_the_message_has_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *arguments: object) -> object:
        if name.startswith("sacrebleu"):
            raise ImportError(name)
        return real(name, *arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingExtraError, match=r"pip install 'critique-rl\[diversity\]'"):
        self_bleu(SAMPLES, 2)


def test_queries_that_differ_in_case_and_space_are_one() -> None:
    assert normal_query("  Capital  of\tFrance ") == "capital of france"
    assert unique_ratio(["Capital of France", "capital  of france", "paris"]) == pytest.approx(2 / 3)
    assert unique_ratio([]) is None


@given(st.lists(st.frozensets(st.integers(0, 6), max_size=5), min_size=2, max_size=6))
def test_overlap_against_a_plain_loop(sets: list[frozenset[int]]) -> None:
    pairs = [(a, b) for i, a in enumerate(sets) for b in sets[:i]]
    wanted = sum(len(a & b) / len(a | b) if a | b else 1.0 for a, b in pairs) / len(pairs)
    assert mean_overlap(sets) == pytest.approx(wanted)
    kernel = jaccard_kernel(sets)
    assert np.linalg.eigvalsh(kernel).min() > -1e-9  # what vendi needs of it
    assert 1 - 1e-9 <= vendi(kernel) <= len(sets) + 1e-9


def test_overlap_of_one_set_is_unknown() -> None:
    assert mean_overlap([frozenset({1})]) is None
    assert mean_overlap([]) is None


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        (np.zeros((0, 0)), "square symmetric"),
        (np.ones((2, 3)), "square symmetric"),
        (np.array([[1.0, 0.2], [0.3, 1.0]]), "square symmetric"),
        (np.array([[1.0, 0.2], [0.2, 0.5]]), "ones on its diagonal"),
        (np.array([[1.0, 2.0], [2.0, 1.0]]), "eigenvalue -1"),
    ],
)
def test_kernels_that_are_none(kernel: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        vendi(kernel)


def test_n_below_one() -> None:
    with pytest.raises(ValueError, match="n is 0"):
        distinct_n([["a"]], 0)
