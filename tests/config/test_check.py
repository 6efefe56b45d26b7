"""A `[[checks]]` entry has one bound, and is read by the name that TOML gives it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from critique_rl.config.check import CheckConfig

ENTRY = {"name": "a", "arm": "both", "class": "hard"}


def test_one_bound_is_taken() -> None:
    check = CheckConfig.model_validate(ENTRY | {"at_most": 0.05})
    assert (check.kind, check.at_most, check.at_least) == ("hard", 0.05, None)
    assert CheckConfig.model_validate(ENTRY | {"at_least": 0}).at_least == 0.0


@pytest.mark.parametrize("bounds", [{}, {"at_most": 0.5, "at_least": 0.1}, {"at_most": 1.5}, {"at_least": 80}])
def test_no_bound_two_bounds_or_a_percentage_is_refused(bounds: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        CheckConfig.model_validate(ENTRY | bounds)
