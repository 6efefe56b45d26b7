"""Joined gradients and the measured conflict against brute force, and what neither may change.

Legend: K objectives, W weights of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from critique_rl.errors import ConfigError
from critique_rl.ops.gradient_combiners import GradientCombiner, gradient_coefficients
from critique_rl.policy.hf import HFPolicy
from critique_rl.policy.step import StepConfig
from critique_rl.protocols import GRADIENT_CONFLICT, Skipped
from critique_rl.types import TrainSample
from tests.policy.bigram import Bigram, bigram_step
from tests.policy.dense import dense_gradient
from tests.policy.objectives import dense_parts, of_directives, of_objective, with_objectives
from tests.policy.test_step_reference import batch
from tests.tiny import sample, step_config, tiny_model, tiny_policy, weights

COMBINERS: tuple[GradientCombiner, ...] = ("pcgrad", "mgda", "mgda_normalized")
F32 = 1e-6
"""The tiny model takes its norms in float32, whose rounding differs between a whole and its parts."""
UNCLIPPED = {"clip_low": 0.99, "clip_high": 100.0}


def combining(method: GradientCombiner | None, *, conflict_every: int = 0, **options: Any) -> StepConfig:
    return step_config(**options)._replace(gradient_combiner=method, conflict_every=conflict_every)


def joint_gradient(policy: HFPolicy, samples: Sequence[TrainSample]) -> Tensor:
    """What a step would apply, without applying it."""
    policy.model.zero_grad(set_to_none=True)
    report = policy.train_step._gradient(samples)  # pyright: ignore[reportPrivateUsage]
    assert report is not None
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in policy.model.parameters()]
    return torch.cat([part.detach().flatten() for part in parts])


def assert_close(found: Tensor, wanted: Tensor, *, within: float = 1e-10) -> None:
    assert wanted.norm() > 1e-3
    assert (found - wanted).norm() < within * wanted.norm()


@pytest.mark.parametrize("method", COMBINERS)
@pytest.mark.parametrize("count", [2, 3])
def test_the_joint_gradient_is_that_of_brute_force(method: GradientCombiner, count: int) -> None:
    config = combining(method, distillation={"weight": 0.3}, refinement={"weight": 0.7, "ratio_mode": "oc_is"})
    samples = with_objectives(count)
    objectives_KW, directive_W = dense_parts(samples, config, count)
    alpha_K = gradient_coefficients(objectives_KW @ objectives_KW.T, method, seed=0)
    assert (alpha_K - 1).abs().max() > 0.01
    policy = tiny_policy(config)
    assert_close(joint_gradient(policy, samples), alpha_K @ objectives_KW + directive_W, within=1e-8)
    report = policy.step(samples)
    assert report.applied
    told = report.diagnostics
    norms = objectives_KW.norm(dim=1)
    assert [told[f"objectives/alpha_{k}"] for k in range(count)] == pytest.approx(alpha_K.tolist(), abs=1e-6)
    assert [told[f"objectives/grad_norm_{k}"] for k in range(count)] == pytest.approx(norms.tolist(), rel=1e-8)
    cosines_KK = objectives_KW @ objectives_KW.T / norms[:, None] / norms
    assert told["objectives/cosine_min"] == pytest.approx(float(cosines_KK.min()), rel=1e-8)
    assert told["rows/trained"] == 7  # all but the masked rollout, as in the plain step


@pytest.mark.parametrize("method", COMBINERS)
@pytest.mark.parametrize("penalties", [{}, {"kl_weight": 0.1}, {"entropy_weight": 0.05}])
def test_one_objective_is_the_plain_step(method: GradientCombiner, penalties: dict[str, object]) -> None:
    samples = [
        replace(s, objective_advantages=s.advantages[None], advantages=0 * s.advantages) if s.pg_weight.any() else s
        for s in batch()
    ]
    joined, plain = tiny_policy(combining(method, loss=penalties)), tiny_policy(step_config(loss=penalties))
    mine, other = joined.step(samples), plain.step(batch())
    assert mine.loss == pytest.approx(other.loss, rel=1e-12)
    assert mine.pg_loss == pytest.approx(other.pg_loss, rel=1e-12)
    assert mine.grad_norm == pytest.approx(other.grad_norm, rel=F32)
    assert mine.trained_tokens == other.trained_tokens
    assert mine.diagnostics.keys() >= other.diagnostics.keys()
    for name, value in other.diagnostics.items():
        # without penalties, a rollout without an advantage is in no pass of the channel, and in no mean over it
        if penalties or not name.startswith(("ratio/", "policy/")):
            assert mine.diagnostics[name] == pytest.approx(value, rel=1e-12), name
    assert "objectives/cosine_min" not in mine.diagnostics


@pytest.mark.parametrize("method", COMBINERS)
def test_one_objective_leaves_the_weights_of_the_plain_step(method: GradientCombiner) -> None:
    rows = [
        sample((4,), (5, 6, 7), advantage=-0.5, pg=1.0, behaviour=[-1.5, -2.0, -1.6]),
        sample((5,), (6, 4), advantage=0.8, pg=1.0, behaviour=[-2.0, -2.2]),
        sample((6,), (7, 5, 4), advantage=0.9, imitate=1.0),
    ]
    alone = [replace(s, objective_advantages=s.advantages[None]) if s.pg_weight.any() else s for s in rows]
    tables: list[Tensor] = []
    for config, samples in ((combining(method), alone), (step_config(), rows)):
        model = Bigram(8, {4: [0.3, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]})
        step = bigram_step(model, config)
        for _ in range(4):
            assert step(samples).applied
        tables.append(model.table_VV.detach())
    assert (tables[0] - tables[1]).abs().max() < 1e-12
    assert (tables[0][4] - tables[0][5]).abs().max() > 0.1


def test_objectives_that_agree_are_summed_as_their_advantages_are() -> None:
    # PCGrad of gradients without a conflict is their sum; objectives in proportion to each other never conflict
    samples = [
        replace(s, objective_advantages=np.stack([0.3 * s.advantages, 0.7 * s.advantages])) if s.pg_weight.any() else s
        for s in batch()
    ]
    policy = tiny_policy(combining("pcgrad", loss=UNCLIPPED))
    plain = dense_gradient(tiny_model(), batch(), step_config(loss=UNCLIPPED))
    assert_close(joint_gradient(policy, samples), plain, within=F32)


def test_objectives_of_every_sign_sum_up_where_no_ratio_is_clipped() -> None:
    config = step_config(loss=UNCLIPPED)
    samples = with_objectives(3)
    parts = [dense_gradient(tiny_model(), of_objective(samples, k), config) for k in range(3)]
    whole = [s for s in batch() if s.pg_weight.any()]
    bare = [replace(s, distill_weight=0 * s.distill_weight) for s in whole]
    assert_close(torch.stack(parts).sum(0), dense_gradient(tiny_model(), bare, config), within=F32)


@pytest.mark.parametrize("layout", ["padded", "packed", "prefix"])
@pytest.mark.parametrize("max_tokens", [1, 25, 10_000])
def test_no_split_and_no_layout_changes_the_joint_gradient(layout: str, max_tokens: int) -> None:
    def of(**optimizer: object) -> Tensor:
        config = combining("mgda", loss={"kl_weight": 0.1}, optimizer=optimizer)
        policy = tiny_policy(config)
        return joint_gradient(policy, policy._with_reference(with_objectives(3)))  # pyright: ignore[reportPrivateUsage]

    assert_close(of(layout=layout, micro_batch_tokens=max_tokens), of(), within=1e-8)


def test_penalties_are_added_as_they_are() -> None:
    config = combining("mgda", loss={"kl_weight": 0.2, "entropy_weight": 0.1})
    policy, bare = tiny_policy(config), tiny_policy(combining("mgda"))
    samples = [replace(s, reference_logprobs=s.behaviour_logprobs - 0.5) for s in with_objectives(2)]
    none = [replace(s, objective_advantages=None) for s in of_objective(samples, 0)]
    flat = [replace(s, advantages=0 * s.advantages) for s in none]
    alone = joint_gradient(tiny_policy(step_config(loss={"kl_weight": 0.2, "entropy_weight": 0.1})), flat)
    assert_close(joint_gradient(policy, samples), joint_gradient(bare, samples) + alone, within=1e-8)


def test_an_objective_without_any_signal_leaves_the_others_alone() -> None:
    def third_silent(s: TrainSample) -> TrainSample:
        if s.objective_advantages is None:
            return s
        return replace(s, objective_advantages=s.objective_advantages * np.array([[1.0], [1.0], [0.0]]))

    three = [third_silent(s) for s in with_objectives(3)]
    two = [
        s if s.objective_advantages is None else replace(s, objective_advantages=s.objective_advantages[:2])
        for s in three
    ]
    for method in COMBINERS:
        policy = tiny_policy(combining(method))
        assert_close(joint_gradient(policy, three), joint_gradient(tiny_policy(combining(method)), two), within=1e-8)
        told = policy.step(three).diagnostics
        assert told["objectives/grad_norm_2"] == 0
        assert told["objectives/alpha_2"] == (1.0 if method == "pcgrad" else 0.0)


def test_directives_alone_and_nothing_at_all() -> None:
    alone = of_directives(batch())
    joined, plain = tiny_policy(combining("mgda")), tiny_policy()
    assert torch.equal(joint_gradient(joined, alone), joint_gradient(plain, alone))
    silent = [sample((4, 5), (6, 7), pg=1.0)]
    silent = [replace(silent[0], objective_advantages=np.zeros((2, 2)))]
    report = joined.step(silent)
    assert (report.applied, report.skipped) == (False, Skipped.NOTHING_TO_LEARN)


def test_a_gradient_that_is_not_finite_is_skipped_as_ever() -> None:
    samples = with_objectives(2)
    assert samples[0].objective_advantages is not None
    samples[0] = replace(samples[0], objective_advantages=samples[0].objective_advantages * np.inf)
    policy = tiny_policy(combining("mgda", conflict_every=1))
    before = weights(policy)
    report = policy.step(samples)
    assert (report.applied, report.skipped) == (False, Skipped.NOT_FINITE)
    assert torch.equal(weights(policy), before)
    assert policy.step(with_objectives(2)).applied


@pytest.mark.parametrize("method", [None, "mgda"])
def test_a_gradient_that_is_not_finite_is_not_told_as_0_and_no_measurement(method: GradientCombiner | None) -> None:
    policy = tiny_policy(combining(method, conflict_every=9))
    with torch.no_grad():
        next(policy.model.parameters())[4] = np.nan
    report = policy.step(with_objectives(2))
    assert report.skipped is Skipped.NOT_FINITE
    assert not [name for name in report.diagnostics if name.startswith(("grad/", "objectives/grad_norm"))]
    assert policy.train_step.conflict_measured_at is None


@pytest.mark.parametrize(("left", "told"), [(0, r"rollout 'r'.*none came"), (1, r"of 1 objectives came.*2 objectives")])
def test_rows_without_their_objectives_are_refused(left: int, told: str) -> None:
    first, second, *others = with_objectives(2)
    assert second.objective_advantages is not None
    lacking = replace(second, objective_advantages=second.objective_advantages[:left] if left else None)
    with pytest.raises(ConfigError, match=told):
        tiny_policy(combining("pcgrad")).step([first, lacking, *others])


# -- the conflict of the channels -------------------------------------------------------------------------------------


def cosine_by_hand(samples: Sequence[TrainSample], config: StepConfig) -> float:
    objective_W = dense_gradient(tiny_model(), of_objective(samples, 0), config)
    directive_W = dense_gradient(tiny_model(), of_directives(samples), config)
    return float(objective_W @ directive_W / objective_W.norm() / directive_W.norm())


@pytest.mark.parametrize("max_tokens", [1, 25, 10_000])
def test_the_cosine_is_that_of_brute_force(max_tokens: int) -> None:
    config = combining(None, conflict_every=1, optimizer={"micro_batch_tokens": max_tokens})
    told = tiny_policy(config).step(batch()).diagnostics
    assert told[GRADIENT_CONFLICT] == pytest.approx(cosine_by_hand(batch(), config), rel=1e-8)
    directive = dense_gradient(tiny_model(), of_directives(batch()), config)
    assert told["grad/norm_directive"] == pytest.approx(float(directive.norm()), rel=1e-8)


def test_two_channels_that_ask_for_the_opposite() -> None:
    # the same tokens: pushed down by a negative advantage, pulled up by imitation with the same derivative
    prompt, completion = (4, 5, 6), (7, 8, 9)
    pushed = sample(prompt, completion, advantage=-1.0, pg=1.0)
    same = tiny_policy().logprobs([prompt], [completion])[0]
    pushed = replace(pushed, behaviour_logprobs=same)
    pulled = sample(prompt, completion, advantage=1.0, imitate=1.0, behaviour=same.tolist(), guided=same.tolist())
    config = combining(None, conflict_every=1, refinement={"ratio_mode": "oc_is"}, loss=UNCLIPPED)
    assert tiny_policy(config).step([pushed, pulled]).diagnostics[GRADIENT_CONFLICT] == pytest.approx(-1.0)
    raised = replace(pushed, advantages=-pushed.advantages)
    assert tiny_policy(config).step([raised, pulled]).diagnostics[GRADIENT_CONFLICT] == pytest.approx(1.0)


@pytest.mark.parametrize("loss", [{}, {"kl_weight": 0.1, "entropy_weight": 0.01}])
def test_a_measured_run_has_the_weights_of_an_unmeasured_one_bit_for_bit(loss: dict[str, object]) -> None:
    measured, plain = tiny_policy(combining(None, conflict_every=1, loss=loss)), tiny_policy(step_config(loss=loss))
    for _ in range(3):
        mine, other = measured.step(batch()), plain.step(batch())
        assert GRADIENT_CONFLICT in mine.diagnostics
        assert (mine.loss, mine.grad_norm) == (other.loss, other.grad_norm)
    assert torch.equal(weights(measured), weights(plain))


@pytest.mark.parametrize("method", COMBINERS)
def test_joined_objectives_are_measured_as_they_were_joined(method: GradientCombiner) -> None:
    config, samples = combining(method, conflict_every=1), with_objectives(2)
    objectives_KW, directive_W = dense_parts(samples, config, 2)
    joint_W = gradient_coefficients(objectives_KW @ objectives_KW.T, method, seed=0) @ objectives_KW
    measured, plain = tiny_policy(config), tiny_policy(combining(method))
    told = measured.step(samples).diagnostics
    assert told[GRADIENT_CONFLICT] == pytest.approx(
        float(joint_W @ directive_W / joint_W.norm() / directive_W.norm()), rel=1e-6
    )
    assert told["grad/norm_evaluative"] == pytest.approx(float(joint_W.norm()), rel=1e-8)
    assert GRADIENT_CONFLICT not in plain.step(samples).diagnostics
    assert torch.equal(weights(measured), weights(plain))


def test_it_is_measured_some_steps_after_the_latest_time_at_the_first_step_with_both(tmp_path: Path) -> None:
    policy = tiny_policy(combining(None, conflict_every=3))
    plain = [s for s in batch() if s.teacher is None and not s.imitate_weight.any()]

    def measured(samples: Sequence[TrainSample]) -> bool:
        report = policy.step(samples)
        assert report.applied
        return "grad/norm_directive" in report.diagnostics

    # due at step 0, and from step 3 on: step 4 is the first that has both then
    steps = (batch(), batch(), plain, plain, batch(), batch())
    assert [measured(samples) for samples in steps] == [True, False, False, False, True, False]
    policy.save(tmp_path)
    again = tiny_policy(combining(None, conflict_every=3))
    again.restore(tmp_path)
    assert again.train_step.conflict_measured_at == 4
    policy = again
    assert [measured(batch()) for _ in range(3)] == [False, True, False]  # steps 6, 7 and 8


def test_a_checkpoint_from_before_there_was_a_measurement_is_read(tmp_path: Path) -> None:
    policy = tiny_policy()
    policy.step(batch())
    policy.save(tmp_path)
    state = torch.load(tmp_path / "optimizer.pt", weights_only=True)
    del state["conflict_measured_at"]
    torch.save(state, tmp_path / "optimizer.pt")
    again = tiny_policy(combining(None, conflict_every=1))
    again.restore(tmp_path)
    assert GRADIENT_CONFLICT in again.step(batch()).diagnostics


def test_one_kind_of_feedback_alone_costs_and_tells_nothing() -> None:
    for samples in (of_directives(batch()), [s for s in batch() if s.teacher is None and not s.imitate_weight.any()]):
        policy = tiny_policy(combining(None, conflict_every=1))
        passes: list[int] = []

        def count(*_: object, seen: list[int] = passes) -> None:
            seen.append(1)

        policy.model.base_model.register_forward_pre_hook(count)
        report = policy.step(samples)
        assert report.applied and len(passes) == 1
        assert not [name for name in report.diagnostics if name.startswith("grad/")]


def test_a_directive_gradient_of_zero_has_no_direction() -> None:
    flat = [replace(s, advantages=0 * s.advantages) if s.pg_weight.any() else s for s in batch()]
    flat[0] = batch()[0]
    none = [replace(s, distill_weight=0 * s.distill_weight) for s in flat]
    config = combining(None, conflict_every=1)
    config = config._replace(refinement=config.refinement.model_copy(update={"weight": 0.0}))
    told = tiny_policy(config).step(none).diagnostics
    assert told["grad/norm_directive"] == 0
    assert GRADIENT_CONFLICT not in told
