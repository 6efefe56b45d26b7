"""Every combiner against the spec's numbers.

They are those of two or three objectives on one or two groups; where the arithmetic is short it stands beside them.
"""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch

from critique_rl.ops.combiners import BatchNorm, Method
from tests.ops.objectives import advantages, combined

R1, R2 = [1.0, 0, 0, 1], [0.2, 0.9, 0.4, 0.5]
HALF = (0.5, 0.5)
METHODS: tuple[Method, ...] = get_args(Method)
NAN = math.nan


def near(*values: float) -> object:
    return pytest.approx(list(values), abs=1e-6)


# -- two objectives on four rollouts -----------------------------------------------------------------------------------


def test_dynamic_weights_by_hand() -> None:
    # sigma_1 = .5; r_2 has mean .5 and squares .09 + .16 + .01 + 0, so sigma_2 = sqrt(.065) = .254951
    found = combined(R1, R2, weights=HALF, method="dvao")
    assert found.figures.spread_K.tolist() == near(0.5, 0.2549510)
    assert found.shares_GK[0].tolist() == near(0.6622947, 0.3377053)  # .5 / .754951
    assert found.agreement_G.tolist() == near(0.5380507)
    # S = .3774755; rollout 0: (.5 * .5 - .5 * .3) / S = .1 / .3774755
    assert found.advantages_N.tolist() == near(0.2649179, -0.1324589, -0.7947536, 0.6622947)
    assert (found.advantages_N**2).mean().item() == pytest.approx(0.2894986, abs=1e-6)  # c^2
    assert found.figures.weight_K.tolist() == near(0.6622947, 0.3377053)


def test_summed_rewards_and_summed_advantages_by_hand() -> None:
    of_sum = combined(R1, R2, weights=HALF, method="sum")
    assert of_sum.advantages_N.tolist() == near(0.4923660, -0.2461830, -1.4770979, 1.2309149)
    assert (of_sum.advantages_N**2).mean().item() == pytest.approx(1.0)
    of_advantages = combined(R1, R2, weights=HALF, method="advantage_sum")
    assert of_advantages.advantages_N.tolist() == near(-0.0883484, 0.2844645, -0.6961161, 0.5)
    # 1 - .5 (1 - rho) with rho = -.5883484
    assert (of_advantages.advantages_N**2).mean().item() == pytest.approx(0.2058258, abs=1e-6)
    # rollouts 0 and 1 change sides between the two
    assert advantages(R1, R2, weights=HALF, method="sum_unscaled") == near(0.1, -0.05, -0.3, 0.25)


def test_with_the_sample_standard_deviation() -> None:
    found = combined(R1, R2, weights=HALF, method="dvao", ddof=1)
    assert found.figures.spread_K.tolist() == near(0.5773503, 0.2943920)
    assert found.shares_GK[0].tolist() == near(0.6622947, 0.3377053)
    assert found.advantages_N.tolist() == near(0.2294256, -0.1147128, -0.6882768, 0.5735640)
    of_sum = advantages(R1, R2, weights=HALF, method="sum", ddof=1)
    assert of_sum == near(0.4264014, -0.2132007, -1.2792043, 1.0660036)
    of_advantages = advantages(R1, R2, weights=HALF, method="advantage_sum", ddof=1)
    assert of_advantages == near(-0.0765120, 0.2463535, -0.6028543, 0.4330127)


def test_base_weights_of_the_dynamic_ones() -> None:
    found = combined(R1, R2, weights=(0.7, 0.3), method="dvao")
    assert found.shares_GK[0].tolist() == near(0.820661, 0.179339)
    assert found.advantages_N.tolist() == near(0.609634, -0.539292, -0.891004, 0.820661)


def test_correlations_with_the_final_advantage() -> None:
    assert combined(R1, R2, method="sum").figures.correlation_K.tolist() == near(0.861640, -0.096561)
    # sqrt((1 + rho) / 2) for both
    assert combined(R1, R2, method="mo_grpo").figures.correlation_K.tolist() == near(0.453680, 0.453680)
    assert advantages(R1, R2, method="mo_grpo") == near(*(2 * a for a in (-0.0883484, 0.2844645, -0.6961161, 0.5)))


def test_how_an_advantage_answers_to_its_reward() -> None:
    # DVAO: (w~/sigma)(1 - 1/G - A z/G); advantage_sum: (w/sigma)(1 - 1/G - z^2/G), for rollout 1 of objective 2
    def slope(method: Method) -> float:
        step = 1e-6
        up, down = ([0.2, 0.9 + h, 0.4, 0.5] for h in (step, -step))
        high, low = (combined(R1, r, weights=HALF, method=method).advantages_N[1].item() for r in (up, down))
        return (high - low) / (2 * step)

    assert slope("dvao") == pytest.approx(1.0622606, abs=1e-6)
    assert slope("advantage_sum") == pytest.approx(0.2640025, abs=1e-6)


def test_dynamic_weights_follow_the_scale_and_summed_advantages_do_not() -> None:
    tenfold = [10 * r for r in R2]
    found = combined(R1, tenfold, weights=HALF, method="dvao")
    assert found.shares_GK[0].tolist() == near(0.163961, 0.836039)
    assert found.advantages_N.tolist() == near(-0.819804, 1.147725, -0.491882, 0.163961)
    assert advantages(R1, tenfold, weights=HALF, method="advantage_sum") == near(
        *advantages(R1, R2, weights=HALF, method="advantage_sum")
    )


def test_powers_of_the_spread() -> None:
    by_power = {p: combined(R1, R2, weights=HALF, method="dvao", power=p) for p in (0.0, 1.0, 2.0)}
    assert by_power[0.0].shares_GK[0].tolist() == near(0.5, 0.5)
    assert by_power[0.0].advantages_N.tolist() == near(*advantages(R1, R2, weights=HALF, method="advantage_sum"))
    assert by_power[2.0].shares_GK[0].tolist() == near(0.793651, 0.206349)
    assert by_power[2.0].advantages_N.tolist() == near(0.550840, -0.469904, -0.874588, 0.793651)


# -- no spread, conflict, rounding -------------------------------------------------------------------------------------


def test_an_objective_without_spread() -> None:
    found = {m: combined(R1, [1.0] * 4, weights=HALF, method=m) for m in METHODS}
    assert found["dvao"].advantages_N.tolist() == found["sum"].advantages_N.tolist() == near(1, -1, -1, 1)
    assert found["dvao"].shares_GK[0].tolist() == [1.0, 0.0]
    # the dead objective keeps its weight, so the step is half as long
    assert found["advantage_sum"].advantages_N.tolist() == near(0.5, -0.5, -0.5, 0.5)
    for result in found.values():
        assert result.figures.flat_K.tolist() == [0.0, 1.0] and result.figures.weight_K.tolist() == [1.0, 0.0]
        assert math.isnan(result.figures.correlation_K[1].item())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("eps", [0.0, 1e-6])
def test_nothing_but_zeros_without_contrast(method: Method, eps: float) -> None:
    for objectives in ([[1.0] * 4, [0.3] * 4], [[1.0], [0.0]], [[1.0, 1.0], [NAN, NAN]], [[NAN], [NAN]]):
        found = combined(*objectives, method=method, eps=eps)
        assert found.advantages_N.tolist() == [0.0] * len(objectives[0])
        assert not found.objective_advantages_NK.any() and not found.shares_GK.any()
        assert bool(torch.isnan(found.agreement_G).all())


@pytest.mark.parametrize("method", METHODS)
def test_perfect_conflict_is_exactly_zero(method: Method) -> None:
    thirds = [1 / 3, 0.1, 0.7, 0.2]
    for one, other in (([1.0, 0, 1, 0], [0.0, 1, 0, 1]), (thirds, [0.9 - r for r in thirds])):
        found = combined(one, other, weights=HALF, method=method, eps=1e-6, gamma=0.0)
        assert found.advantages_N.tolist() == [0.0] * 4
        assert found.agreement_G.tolist() == near(0.0)
    assert combined([1.0, 0, 1, 0], [0.0, 1, 0, 1], weights=HALF, method="dvao").shares_GK[0].tolist() == near(0.5, 0.5)


def test_uncorrelated_and_partly_agreeing_objectives() -> None:
    one, other = [1.0, 1, 0, 0], [1.0, 0, 1, 0]
    for method in ("dvao", "advantage_sum"):
        assert advantages(one, other, weights=HALF, method=method) == near(1, 0, 0, -1)
    assert advantages(one, other, weights=HALF, method="sum") == near(1.414214, 0, 0, -1.414214)
    rare = [1.0, 0, 0, 0]
    found = combined(rare, other, weights=HALF, method="dvao")
    assert found.shares_GK[0].tolist() == near(0.464102, 0.535898)
    assert found.advantages_N.tolist() == near(1.339746, -0.803848, 0.267949, -0.803848)
    assert advantages(rare, other, weights=HALF, method="advantage_sum") == near(
        1.366025, -0.788675, 0.211325, -0.788675
    )
    assert advantages(rare, other, weights=HALF, method="sum") == near(1.507557, -0.904534, 0.301511, -0.904534)


@pytest.mark.parametrize("method", METHODS)
def test_rounding_is_no_contrast(method: Method) -> None:
    noise = [0.3, 0.1 + 0.2, 0.3, 0.3]  # .1 + .2 is one step of a double above .3
    assert len(set(noise)) == 2
    with_noise, without = (advantages(R1, r, weights=HALF, method=method) for r in (noise, [0.3] * 4))
    assert with_noise == without
    assert advantages(R1, noise, weights=HALF, method="dvao") == near(1, -1, -1, 1)
    assert advantages([0.0] * 4, noise, method=method) == [0.0] * 4


def test_a_small_spread_far_from_zero_survives_the_first_mean() -> None:
    # mean(x^2) - mean(x)^2 at 1e5 would lose a spread of 1e-2 in single precision, and some of it in double
    found = combined([1e5, 1e5 + 0.02], [0.0, 0.0], method="advantage_sum")
    assert found.figures.spread_K.tolist() == pytest.approx([0.01, 0.0], rel=1e-9)
    assert found.advantages_N.tolist() == near(-1, 1)


# -- statistics of the batch -------------------------------------------------------------------------------------------

G1_R1, G1_R2 = [1.0, 0, 0, 1], [1.0, 1, 0, 0]
G2_R1, G2_R2 = [0.0, 0, 0, 1], [1.0, 1, 1, 1]
TWO = [0] * 4 + [1] * 4
BATCH = (G1_R1 + G2_R1, G1_R2 + G2_R2)


def test_decoupled_normalisation_of_two_groups() -> None:
    before = advantages(*BATCH, groups=TWO, method="gdpo", batch_norm="none", ddof=1)
    assert before == near(1.732051, 0, -1.732051, 0, -0.5, -0.5, -0.5, 1.5)
    # squares 3 + 3 + 3 * .25 + 2.25 = 9, over 7: std 1.1338934
    after = advantages(*BATCH, groups=TWO, method="gdpo", ddof=1)
    assert after == near(1.527525, 0, -1.527525, 0, -0.440959, -0.440959, -0.440959, 1.322876)
    with_eps = advantages(*BATCH, groups=TWO, method="gdpo", ddof=1, eps=1e-4)
    assert with_eps == near(1.527404, 0, -1.527404, 0, -0.440912, -0.440912, -0.440912, 1.322735)
    of_sum = advantages(*BATCH, groups=TWO, method="sum", ddof=1)
    assert of_sum == near(1.224745, 0, -1.224745, 0, -0.5, -0.5, -0.5, 1.5)


@pytest.mark.parametrize(("high", "wanted"), [((1, 0), 0.707107), ((1, 1), 1.414214), ((0, 1), 0.707107)])
def test_groups_of_two_are_told_apart_before_the_batch_only(high: tuple[float, float], wanted: float) -> None:
    one, other = ([0.0, top] for top in high)
    assert advantages(one, other, method="gdpo", batch_norm="none", ddof=1) == near(-wanted, wanted)
    for method in ("sum", "dvao"):
        assert advantages(one, other, method=method, ddof=1) == near(-0.707107, 0.707107)
    # with one group in the batch the second division takes the difference away again
    assert advantages(one, other, method="gdpo", ddof=1) == near(-0.707107, 0.707107)


def test_a_group_that_varies_twice_against_one_that_varies_once() -> None:
    one, other = [0.0, 1, 0, 1], [0.0, 0, 0, 1]
    assert advantages(one, other, groups=[0, 0, 1, 1], method="gdpo", ddof=1) == near(
        -0.547723, 0.547723, -1.095445, 1.095445
    )
    assert advantages(one, other, groups=[0, 0, 1, 1], method="sum", ddof=1) == near(*[-0.707107, 0.707107] * 2)


def test_constant_totals_are_told_apart_from_three_objectives_on() -> None:
    assert advantages([1.0, 1, 0], [0.0, 0, 1], method="gdpo", batch_norm="none", ddof=1) == [0.0] * 3
    three = ([1.0, 0, 0, 1], [0.0, 1, 0, 0], [0.0, 0, 1, 0])
    assert advantages(*three, method="gdpo", batch_norm="none", ddof=1) == near(
        -0.133975, 0.133975, 0.133975, -0.133975
    )
    assert advantages(*three, method="sum", ddof=1) == [0.0] * 4


@pytest.mark.parametrize(
    ("batch_norm", "wanted"),
    [
        ("none", (1.0, -1.0)),
        ("rollouts", (0.707107, -0.707107)),
        # tokens 1, -1, -1, -1: mean -.5, squares 2.25 + 3 * .25 = 3 over 3; the rollouts' mean is no longer 0
        ("tokens", (1.5, -0.5)),
    ],
)
def test_whitening_over_tokens_moves_the_mean_over_rollouts(batch_norm: BatchNorm, wanted: tuple[float, float]) -> None:
    # +-1 has a sample std of sqrt(2), and its weight undoes it
    found = advantages(
        [1.0, -1],
        [0.0, 0],
        weights=(math.sqrt(2), 1.0),
        method="gdpo",
        ddof=1,
        batch_norm=batch_norm,
        lengths=[1, 3],
    )
    assert found == near(*wanted)


def test_rewards_on_very_different_scales() -> None:
    small, large = [1.0, 0, 1, 0], [-120.0, -100, -60, -80]
    assert advantages(small, large, method="sum", ddof=1) == near(-1.142245, -0.406562, 1.180965, 0.367841)
    pre = advantages(small, large, method="gdpo", batch_norm="none", ddof=1)
    assert pre == near(-0.295870, -1.253324, 2.027920, -0.478727)
    final = advantages(small, large, method="gdpo", ddof=1)
    assert final == near(-0.209211, -0.886234, 1.433956, -0.338511)
    dynamic = combined(small, large, method="dvao", ddof=1)
    assert dynamic.shares_GK[0].tolist() == near(0.021872, 0.978128)
    assert dynamic.advantages_N.tolist() == near(-1.117541, -0.397769, 1.155424, 0.359886)


def test_a_large_reward_for_length_outweighs_the_answer_only_in_the_sum() -> None:
    right, long = [1.0, 1, 0, 0], [0.0, 100, 200, 300]
    assert advantages(right, long, method="sum", ddof=1) == near(-1.162670, -0.384964, 0.384964, 1.162670)
    assert advantages(right, long, method="gdpo", batch_norm="none", ddof=1) == near(
        -0.295870, 0.478727, -0.478727, 0.295870
    )


def test_saturated_objectives_weigh_less() -> None:
    # s = [3/8, 6/8]
    found = {g: combined(*BATCH, groups=TWO, method="sa_mrpo", gamma=g) for g in (0.0, 1.0, 2.0)}
    assert found[1.0].advantages_N.tolist() == near(
        1.347151, -0.577350, -1.347151, 0.577350, -0.555556, -0.555556, -0.555556, 1.666667
    )
    assert found[2.0].advantages_N.tolist() == near(
        1.152647, -0.834675, -1.152647, 0.834675, -0.573690, -0.573690, -0.573690, 1.721071
    )
    assert found[0.0].advantages_N.tolist() == near(
        1.632993, 0, -1.632993, 0, -0.471405, -0.471405, -0.471405, 1.414214
    )
    assert found[0.0].advantages_N.tolist() == near(*advantages(*BATCH, groups=TWO, method="gdpo"))
    # group 0 has both: weights .625 : .25
    assert found[1.0].shares_GK[0].tolist() == near(0.625 / 0.875, 0.25 / 0.875)
    assert found[2.0].shares_GK[0].tolist() == near(0.390625 / 0.453125, 0.0625 / 0.453125)


def test_a_right_answer_and_its_stated_confidence() -> None:
    right, honest = [1.0, 1, 0, 0], [0.99, 0.84, 0.36, 0.96]
    found = combined(right, honest, weights=HALF, method="dvao")
    assert found.shares_GK[0].tolist() == near(0.663907, 0.336093)
    assert found.agreement_G.tolist() == near(0.882340)
    assert found.advantages_N.tolist() == near(0.932789, 0.733617, -1.231547, -0.434859)
    split = combined(right, honest, weights=HALF, method="advantage_sum")
    assert split.advantages_N.tolist() == near(0.900011, 0.603707, -1.344468, -0.159250)
    # the weight of right answers per unit of score: .2531181 / .5, half of what an honest answer needs
    assert (split.scales_GK[0, 0] / split.scales_GK[0, 1]).item() == pytest.approx(0.5062, abs=1e-4)
    # c - (q - c)^2 is the sum of both less 1, so centred they are the same
    assert advantages(right, honest, method="sum_unscaled") == near(0.7025, 0.5525, -0.9275, -0.3275)
