"""The 80/20 choice: how many tokens, which, with any mask, and what their losses are divided by."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from critique_rl.ops.top_entropy import top_entropy

ENTROPIES = [0.01, 0.9, 0.05, 0.7, 0.02, 0.03, 1.2, 0.04, 0.06, 0.02]


def test_vector_9_7_80_20() -> None:
    found = top_entropy(torch.tensor(ENTROPIES), torch.ones(10), share=0.2)
    assert found.chosen_N.nonzero().flatten().tolist() == [1, 6]
    assert found.threshold == pytest.approx(0.9)
    losses = torch.tensor([(i + 1) / 10 for i in range(10)])
    # (.2 + .7) / 2 = .45, and over all ten .09
    assert losses[found.chosen_N].mean().item() == pytest.approx(0.45)
    assert (losses * found.chosen_N).sum().item() / 10 == pytest.approx(0.09)


@pytest.mark.parametrize(("n", "count"), [(11, 3), (10, 2), (5, 1), (3, 1), (1, 1)])
def test_vector_9_7_80_20_counts(n: int, count: int) -> None:
    # int(.2 n + .9999): 11 -> int(3.1999), 10 -> int(2.9999), 5 -> int(1.9999), 3 -> int(1.5999)
    assert int(top_entropy(torch.rand(n), torch.ones(n), share=0.2).chosen_N.sum()) == count


@pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.float32])
def test_an_integer_mask_selects_and_does_not_index(kind: torch.dtype) -> None:
    # used as an index, a mask of 0s and 1s would pick tokens 0 and 1 again and again
    mask = torch.tensor([0, 0, 1, 1, 1, 0, 0, 1, 1, 1]).to(kind)
    found = top_entropy(torch.tensor(ENTROPIES), mask, share=0.2)
    assert found.chosen_N.tolist() == [i in (3, 8) for i in range(10)]  # int(.2 * 6 + .9999) = 2 of the six


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 1)), min_size=1, max_size=40), st.floats(0.01, 1))
def test_against_a_plain_loop(rows: list[tuple[float, int]], share: float) -> None:
    found = top_entropy(
        torch.tensor([h for h, _ in rows], dtype=torch.float64), torch.tensor([m for _, m in rows]), share=share
    )
    on = [i for i, (_, mask) in enumerate(rows) if mask]
    if not on:
        assert not found.chosen_N.any() and found.threshold is None
        return
    wanted = sorted(on, key=lambda i: (-rows[i][0], i))[: max(1, int(share * len(on) + 0.9999))]
    assert found.chosen_N.nonzero().flatten().tolist() == sorted(wanted)
    assert found.threshold == min(rows[i][0] for i in wanted)


def test_everything_and_bad_shares() -> None:
    assert top_entropy(torch.tensor(ENTROPIES), torch.ones(10), share=1.0).chosen_N.all()
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match="wanted a fraction above 0"):
            top_entropy(torch.rand(3), torch.ones(3), share=share)
    with pytest.raises(ValueError, match="shapes differ"):
        top_entropy(torch.rand(3), torch.ones(2), share=0.2)
