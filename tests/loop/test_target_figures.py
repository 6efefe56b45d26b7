"""How alike teacher and student are at the tokens that are taught: what `teach` reports at no pass of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from critique_rl.config.algorithm import DistillationConfig
from critique_rl.loop.targets import TeacherTally, teach
from critique_rl.types import Group, TeacherTargets, TokenIds
from tests.loop.fakes import TEMPLATE, CharPolicy, critique, group, task
from tests.loop.opinions import Opinions


def criticized(of: Group) -> Group:
    return replace(of, critiques={"t/0": critique("t/0")})


def opinions(**options: object) -> dict[str, float]:
    of = group(task(), "41")
    of = replace(of, rollouts=(replace(of.rollouts[0], completion_ids=(0, 1)),))
    tally, config = TeacherTally(), DistillationConfig.model_validate(options)
    teach([criticized(of)], policy=Opinions(), template=TEMPLATE, config=config, tally=tally)
    figures = {name: value for name, value in tally.figures().items() if name.startswith("distill/")}
    assert tally.tokens == (config.max_tokens or 2)
    return figures


def test_on_the_students_support_both_sides_are_known() -> None:
    # bins S (.5, .25, .25), T (.1, .6, .3); entropies as in tests/stats/test_overlap.py
    assert opinions(k=2, support="student") == pytest.approx(
        {
            "distill/teacher_mass": 0.70,
            "distill/student_mass": 0.75,
            "distill/overlap": 0.60,
            "distill/entropy_gap": 0.897946 - 1.039721,
        },
        abs=1e-6,
    )


def test_on_the_teachers_support_the_sampled_tokens_speak_for_the_student() -> None:
    # T's top two are 1 and 3: mass .8, and one of the two sampled tokens is among them
    assert opinions(k=2) == pytest.approx({"distill/teacher_mass": 0.80, "distill/sampled_in_support": 0.5})
    assert opinions(k=2, max_tokens=1) == pytest.approx(
        {"distill/teacher_mass": 0.80, "distill/sampled_in_support": 0.0}
    )


def test_of_the_sampled_token_alone_only_the_teachers_probability_is_known() -> None:
    assert opinions(support="sampled") == pytest.approx({"distill/teacher_mass": (0.1 + 0.6) / 2})


class FirstMissing(CharPolicy):
    """Its teacher has nothing usable at the first token."""

    def topk_logprobs(
        self,
        contexts: Sequence[TokenIds],
        completions: Sequence[TokenIds],
        *,
        k: int,
        who: Literal["policy", "teacher"],
        support: Sequence[TeacherTargets] | None = None,
    ) -> list[TeacherTargets]:
        found = super().topk_logprobs(contexts, completions, k=k, who=who, support=support)
        if who == "policy":
            return found
        for targets in found:
            targets.logprobs_TK[0], targets.mask_T[0] = np.nan, 0.0
        return found


def test_unusable_tokens_are_in_no_figure_and_nothing_taught_has_none() -> None:
    tally = TeacherTally()
    before = [criticized(group(task(), "41"))]
    teach(before, policy=FirstMissing(), template=TEMPLATE, config=DistillationConfig(support="student"), tally=tally)
    assert tally.tokens == 2
    assert tally.figures()["distill/overlap"] == pytest.approx(1.0)
    nothing = TeacherTally()
    teach([group(task(), "41")], policy=CharPolicy(), template=TEMPLATE, config=DistillationConfig(), tally=nothing)
    assert sorted(nothing.figures()) == [
        "teacher/over_budget",
        "teacher/scored",
        "teacher/shortened",
        "teacher/unscored",
    ]
