"""Formats found by structure: fitted once, then frozen, with a bucket for what was not there at first."""

from __future__ import annotations

import json

import numpy as np
import pytest

from critique_rl.errors import CheckpointError
from critique_rl.monitors.clusters import StructureClusters, features

CODE = ["def f(x):\n    y = x + 1\n    return y\nprint(f(3))", "def g(a):\n    b = a * 2\n    return b\nprint(g(41))"]
PROSE = ["First we add the two numbers and get seven.", "We take the sum of them all, and that is it."]
STEPS = ["1. Add.\n2. Carry.\n3. Done.", "1. Take.\n2. Give.\n3. Stop."]


def fitted(count: int = 2, seed: int = 0) -> StructureClusters:
    clusters = StructureClusters(count, seed=seed)
    clusters.fit([*CODE * 3, *PROSE * 5])
    return clusters


def test_code_and_prose_are_two_formats_and_the_commoner_is_the_first() -> None:
    clusters = fitted()
    assert clusters.names == ("cluster_0", "cluster_1", "other")
    assert clusters.label([*CODE, *PROSE]) == ["cluster_1"] * 2 + ["cluster_0"] * 2
    assert clusters.label(["Then we add three more numbers and have nine."]) == ["cluster_0"]


def test_a_format_that_was_not_there_at_first_is_other() -> None:
    assert fitted().label(["| a | b |\n|---|---|\n" + "| 1 | 2 |\n" * 40]) == ["other"]


def test_frozen_after_the_first_texts() -> None:
    clusters = fitted()
    before = clusters.state_dict()
    clusters.fit(STEPS * 20)
    assert clusters.state_dict() == before


def test_the_state_is_plain_json_and_labels_alike() -> None:
    clusters = fitted()
    other = StructureClusters(2, seed=99)
    other.load_state_dict(json.loads(json.dumps(clusters.state_dict())))
    texts = [*CODE, *PROSE, *STEPS, ""]
    assert other.label(texts) == clusters.label(texts)


def test_more_clusters_than_different_texts() -> None:
    clusters = StructureClusters(8, seed=0)
    clusters.fit([*CODE[:1] * 3, *PROSE[:1]])
    assert clusters.label([CODE[0], PROSE[0]]) == ["cluster_0", "cluster_1"]


def test_equal_seeds_find_equal_clusters_of_many_texts() -> None:
    draw = np.random.default_rng(0)
    texts = ["word " * int(draw.integers(1, 60)) + "\n- x" * int(draw.integers(0, 9)) for _ in range(80)]
    found: list[list[str]] = []
    for _ in range(2):
        clusters = StructureClusters(4, seed=5)
        clusters.fit(texts)
        found.append(clusters.label(texts))
    assert found[0] == found[1]
    assert 1 < len(set(found[0])) <= 4
    assert "other" not in found[0]


def test_before_any_text_and_of_none() -> None:
    clusters = StructureClusters(2, seed=0)
    clusters.fit([])
    assert clusters.label(["x"]) == ["other"]
    assert fitted().label([]) == []


def test_features_of_nothing_are_numbers() -> None:
    assert np.isfinite(features("")).all()
    assert len(features("")) == len(features("x\n"))


def test_a_state_that_it_did_not_write() -> None:
    with pytest.raises(CheckpointError, match="format clusters"):
        fitted().load_state_dict({"centroids": "x"})
