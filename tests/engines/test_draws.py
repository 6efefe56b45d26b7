"""Draws: the model's own law, the same number for the same place in the call, and ids of probability 0 out of reach."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from critique_rl.engines.draws import draw, row_uniforms

ALMOST_ONE = 1.0 - 2.0**-53
NEVER = -math.inf


def drawn(logits: list[float], uniforms: list[float], *, temperature: float = 1.0) -> list[int]:
    """One id for each u, all from the same float32 logits."""
    rows = torch.tensor([logits] * len(uniforms), dtype=torch.float32)
    return draw(rows, torch.tensor(uniforms, dtype=torch.float64), temperature=temperature).tolist()


def test_the_first_id_whose_cumulated_probability_exceeds_u() -> None:
    # four ids of 1/4 each, and one of 0 between them: the CDF is 1/4, 1/4, 1/2, 3/4, 1
    logits = [0.0, NEVER, 0.0, 0.0, 0.0]
    below = math.nextafter(0.25, 0.0)
    assert drawn(logits, [0.0, below, 0.25, 0.4999, 0.5, 0.75, ALMOST_ONE]) == [0, 0, 2, 2, 3, 4, 4]


@pytest.mark.parametrize("logits", [[NEVER, NEVER, 7.0], [7.0, NEVER, NEVER], [NEVER, 7.0, NEVER]])
def test_the_only_possible_id_is_drawn_by_every_u(logits: list[float]) -> None:
    assert set(drawn(logits, [0.0, 0.3, 0.999999, ALMOST_ONE])) == {logits.index(7.0)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_the_law_is_the_softmax_at_the_temperature(dtype: torch.dtype, temperature: float) -> None:
    # u on an even grid of n: an id of probability p is drawn p n times, give or take one at either end
    n = 20_000
    logits_V = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    logits_V[7], logits_V[-1] = NEVER, NEVER
    uniforms_N = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    ids_N = draw(logits_V.to(dtype).expand(n, -1), uniforms_N, temperature=temperature)
    counts_V = torch.bincount(ids_N, minlength=50)
    expected_V = (logits_V / temperature).softmax(-1) * n
    assert counts_V[7] == counts_V[-1] == 0
    assert (counts_V - expected_V).abs().max() <= 1.01


def test_a_large_vocabulary_against_a_plain_loop() -> None:
    generator = torch.Generator().manual_seed(1)
    logits_NV = torch.randn(6, 30_000, generator=generator, dtype=torch.float64) * 4
    uniforms_N = torch.rand(6, generator=generator, dtype=torch.float64)
    expected: list[int] = []
    for logits_V, u in zip(logits_NV.tolist(), uniforms_N.tolist(), strict=True):
        top = max(logits_V)
        weights = [math.exp(z - top) for z in logits_V]
        reach, cumulated, token = u * math.fsum(weights), 0.0, -1
        while cumulated <= reach:
            token += 1
            cumulated += weights[token]
        expected.append(token)
    assert draw(logits_NV, uniforms_N, temperature=1.0).tolist() == expected


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    generator = torch.Generator().manual_seed(2)
    logits_NV = torch.randn(9, 300, generator=generator)
    uniforms_N = torch.rand(9, generator=generator, dtype=torch.float64)
    together = draw(logits_NV, uniforms_N, temperature=0.8)
    alone = [draw(logits_NV[n : n + 1], uniforms_N[n : n + 1], temperature=0.8) for n in range(9)]
    assert torch.equal(together, torch.cat(alone))
    shuffled = [4, 0, 8, 2, 6, 1, 3, 7, 5]
    assert torch.equal(draw(logits_NV[shuffled], uniforms_N[shuffled], temperature=0.8), together[shuffled])


def test_a_constant_added_to_all_logits_changes_nothing() -> None:
    uniforms = [0.05 * i for i in range(20)]
    logits = [0.5, -1.0, 2.0, 0.0]
    assert drawn(logits, uniforms) == drawn([z + 64.0 for z in logits], uniforms)


def test_temperature_zero_is_the_most_likely_id() -> None:
    assert drawn([0.0, 3.0, 2.9], [0.0, 0.99], temperature=0.0) == [1, 1]


def test_a_row_without_a_distribution_still_gives_an_id_in_range() -> None:
    ids = drawn([math.nan, 0.0, 1.0], [0.0, 0.5, ALMOST_ONE])
    assert all(0 <= i < 3 for i in ids)


def test_a_number_belongs_to_its_seed_row_and_token() -> None:
    whole = row_uniforms(5, range(6), 9)
    assert whole.shape == (6, 9) and whole.dtype == np.float64
    assert ((whole >= 0) & (whole < 1)).all() and len(np.unique(whole)) == whole.size
    np.testing.assert_array_equal(row_uniforms(5, [4, 1], 9), whole[[4, 1]])
    np.testing.assert_array_equal(row_uniforms(5, range(6), 4), whole[:, :4])  # a longer call begins alike
    assert not np.isin(row_uniforms(6, range(6), 9), whole).any()


def philox(counter: int, key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox4x64-10 of Salmon et al. (SC 2011), word by word."""
    a, b, c, d = counter, 0, 0, 0
    k, m = key
    for _ in range(10):
        p, q = 0xD2E7470EE14C6C93 * a, 0xCA5A826395121157 * c
        a, b, c, d = (q >> 64) ^ b ^ k, q % 2**64, (p >> 64) ^ d ^ m, p % 2**64
        k, m = (k + 0x9E3779B97F4A7C15) % 2**64, (m + 0xBB67AE8584CAA73B) % 2**64
    return a, b, c, d


@pytest.mark.parametrize(("seed", "index"), [(0, 0), (2**63 - 1, 7), (-1, 2)])
def test_the_numbers_are_those_of_the_paper(seed: int, index: int) -> None:
    # blocks 1 and 2 of four 64-bit words each, of which the upper 53 bits make a number in [0, 1)
    words = [*philox(1, (seed % 2**64, index)), *philox(2, (seed % 2**64, index))]
    np.testing.assert_array_equal(row_uniforms(seed, [index], 8)[0], [(word >> 11) / 2**53 for word in words])


def test_numbers_are_even_and_rows_are_unrelated() -> None:
    uniforms_NT = row_uniforms(0, range(400), 50)
    counts = np.histogram(uniforms_NT, bins=20, range=(0, 1))[0]
    # 20,000 numbers in 20 bins: 1000 each, standard deviation 31
    assert (np.abs(counts - 1000) < 4 * 31).all()
    centred = uniforms_NT - 0.5
    # the mean product of 19,950 neighbours of variance 1/12 has standard deviation 1 / (12 sqrt(19950)) = 5.9e-4
    assert abs((centred[1:] * centred[:-1]).mean()) < 4 * 5.9e-4
    assert abs((centred[:, 1:] * centred[:, :-1]).mean()) < 4 * 6e-4


def test_no_global_random_state_is_read_or_written() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    first = row_uniforms(3, [0], 4)
    draw(torch.zeros(1, 4), torch.zeros(1, dtype=torch.float64), temperature=1.0)
    after = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
    torch.manual_seed(7)
    np.random.seed(7)
    np.testing.assert_array_equal(row_uniforms(3, [0], 4), first)


def test_no_rows_and_no_tokens() -> None:
    assert row_uniforms(0, [], 5).shape == (0, 5) and row_uniforms(0, [1, 2], 0).shape == (2, 0)
    assert draw(torch.zeros(0, 4), torch.zeros(0, dtype=torch.float64), temperature=1.0).tolist() == []


def test_a_negative_place() -> None:
    with pytest.raises(ValueError, match="indices holds -2; wanted each row's place in the call"):
        row_uniforms(0, [3, -2], 5)
