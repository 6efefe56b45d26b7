"""Trainer against sampler: a hand number, each token counted once, and limits that a broken number trips."""

from __future__ import annotations

import math

import numpy as np
import pytest

from critique_rl.stats.mismatch import judge_mismatch, logprob_mismatch


def test_hand_number() -> None:
    # differences .1, -.3, .2: mean size .6/3 = .2, worst .3, signed mean 0/3
    found = logprob_mismatch([[-1.0, -2.3], [-0.5]], [[-1.1, -2.0], [-0.7]])
    assert found is not None
    assert found.mean == pytest.approx(0.2) and found.worst == pytest.approx(0.3)
    assert found.bias == pytest.approx(0.0, abs=1e-12) and found.tokens == 3


def test_it_is_the_plain_loop_over_tokens_whatever_the_split() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=40), rng.normal(size=40)
    whole = logprob_mismatch([ours], [theirs])
    split = logprob_mismatch(np.split(ours, [3, 3, 30]), np.split(theirs, [3, 3, 30]))
    assert whole is not None and split is not None
    assert whole.mean == pytest.approx(sum(abs(a - b) for a, b in zip(ours, theirs, strict=True)) / 40)
    np.testing.assert_allclose(whole, split)


@pytest.mark.parametrize("empty", [[], [[]], [[], []]])
def test_no_token_is_no_number(empty: list[list[float]]) -> None:
    assert logprob_mismatch(empty, empty) is None


def test_shapes_that_differ() -> None:
    with pytest.raises(ValueError, match="completion 1: 1 trainer log-probs and 2"):
        logprob_mismatch([[-1.0], [-1.0]], [[-1.0], [-1.0, -2.0]])


@pytest.mark.parametrize(
    ("mean", "verdict"),
    [
        (0.0, "ok"),
        (0.05, "ok"),
        (0.0501, "alarm"),
        (0.2, "alarm"),
        (0.21, "abort"),
        (math.nan, "abort"),
        (math.inf, "abort"),
    ],
)
def test_limits(mean: float, verdict: str) -> None:
    assert judge_mismatch(mean, alarm=0.05, abort=0.2) == verdict


def test_limits_in_the_wrong_order() -> None:
    with pytest.raises(ValueError, match="alarm <= abort"):
        judge_mismatch(0.1, alarm=0.3, abort=0.2)
