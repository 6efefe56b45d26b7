"""One step's gradient against the dense reference, and against itself under every way of splitting the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from critique_rl.policy.step import StepConfig, count_denominators
from critique_rl.types import TrainSample
from tests.policy.dense import dense_gradient, dense_loss
from tests.tiny import V, gradient, random_targets, sample, step_config, tiny_model, tiny_policy


def batch(k: int = 5, seed: int = 0) -> list[TrainSample]:
    """Rollouts, a masked one, directives on some, a teacher with holes, and two refinements; unequal lengths."""
    rng = np.random.default_rng(seed)
    model = tiny_model()

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(int(x) for x in rng.integers(4, V, size=length))

    def near_policy(prompt: tuple[int, ...], completion: tuple[int, ...]) -> list[float]:
        with torch.no_grad():
            logits_TV = model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
        own = logits_TV.log_softmax(-1)[range(len(completion)), list(completion)].tolist()
        return [x + float(rng.normal(scale=0.25)) for x in own]  # ratios on both sides of the clip

    samples: list[TrainSample] = []
    for i, (prompt_length, length) in enumerate([(3, 5), (1, 8), (6, 2), (2, 1), (4, 7), (3, 4)]):
        prompt, completion = tokens(prompt_length), tokens(length)
        advantage = [0.7, -0.5, 0.0, -1.2, 0.3, 0.9][i]
        mask = np.ones(length)
        if i == 1:
            mask[[0, 5]] = 0.0
        teacher = random_targets(rng, length, k) if i in (1, 2, 4) else None
        if i == 4 and teacher is not None:
            teacher.logprobs_TK[2] = np.nan
            teacher.mask_T[2] = 0.0
        samples.append(
            sample(
                prompt,
                completion,
                advantage=advantage,
                pg=0.0 if i == 5 else 1.0,
                distill=1.0 if teacher is not None else 0.0,
                behaviour=near_policy(prompt, completion),
                mask=mask.tolist(),
                teacher=teacher,
            )
        )
    for length, advantage in [(4, 0.875), (6, -0.4)]:
        prompt, completion = tokens(3), tokens(length)
        bare = near_policy(prompt, completion)
        guided = [x + float(rng.normal(loc=0.8, scale=0.8)) for x in bare]
        samples.append(sample(prompt, completion, advantage=advantage, imitate=1.0, behaviour=bare, guided=guided))
    return samples


def assert_equals_dense(config: StepConfig, samples: list[TrainSample]) -> None:
    policy = tiny_policy(config)
    expected = dense_gradient(tiny_model(), samples, config)
    assert expected.norm() > 1e-3
    assert (gradient(policy, samples) - expected).norm() < 1e-10 * expected.norm()
    report = policy.train_step.accumulate(samples)
    assert report is not None
    assert report.loss == pytest.approx(dense_loss(tiny_model(), samples, config).item(), rel=1e-12)
    parts = (
        report.pg_loss,
        config.distillation.weight * report.distill_loss,
        config.refinement.weight * report.imitate_loss,
    )
    assert report.loss == pytest.approx(sum(parts), rel=1e-12)


@pytest.mark.parametrize("mode", ["shaped", "awr", "oc_is"])
@pytest.mark.parametrize("normalizer", ["constant", "tokens"])
@pytest.mark.parametrize("refinement_normalizer", ["own", "shared"])
def test_every_ratio_mode_and_normalizer(mode: str, normalizer: str, refinement_normalizer: str) -> None:
    config = step_config(
        loss={"normalizer": normalizer},
        refinement={"ratio_mode": mode, "normalizer": refinement_normalizer, "weight": 0.7},
        distillation={"weight": 0.3},
        temperature=0.8,
    )
    assert_equals_dense(config, batch())


@pytest.mark.parametrize("kind", ["forward", "reverse", "jsd"])
@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize("k", [5, V])
def test_every_divergence_and_support(kind: str, tail: bool, k: int) -> None:
    assert_equals_dense(step_config(distillation={"divergence": kind, "tail": tail, "jsd_alpha": 0.3}), batch(k))


def test_unequal_and_dual_clips() -> None:
    assert_equals_dense(step_config(loss={"clip_low": 0.1, "clip_high": 0.28, "dual_clip": 1.05}), batch())


@pytest.mark.parametrize("max_tokens", [1, 20, 33])
def test_no_micro_batch_split_changes_the_gradient(max_tokens: int) -> None:
    policy, samples = tiny_policy(step_config(refinement={"ratio_mode": "oc_is"})), batch()
    whole = gradient(policy, samples, max_tokens=10_000)
    assert (gradient(policy, samples, max_tokens=max_tokens) - whole).norm() < 1e-10 * whole.norm()


def test_no_order_of_rows_changes_the_gradient() -> None:
    policy, samples = tiny_policy(), batch()
    whole = gradient(policy, samples)
    for order in ([7, 6, 5, 4, 3, 2, 1, 0], [2, 7, 0, 5, 1, 3, 6, 4]):
        assert (gradient(policy, [samples[i] for i in order], max_tokens=25) - whole).norm() < 1e-10 * whole.norm()


@pytest.mark.parametrize("rows", [1, 3])
def test_no_chunk_size_of_the_head_changes_the_gradient(rows: int) -> None:
    policy, samples = tiny_policy(step_config(distillation={"divergence": "jsd"})), batch()
    whole = gradient(policy, samples)
    policy.train_step.head.chunk_bytes = rows * 8 * V
    assert (gradient(policy, samples) - whole).norm() < 1e-10 * whole.norm()


def test_what_stands_in_the_padding_changes_nothing() -> None:
    policy, samples = tiny_policy(), batch()
    whole = gradient(policy, samples, max_tokens=10_000)  # one micro-batch, the short rows mostly padding
    policy.train_step.pad_id = 17
    assert torch.equal(gradient(policy, samples, max_tokens=10_000), whole)


def test_rows_without_a_gradient_are_counted_but_not_forwarded() -> None:
    policy, samples = tiny_policy(step_config(loss={"normalizer": "tokens"})), batch()
    flat = [sample((4, 5), (6, 7, 8), advantage=0.0, pg=1.0) for _ in range(3)]
    widths: list[int] = []
    policy.model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(kwargs["input_ids"].shape[0]), with_kwargs=True
    )
    report = policy.train_step.accumulate(samples + flat)
    assert report is not None
    # the masked rollout (pg 0, no teacher) is not forwarded either
    assert sum(widths) == report.diagnostics["rows/trained"] == 7
    assert count_denominators(samples, policy.train_step.config).pg == 5 + 6 + 2 + 1 + 7
    assert count_denominators(samples + flat, policy.train_step.config).pg == 5 + 6 + 2 + 1 + 7 + 9
    expected = dense_gradient(tiny_model(), samples + flat, policy.train_step.config)
    assert (gradient(policy, samples + flat) - expected).norm() < 1e-10 * expected.norm()
