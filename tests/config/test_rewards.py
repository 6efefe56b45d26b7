"""The [rewards.NAME] sections."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from critique_rl.config.rewards import (
    TAGGED,
    TAGGED_FORM,
    ConfidenceRewardConfig,
    ExactRewardConfig,
    FormatRewardConfig,
    MathVerifyRewardConfig,
    ReasoningGymRewardConfig,
    RewardConfig,
)

REWARDS: TypeAdapter[object] = TypeAdapter(RewardConfig)
PAIR = "(?P<answer>.)(?P<confidence>.)"


@pytest.mark.parametrize(
    ("section", "kind"),
    [
        ({"kind": "exact", "pattern": r"\[\[(.+?)\]\]", "form": "[[...]]"}, ExactRewardConfig),
        ({"kind": "math_verify"}, MathVerifyRewardConfig),
        ({"kind": "format", "pattern": "x"}, FormatRewardConfig),
        ({"kind": "reasoning_gym"}, ReasoningGymRewardConfig),
        ({"kind": "with_confidence"}, ConfidenceRewardConfig),
        ({"kind": "with_confidence", "rule": "clipped_log", "eps": 0.05}, ConfidenceRewardConfig),
    ],
)
def test_kind_chooses_the_class(section: dict[str, object], kind: type) -> None:
    assert type(REWARDS.validate_python(section)) is kind


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        ({"kind": "regex"}, "kind"),
        ({"kind": "exact", "pattern": "("}, "is not a regular expression"),
        ({"kind": "exact", "pattern": "x"}, "has 0 groups; wanted exactly one"),
        ({"kind": "exact", "form": "[[...]]"}, "has no effect without pattern"),
        ({"kind": "format"}, "pattern"),
        ({"kind": "format", "pattern": "["}, "is not a regular expression"),
        ({"kind": "math_verify", "timeout_s": 0}, "greater than or equal to 1"),
        ({"kind": "exact", "case_fold": True}, "case_fold"),
        ({"kind": "with_confidence", "answer": {"kind": "with_confidence"}}, "answer"),
        ({"kind": "with_confidence", "answer": {"kind": "format", "pattern": "x"}}, "answer"),
        ({"kind": "with_confidence", "pattern": "(", "form": "x"}, "is not a regular expression"),
        ({"kind": "with_confidence", "pattern": "(?P<answer>.)", "form": "x"}, r"named groups \['answer'\]; wanted"),
        ({"kind": "with_confidence", "pattern": f"{PAIR}(?P<more>x)", "form": "x"}, "no other than"),
        ({"kind": "with_confidence", "pattern": PAIR}, "needs form"),
        ({"kind": "with_confidence", "answer": {"kind": "exact", "pattern": "(x)"}}, "needs form"),
        ({"kind": "with_confidence", "lenient": True, "divide_by": 10}, "ambiguous"),
        ({"kind": "with_confidence", "divide_by": 0}, "greater than 0"),
        ({"kind": "with_confidence", "rule": "log"}, "rule"),
        ({"kind": "with_confidence", "rule": "clipped_log"}, "clipped_log needs it"),
        ({"kind": "with_confidence", "eps": 0.01}, "others do not use it"),
        ({"kind": "with_confidence", "rule": "clipped_log", "eps": 0.5}, "less than 0.5"),
    ],
)
def test_what_is_refused(section: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        REWARDS.validate_python(section)


def test_a_confidence_reward_judges_the_tagged_answer_exactly_by_default() -> None:
    config = ConfidenceRewardConfig(kind="with_confidence")
    assert config.answer == ExactRewardConfig(kind="exact")
    assert (config.pattern, config.form, config.divide_by, config.rule) == (TAGGED, TAGGED_FORM, 1.0, "brier")


@pytest.mark.parametrize("own", [{}, {"pattern": PAIR, "form": "...5", "divide_by": 10}])
def test_a_confidence_reward_survives_the_resolved_run_file(own: dict[str, object]) -> None:
    config = REWARDS.validate_python({"kind": "with_confidence", "answer": {"kind": "math_verify"}, **own})
    assert isinstance(config, ConfidenceRewardConfig)
    assert REWARDS.validate_python(config.model_dump(mode="json")) == config
    assert (
        REWARDS.validate_python(config.model_dump(mode="json", exclude_defaults=True) | {"kind": config.kind}) == config
    )
