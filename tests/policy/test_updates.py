"""Several updates on one batch: who is in which, what they come to, and a guard's knobs."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from critique_rl.policy.updates import joined_report, mini_batches
from critique_rl.protocols import Skipped, StepReport
from critique_rl.types import Knobs, TrainSample
from tests.policy.test_pg_channel import batch
from tests.tiny import sample, step_config, tiny_policy, weights


def of_tasks(*names: str) -> list[TrainSample]:
    rows = [sample((4, 5), (6, 7 + i % 3), advantage=1.0, pg=1.0, behaviour=[-3, -3]) for i in range(len(names))]
    return [
        replace(row, task_id=name, rollout_id=str(i)) for i, (row, name) in enumerate(zip(rows, names, strict=True))
    ]


@given(
    st.lists(st.sampled_from("abcdefg"), min_size=0, max_size=20),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(0, 9),
)
def test_every_sample_is_used_once_an_epoch_and_tasks_stay_together(
    names: list[str], updates: int, epochs: int, seed: int
) -> None:
    samples = of_tasks(*names)
    batches = mini_batches(samples, updates=updates, epochs=epochs, seed=seed)
    per_epoch = min(updates, len(set(names)))
    assert len(batches) == per_epoch * epochs
    for epoch in range(epochs):
        dealt = batches[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert sorted(s.rollout_id for part in dealt for s in part) == sorted(s.rollout_id for s in samples)
        held = [{s.task_id for s in part} for part in dealt]
        assert sum(map(len, held)) == len(set(names))
        assert max(map(len, held), default=0) - min(map(len, held), default=0) <= 1
        assert all([int(s.rollout_id) for s in part] == sorted(int(s.rollout_id) for s in part) for part in dealt)
    again = mini_batches(samples, updates=updates, epochs=epochs, seed=seed)
    assert [[s.rollout_id for s in part] for part in again] == [[s.rollout_id for s in part] for part in batches]


def test_epochs_are_dealt_out_anew() -> None:
    samples = of_tasks(*"abcdefgh")
    first, second = (
        [{s.task_id for s in part} for part in mini_batches(samples, updates=4, epochs=2, seed=0)][at : at + 4]
        for at in (0, 4)
    )
    assert first != second


def test_two_updates_are_two_steps_on_the_halves() -> None:
    samples = [replace(s, task_id=str(i)) for i, s in enumerate(batch(0))]
    both, by_hand = tiny_policy(step_config(optimizer={"updates_per_step": 2})), tiny_policy()
    report = both.step(samples)
    parts = mini_batches(samples, updates=2, epochs=1, seed=0)
    singles = [by_hand.step(part) for part in parts]
    assert both.version == by_hand.version == 2
    assert torch.equal(weights(both), weights(by_hand))
    assert report.applied and report.loss == pytest.approx(sum(r.loss for r in singles) / 2)
    assert report.grad_norm == pytest.approx(sum(r.grad_norm for r in singles) / 2)
    assert report.diagnostics["updates/applied"] == 2.0
    assert report.diagnostics["rows/trained"] == sum(r.diagnostics["rows/trained"] for r in singles)
    assert report.trained_tokens == sum(r.trained_tokens for r in singles)


def test_one_update_is_the_step_itself() -> None:
    one, other = tiny_policy(), tiny_policy(step_config(optimizer={"updates_per_step": 1, "epochs": 1}))
    assert one.step(batch(0)) == other.train_step(batch(0))
    assert torch.equal(weights(one), weights(other))


def test_the_second_update_sees_ratios_against_the_sampler() -> None:
    samples = [replace(s, task_id="one") for s in batch(0)]
    policy = tiny_policy(step_config(optimizer={"epochs": 2, "learning_rate": 0.05}, loss={"kl_cov_share": 0.2}))
    own = [replace(s, behaviour_logprobs=policy.logprobs([s.prompt_ids], [s.completion_ids])[0]) for s in samples]
    first = tiny_policy(step_config(loss={"kl_cov_share": 0.2})).step(own)
    assert first.diagnostics["ratio/mean"] == pytest.approx(1.0)
    both = policy.step(own)
    assert abs(both.diagnostics["ratio/mean"] - 1.0) > 1e-3  # mean over both updates: the second is off policy


def test_a_resumed_policy_deals_out_and_draws_as_an_unbroken_one(tmp_path: Path) -> None:
    loss = {"clip_cov_share": 0.2, "clip_cov_band": (-9.0, 9.0), "entropy_target": 50.0}
    config = step_config(optimizer={"updates_per_step": 2, "epochs": 2}, loss=loss)
    samples = [replace(s, task_id=str(i)) for i, s in enumerate(batch(0))]
    whole = tiny_policy(config)
    whole.step(samples)
    whole.save(tmp_path)
    resumed = tiny_policy(config, seed=3)
    resumed.restore(tmp_path)
    assert whole.step(samples) == resumed.step(samples)
    assert torch.equal(weights(whole), weights(resumed))


def test_an_adaptive_bonus_moves_once_a_batch() -> None:
    samples = [replace(s, task_id=str(i)) for i, s in enumerate(batch(0))]
    policy = tiny_policy(step_config(optimizer={"updates_per_step": 3}, loss={"entropy_target": 50.0}))
    policy.step(samples)
    assert policy.train_step.entropy_coefficient == pytest.approx(0.005)


def test_a_slow_teacher_follows_though_its_step_is_stepped_over() -> None:
    # two updates a batch, an average every third step: due after 3 and 6, in the batches that end at 4 and 6
    samples = [replace(s, task_id=str(i)) for i, s in enumerate(batch(0))]
    config = step_config(
        optimizer={"updates_per_step": 2}, distillation={"teacher": "ema", "ema_every": 3, "ema_rate": 0.5}
    )
    policy = tiny_policy(config)
    told = [policy.step(samples).diagnostics["teacher/refreshed"] for _ in range(4)]
    assert told == [0.0, 1.0, 1.0, 0.0]


def test_a_mini_batch_without_anything_to_learn_is_skipped_alone() -> None:
    rows = of_tasks("a", "b")
    rows[1] = replace(rows[1], advantages=np.zeros(2))
    report = tiny_policy(step_config(optimizer={"updates_per_step": 2})).step(rows)
    assert report.applied and report.diagnostics["updates/applied"] == 1.0
    nothing = [replace(row, advantages=np.zeros(2)) for row in rows]
    skipped = tiny_policy(step_config(optimizer={"updates_per_step": 2})).step(nothing)
    assert not skipped.applied and skipped.skipped is Skipped.NOTHING_TO_LEARN
    assert not tiny_policy(step_config(optimizer={"updates_per_step": 2})).step([]).applied


def report(
    loss: float, figures: dict[str, float] | None = None, *, applied: bool = True, skipped: Skipped | None = None
) -> StepReport:
    return StepReport(loss, loss, 0.0, 0.0, 2 * loss, 10, applied, "why", figures or {}, skipped)


def test_a_joined_report_by_hand() -> None:
    # losses 1 and 3 -> 2; norms 2 and 6 -> 4; the broken one is counted, not averaged
    found = joined_report(
        [
            report(1.0, {"rows/trained": 2.0, "ratio/mean": 1.0}),
            report(math.nan, applied=False, skipped=Skipped.NOT_FINITE),
            report(3.0, {"rows/trained": 4.0, "ratio/mean": 1.5, "policy/kl": 0.5}),
        ]
    )
    assert (found.loss, found.grad_norm, found.trained_tokens, found.applied) == (2.0, 4.0, 20, True)
    assert found.diagnostics == {
        "rows/trained": 6.0,
        "ratio/mean": 1.25,
        "policy/kl": 0.5,
        "updates/applied": 2.0,
        "updates/not_finite": 1.0,
        "updates/grad_norm_max": 6.0,
    }
    broken = joined_report(
        [
            report(0.0, applied=False, skipped=Skipped.NOTHING_TO_LEARN),
            report(math.inf, applied=False, skipped=Skipped.NOT_FINITE),
        ]
    )
    assert not broken.applied and broken.skipped is Skipped.NOT_FINITE


# knobs


def test_knobs_change_what_a_step_reads_and_go_back() -> None:
    base = step_config(loss={"clip_high": 0.2}, optimizer={"learning_rate": 0.1}, temperature=0.9)
    policy = tiny_policy(base)
    step = policy.train_step
    policy.set_knobs(Knobs(clip_high=0.04, temperature=0.1, learning_rate=0.5, entropy_weight=0.3, kl_cov_share=0.01))
    turned = step.config
    assert turned.loss.clip_high == pytest.approx(0.24) and turned.temperature == pytest.approx(1.0)
    assert turned.optimizer.learning_rate == pytest.approx(0.05)
    assert (turned.loss.entropy_weight, turned.loss.kl_cov_share) == (0.3, 0.01)
    policy.set_knobs(Knobs())
    assert step.config is base


def test_a_turned_policy_is_one_that_was_made_so() -> None:
    samples = batch(0)
    turned = tiny_policy(step_config(loss={"clip_high": 0.2}))
    turned.set_knobs(Knobs(clip_high=0.3, learning_rate=2.0, entropy_weight=0.1, temperature=0.5))
    made = tiny_policy(
        step_config(loss={"clip_high": 0.5, "entropy_weight": 0.1}, optimizer={"learning_rate": 2e-3}, temperature=1.5)
    )
    assert turned.step(samples) == made.step(samples)
    assert torch.equal(weights(turned), weights(made))


def test_a_rise_in_temperature_leaves_the_ratio_of_fresh_samples_at_one() -> None:
    policy = tiny_policy()
    policy.set_knobs(Knobs(temperature=0.3))
    one = sample((4, 5, 6), (7, 8, 9), advantage=1.0, pg=1.0)
    (scored,) = policy.logprobs([one.prompt_ids], [one.completion_ids])
    logits = policy.model(input_ids=torch.tensor([[4, 5, 6, 7, 8, 9]])).logits[0, 2:5]
    sampled = (logits / 1.3).log_softmax(-1)[range(3), [7, 8, 9]].detach().numpy()  # as an engine at 1.3 has them
    assert np.allclose(scored, sampled)
    report = policy.step([replace(one, behaviour_logprobs=sampled)])
    assert report.diagnostics["ratio/mean"] == pytest.approx(1.0)


def test_knobs_reach_every_scorer() -> None:
    policy = tiny_policy(step_config(distillation={"teacher": "ema"}, loss={"kl_weight": 0.1}))
    twin = copy.copy(Knobs(temperature=1.0))
    policy.set_knobs(twin)
    row = ((4, 5), (6, 7))
    (one,) = policy.topk_logprobs([row[0]], [row[1]], k=3, who="teacher")
    (other,) = policy.topk_logprobs([row[0]], [row[1]], k=3, who="policy")
    assert np.allclose(one.logprobs_TK, other.logprobs_TK)  # the average is still the policy, and at its temperature
