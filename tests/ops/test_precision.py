"""Promotion and shape checks."""

from __future__ import annotations

import pytest
import torch

from critique_rl.ops.precision import at_least_float32, require_same_shape


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.int64, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_promotion(given: torch.dtype, wanted: torch.dtype) -> None:
    values = torch.tensor([1, 2]).to(given)
    wide = at_least_float32(values)
    assert wide.dtype == wanted and wide.tolist() == [1.0, 2.0]
    assert (wide is values) == (given == wanted)


def test_equal_shapes_pass_and_differing_ones_are_all_named() -> None:
    require_same_shape(a=torch.zeros(2, 3), b=torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"a \[2\], b \[2, 1\], c \[\]"):
        require_same_shape(a=torch.zeros(2), b=torch.zeros(2, 1), c=torch.zeros(()))
