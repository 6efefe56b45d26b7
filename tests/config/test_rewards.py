"""The [rewards.NAME] sections."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from critique_rl.config.rewards import (
    ExactRewardConfig,
    FormatRewardConfig,
    MathVerifyRewardConfig,
    ReasoningGymRewardConfig,
    RewardConfig,
)

REWARDS: TypeAdapter[object] = TypeAdapter(RewardConfig)


@pytest.mark.parametrize(
    ("section", "kind"),
    [
        ({"kind": "exact", "pattern": r"\[\[(.+?)\]\]", "form": "[[...]]"}, ExactRewardConfig),
        ({"kind": "math_verify"}, MathVerifyRewardConfig),
        ({"kind": "format", "pattern": "x"}, FormatRewardConfig),
        ({"kind": "reasoning_gym"}, ReasoningGymRewardConfig),
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
    ],
)
def test_what_is_refused(section: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        REWARDS.validate_python(section)
