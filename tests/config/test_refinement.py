"""Ladders, views and joins that go together, and those that do not."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from critique_rl.config.algorithm import RefinementConfig as Same
from critique_rl.config.refinement import RefinementConfig


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ladder": ["verdict", "critique", "lesson", "prefix_25", "prefix_50", "prefix_75"]},
        {"ladder": ["verdict"]},
        {"ladder": ["critique", "lesson"], "view": "mixed", "per_attempt": 2},
        {"view": "lesson", "lesson_prompt": "directive_last"},
        {"aggregate": "critique", "other_attempts_chars": 500},
        {"aggregate": "refine", "group_prompt": "mine.md", "ladder": ["lesson"]},
        {"ladder": ["critique", "prefix_75"], "prefix_prompt": "mine.md"},
        {"train_refiner": 0.5},
        {"train_refiner": 0.5, "max_attempts": 1, "per_attempt": 2},
    ],
)
def test_what_goes_together_is_read_back_as_it_was(options: dict[str, object]) -> None:
    config = RefinementConfig.model_validate(options)
    assert RefinementConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"ladder": []}, "at least 1 item"),
        ({"ladder": ["critique", "verdict"]}, r"ladder = \['critique', 'verdict'\] does not rise; name each rung once"),
        ({"ladder": ["critique", "critique"]}, "does not rise"),
        ({"ladder": ["prefix"]}, "prefix_25"),
        ({"view": "lesson", "ladder": ["verdict"]}, "view = 'lesson' has no effect on ladder"),
        ({"view": "lesson", "ladder": ["critique", "lesson"]}, 'the same as "lesson"; take one of them off'),
        ({"view": "mixed"}, "needs per_attempt of 2 or more, so that each attempt gets both, and it is 1"),
        ({"aggregate": "refine", "ladder": ["verdict"]}, "aggregate = 'refine' has no effect on ladder"),
        ({"lesson_prompt": "teacher"}, "lesson_prompt has no effect without view"),
        ({"prefix_prompt": "teacher"}, "prefix_prompt has no effect without a prefix rung on the ladder"),
        ({"group_prompt": "refine"}, 'group_prompt has no effect without aggregate = "refine"'),
        ({"other_attempts_chars": 10}, 'other_attempts_chars has no effect without aggregate = "critique"'),
        ({"train_refiner": 0.5, "max_attempts": 1}, "train_refiner = 0.5 has no effect with one refinement a prompt"),
        ({"train_refiner": 0.5, "ratio_mode": "in_context"}, "would train right refinements under their context twice"),
        ({"train_refiner": -1.0}, "greater than or equal to 0"),
        ({"max_group_share": 0.0}, "greater than 0"),
        ({"reliance_temperature": 0.0}, "greater than 0"),
    ],
)
def test_what_has_no_effect_is_refused(options: dict[str, object], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        RefinementConfig.model_validate(options)


def test_the_section_has_one_class() -> None:
    assert Same is RefinementConfig
