"""Where predicted critiques could do nothing, and where they would not be a cross-entropy."""

from __future__ import annotations

import pytest

from critique_rl.config.load import validate
from critique_rl.errors import ConfigError

BOTH: dict[str, object] = {"algorithm": {"name": "two_channel"}, "critic": {"kind": "lab_rules"}}
CRITIQUE_GRPO: dict[str, object] = {"algorithm": {"name": "critique_grpo"}, "critic": {"kind": "lab_rules"}}


@pytest.mark.parametrize("base", [BOTH, CRITIQUE_GRPO])
def test_they_are_off_and_can_be_turned_on(base: dict[str, object]) -> None:
    plain = validate(base, source="test").refinement
    assert plain.predict_critique == 0.0
    on = {"predict_critique": 0.1, "predict_prompt": "mine.md"}
    assert validate({**base, "refinement": on}, source="test").refinement.predict_critique == 0.1


@pytest.mark.parametrize(
    ("refinement", "fault"),
    [
        ({"predict_critique": 1.0, "ladder": ["verdict"]}, "predict_critique = 1.0 has no effect on ladder"),
        ({"predict_prompt": "mine.md"}, "predict_prompt has no effect without predict_critique"),
    ],
)
def test_what_cannot_be_is_refused(refinement: dict[str, object], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        validate({**BOTH, "refinement": refinement}, source="test")


@pytest.mark.parametrize(
    ("key", "value"),
    [("divergence", "reverse"), ("target", "mixed"), ("entry_clip", 0.1), ("tail", False), ("join", "sequential")],
)
def test_a_prediction_is_a_cross_entropy_or_nothing(key: str, value: object) -> None:
    tree = {**BOTH, "distillation": {key: value}}
    validate(tree, source="test")
    with pytest.raises(ConfigError, match=f"predict_critique = 1.0 .* distillation.{key} = "):
        validate({**tree, "refinement": {"predict_critique": 1.0}}, source="test")


@pytest.mark.parametrize("join", ["losses", "routed", "advantages", "signed"])
def test_joins_that_leave_the_channel_or_empty_it_go_with_predictions(join: str) -> None:
    support = "sampled" if join in ("advantages", "signed") else "teacher"
    validate(
        {**BOTH, "distillation": {"join": join, "support": support}, "refinement": {"predict_critique": 1.0}},
        source="test",
    )
