"""The shape of a completion: judged, whatever the answer."""

from __future__ import annotations

import pytest

from critique_rl.errors import ConfigError
from critique_rl.rewards.format_reward import FormatReward
from critique_rl.types import Message, Score, ScoreStatus, Task

TASK = Task(id="t", messages=(Message(role="user", content="?"),), answer="42", verifier="format")


def test_a_text_with_the_shape() -> None:
    score = FormatReward(pattern=r"\[\[.+?\]\]", form="[[...]]").score(TASK, "so [[7]].")
    assert score == Score(reward=1.0, extracted="[[7]]", detail="the text has the form [[...]]")


@pytest.mark.parametrize("text", ["", "42", "[[]]"])
def test_a_text_without_the_shape_is_judged_not_unparsed(text: str) -> None:
    score = FormatReward(pattern=r"\[\[.+?\]\]", form="[[...]]").score(TASK, text)
    assert (score.reward, score.status) == (0.0, ScoreStatus.OK)
    assert score.detail == "the text does not have the form [[...]]"


def test_an_anchored_pattern_binds_the_whole_text() -> None:
    reward = FormatReward(pattern=r"\A\d+\Z")
    assert reward.score(TASK, "42").reward == 1.0
    assert reward.score(TASK, "42!").reward == 0.0


def test_an_unusable_pattern() -> None:
    with pytest.raises(ConfigError, match="is not a regular expression"):
        FormatReward(pattern="[")
