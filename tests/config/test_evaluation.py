"""Which pass@k can be asked of how many samples."""

from __future__ import annotations

import pytest

from critique_rl.config.evaluation import EvaluationConfig
from critique_rl.config.load import dump, validate
from critique_rl.errors import ConfigError


def evaluation(**options: object) -> EvaluationConfig:
    return validate({"evaluation": options}, source="test").evaluation


def test_nothing_is_asked_unless_it_is_said() -> None:
    assert evaluation().pass_at == () and evaluation().samples_per_task == 1


def test_as_many_samples_as_the_largest_k_are_enough() -> None:
    asked = evaluation(pass_at=[1, 4, 16, 64], samples_per_task=64)
    assert asked.pass_at == (1, 4, 16, 64)
    assert '"pass_at": [\n      1,\n      4,' in dump(validate({"evaluation": asked.model_dump()}, source="test"))
    assert evaluation(pass_at=[1], temperature=0.0).pass_at == (1,)


def test_answers_to_held_out_tasks_may_be_as_long_as_rollouts_unless_it_is_said() -> None:
    tree: dict[str, object] = {"rollout": {"max_tokens": 40}}
    assert validate(tree, source="test").evaluation_tokens == 40
    for longest in (1, 40, 90):
        config = validate({**tree, "evaluation": {"max_tokens": longest}}, source="test")
        assert (config.evaluation_tokens, config.rollout.max_tokens) == (longest, 40)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
        ({"pass_at": [1, 4], "samples_per_task": 3}, r"pass_at = \[1, 4\] with samples_per_task = 3: .*to 4 or more"),
        ({"pass_at": [2]}, r"samples_per_task = 1: fewer answers than k say nothing about k"),
        ({"pass_at": [0, 1]}, r"pass_at = \[0, 1\]; wanted different whole numbers of 1 or more"),
        ({"pass_at": [2, 2], "samples_per_task": 2}, "wanted different whole numbers"),
        ({"pass_at": [1, 4], "samples_per_task": 4, "temperature": 0}, "with temperature = 0: greedy answers"),
        ({"pass_at": 4, "samples_per_task": 4}, "pass_at: Input should be a valid tuple"),
        ({"pass_at": [1.5], "samples_per_task": 4}, "pass_at.0: Input should be a valid integer"),
    ],
)
def test_what_cannot_be_told(options: dict[str, object], wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        evaluation(**options)
