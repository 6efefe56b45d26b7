"""Importance weights of old rollouts: by hand, truncated, and only where there is a ratio."""

from __future__ import annotations

import dataclasses
import math

import pytest

from critique_rl.loop.offpolicy import correct_for_age
from critique_rl.types import Group
from tests.loop.fakes import CharPolicy, critique, group, task


def aged(*texts: str, version: int, logprob: float | None) -> Group:
    """A criticised group, sampled by policy `version` at `logprob` a token (None: not known)."""
    fresh = group(task(), *texts)
    rollouts = tuple(
        dataclasses.replace(
            r,
            policy_version=version,
            behaviour_logprobs=() if logprob is None else (logprob,) * len(r.completion_ids),
        )
        for r in fresh.rollouts
    )
    return dataclasses.replace(fresh, rollouts=rollouts, critiques={r.id: critique(r.id) for r in rollouts})


def policy(version: int, logprob: float) -> CharPolicy:
    made = CharPolicy(lambda _: logprob)
    made.version = version
    return made


@pytest.mark.parametrize(
    ("then", "now", "weight"),
    [
        (-1.0, -1.0 + math.log(1.5), 1.5),  # exp(log 1.5)
        (-1.0, -2.0, math.exp(-1.0)),
        (-3.0, -1.0, 2.0),  # exp(2) = 7.39, cut at the cap
        (-800.0, -1.0, 2.0),  # no overflow on the way to the cap
        (-1.0, -800.0, 0.0),
    ],
)
def test_weights_by_hand(then: float, now: float, weight: float) -> None:
    (corrected,) = correct_for_age([aged("41", version=2, logprob=then)], policy=policy(5, now), cap=2.0)
    assert corrected.corrections["t/0"] == pytest.approx([weight] * 3, abs=1e-12)  # "4", "1" and the end


def test_what_has_no_ratio_or_needs_none_is_left_alone() -> None:
    now = policy(5, -1.0)
    fresh, unknown = aged("41", version=5, logprob=-1.0), aged("41", version=2, logprob=None)
    uncriticised = dataclasses.replace(aged("41", version=2, logprob=-1.0), critiques={})
    assert correct_for_age([fresh, unknown, uncriticised], policy=now, cap=2.0) == [fresh, unknown, uncriticised]
    assert now.scored == []  # no forward pass for nothing
