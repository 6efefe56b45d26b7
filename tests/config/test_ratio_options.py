"""[refinement] ratio_mode: which keys each mode reads."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from critique_rl.config.refinement import RefinementConfig


@pytest.mark.parametrize(
    "options",
    [
        {"ratio_mode": "shaped", "gamma": 0.3},
        {"ratio_mode": "awr", "awr_coefficient": 1.0, "awr_floor": -3.0},
        {"ratio_mode": "oc_is", "ratio_cap": 5.0},
        {"ratio_mode": "in_context", "weight": 0.5},
    ],
)
def test_what_goes_together(options: dict[str, object]) -> None:
    config = RefinementConfig.model_validate(options)
    assert RefinementConfig.model_validate(config.model_dump()) == config


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"awr_coefficient": 0.2}, r"awr_coefficient = 0\.2 has no effect with ratio_mode = 'shaped'.* \"awr\""),
        ({"ratio_mode": "oc_is", "awr_floor": -3.0}, r"awr_floor = -3\.0 has no effect with ratio_mode = 'oc_is'"),
        ({"ratio_mode": "awr", "ratio_cap": 3.0}, r"ratio_cap = 3\.0 has no effect .* set ratio_mode = \"oc_is\""),
        ({"ratio_mode": "in_context", "gamma": 0.2}, r"gamma = 0\.2 has no effect .* set ratio_mode = \"shaped\""),
        ({"ratio_mode": "awr", "awr_floor": 0.1}, "awr_floor"),
        ({"ratio_mode": "oc_is", "ratio_cap": 0.0}, "ratio_cap"),
        ({"ratio_mode": "none"}, "'shaped', 'awr', 'oc_is' or 'in_context'"),
    ],
)
def test_a_key_without_effect_is_refused(options: dict[str, object], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        RefinementConfig.model_validate(options)
