"""What fixed weights do to right and wrong answers: the spec's losses and directions through the real step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from critique_rl.algorithms.by_name import build_algorithm
from critique_rl.algorithms.grpo import Grpo
from critique_rl.algorithms.weighted_reinforce import WeightedReinforce
from critique_rl.config.algorithm import GrpoConfig, WeightedReinforceConfig
from critique_rl.config.load import validate
from critique_rl.config.loss import LossConfig
from critique_rl.errors import ConfigError
from critique_rl.protocols import Skipped, StepReport
from critique_rl.types import Group, Message, Rollout, Score, ScoreStatus, Task, TrainSample
from tests.algorithms.groups import ERROR, advantages, group
from tests.policy.bigram import Bigram, bigram_step
from tests.tiny import step_config

REWARDS = [1, 0, 0, 1, 0, 0, 0, 0]
LENGTHS = [2, 4, 1, 3, 5, 2, 2, 1]
PRESETS = ["psr", "nsr", "w_reinforce", "reinforce"]


def method(**options: object) -> WeightedReinforce:
    return WeightedReinforce(WeightedReinforceConfig.model_validate(options))


def loss_of(**loss: object) -> LossConfig:
    return validate({"algorithm": {"name": "weighted_reinforce"}, "loss": loss}, source="test").loss


def sampled(
    completions: Sequence[Sequence[int]], behaviour: Sequence[Sequence[float]], rewards: Sequence[float]
) -> Group:
    """A group of rollouts after the prompt (1,) with these tokens, log-probs and rewards."""
    rollouts = tuple(
        Rollout(
            id=f"r{i}",
            task_id="t",
            prompt_ids=(1,),
            completion_ids=tuple(tokens),
            behaviour_logprobs=tuple(logprobs),
            text="",
            finished=True,
            policy_version=0,
        )
        for i, (tokens, logprobs) in enumerate(zip(completions, behaviour, strict=True))
    )
    task = Task(id="t", messages=(Message(role="user", content="q"),), answer="1", verifier="exact")
    return Group(task=task, rollouts=rollouts, scores=tuple(Score(reward=r) for r in rewards))


def of_lengths(rewards: Sequence[float] = REWARDS, lengths: Sequence[int] = LENGTHS) -> Group:
    """Sampled from the uniform `Bigram` of five tokens, so that every ratio is 1."""
    tokens = [[1 + t % 4 for t in range(n)] for n in lengths]
    return sampled(tokens, [[math.log(1 / 5)] * n for n in lengths], rewards)


def stepped(samples: Sequence[TrainSample], loss: Mapping[str, object] | None = None) -> StepReport:
    config = step_config(loss=loss)._replace(loss=loss_of(**(loss or {})))
    report = bigram_step(Bigram(5, {}), config).accumulate(samples)
    assert report is not None
    return report


# -- weights and losses of the spec ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "wanted"),
    [
        ("psr", [1, 0, 0, 1, 0, 0, 0, 0]),
        ("nsr", [0, -1, -1, 0, -1, -1, -1, -1]),
        ("w_reinforce", [0.1, -1, -1, 0.1, -1, -1, -1, -1]),
        ("reinforce", [1, -1, -1, 1, -1, -1, -1, -1]),
    ],
)
def test_each_name_is_a_pair_of_weights(preset: str, wanted: list[float]) -> None:
    samples = method(preset=preset).assemble([of_lengths()])
    assert advantages(samples) == wanted
    assert [bool(s.pg_weight.all()) for s in samples] == [value != 0 for value in wanted]
    assert not any(s.imitate_weight.any() or s.distill_weight.any() or s.teacher for s in samples)


def test_a_group_method_says_something_else() -> None:
    # mean .25, sample std sqrt(6 * .0625 + 2 * .5625) / 7) = .46291: .75 / .46291 and -.25 / .46291
    found = advantages(Grpo(GrpoConfig(scale="std")).assemble([of_lengths()]))
    assert found[:2] == pytest.approx([1.620182, -0.540061], abs=1e-6)


def test_no_group_is_looked_at() -> None:
    whole = method(preset="reinforce").assemble([of_lengths()])
    single = [
        sample
        for i in range(8)
        for sample in method(preset="reinforce").assemble([of_lengths(REWARDS[i : i + 1], LENGTHS[i : i + 1])])
    ]
    assert advantages(whole) == advantages(single)


@pytest.mark.parametrize(
    ("options", "loss"),
    [
        ({"preset": "psr"}, -1.0),
        ({"preset": "nsr"}, 1.0),  # whatever the share of wrong answers
        ({"preset": "w_reinforce"}, 0.725),  # (15 - .1 * 5) / 20
        ({}, 0.725),
        ({"preset": "psr", "denominator": "all"}, -0.25),  # -5 / 20
        ({"preset": "nsr", "denominator": "all"}, 0.75),  # 15 / 20
    ],
)
def test_losses_of_the_spec_through_the_step(options: dict[str, object], loss: float) -> None:
    assert stepped(method(**options).assemble([of_lengths()])).pg_loss == pytest.approx(loss, abs=1e-12)


def test_the_loss_against_a_plain_loop() -> None:
    drift = np.random.default_rng(2)
    logprobs = [[math.log(1 / 5) - float(d) for d in drift.normal(scale=0.3, size=n)] for n in LENGTHS]
    tokens = [[1 + t % 4 for t in range(n)] for n in LENGTHS]
    samples = method(positive_weight=0.3, negative_weight=0.7).assemble([sampled(tokens, logprobs, REWARDS)])
    total, count = 0.0, 0
    for reward, row in zip(REWARDS, logprobs, strict=True):
        advantage = 0.3 if reward else -0.7
        for behaviour in row:
            ratio = 0.2 / math.exp(behaviour)
            total -= min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
            count += 1
    assert stepped(samples).pg_loss == pytest.approx(total / count, abs=1e-12)


def test_rare_errors_move_as_much_as_frequent_ones_unless_all_tokens_count() -> None:
    rare, often = of_lengths([1] * 7 + [0], [3] * 8), of_lengths([0] * 7 + [1], [3] * 8)
    for options, losses in (
        ({"preset": "nsr"}, (1.0, 1.0)),
        ({"preset": "nsr", "denominator": "all"}, (1 / 8, 7 / 8)),
    ):
        found = [stepped(method(**options).assemble([g])).pg_loss for g in (rare, often)]
        assert found == pytest.approx(losses, abs=1e-12)


def test_what_is_left_out_is_no_regularised_token_either() -> None:
    bonus: dict[str, object] = {"entropy_weight": 0.5}
    kept = stepped(method(preset="nsr").assemble([of_lengths()]), bonus)
    every = stepped(method(preset="nsr", denominator="all").assemble([of_lengths()]), bonus)
    # the entropy of five equal chances is log 5, the same at every token
    assert kept.pg_loss == pytest.approx(1.0 - 0.5 * math.log(5))
    assert every.pg_loss == pytest.approx(0.75 - 0.5 * math.log(5))
    assert (kept.diagnostics["rows/trained"], every.diagnostics["rows/trained"]) == (6.0, 8.0)


# -- which way it pushes -----------------------------------------------------------------------------------------------


def ascent(preset: str, token: int, probabilities: Sequence[float], *, right: bool) -> torch.Tensor:
    """Minus the gradient of the step's loss on the logits, for one answer of one token."""
    model = Bigram(len(probabilities), {1: probabilities})
    own = [[math.log(probabilities[token])]]
    samples = method(preset=preset).assemble([sampled([[token]], own, [float(right)])])
    report = bigram_step(model, step_config()._replace(loss=loss_of())).accumulate(samples)
    assert report is not None and model.table_VV.grad is not None
    return -model.table_VV.grad[1]


PI = [0.6, 0.3, 0.1]


def entropy(probabilities: torch.Tensor) -> float:
    return -float((probabilities * probabilities.log()).sum())


def test_a_wrong_answers_mass_goes_to_the_others_by_their_probability() -> None:
    direction = ascent("nsr", 0, PI, right=False)
    assert direction.tolist() == pytest.approx([-0.4, 0.3, 0.1], abs=1e-12)
    # the gradient of the probability itself has pi_y in front, which the ratio to the sampler divides out
    assert (0.6 * direction).tolist() == pytest.approx([-0.24, 0.18, 0.06], abs=1e-12)
    moved = (torch.tensor(PI).double().log() + direction).softmax(0)
    assert moved.tolist() == pytest.approx([0.438277, 0.441291, 0.120433], abs=1e-6)
    assert float(moved[1] / moved[2]) == pytest.approx(3.664208, abs=1e-6)
    assert entropy(torch.tensor(PI).double()) == pytest.approx(0.897946, abs=1e-6)
    assert entropy(moved) == pytest.approx(0.977451, abs=1e-6)


def test_a_right_answer_sharpens() -> None:
    moved = (torch.tensor(PI).double().log() + ascent("psr", 0, PI, right=True)).softmax(0)
    assert moved.tolist() == pytest.approx([0.741080, 0.184005, 0.074915], abs=1e-6)
    assert entropy(moved) == pytest.approx(0.727678, abs=1e-6)


def test_a_confident_token_of_a_wrong_answer_hardly_moves() -> None:
    assert ascent("nsr", 0, [0.99, 0.009, 0.001], right=False).tolist() == pytest.approx([-0.01, 0.009, 0.001])


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("right", [True, False])
def test_one_real_step_moves_a_log_prob_by_its_sign(preset: str, right: bool) -> None:
    model = Bigram(3, {1: PI})
    step = bigram_step(model, step_config()._replace(loss=loss_of()))
    report = step(method(preset=preset).assemble([sampled([[0]], [[math.log(0.6)]], [float(right)])]))
    after = float(model.table_VV.detach()[1].log_softmax(0)[0])
    silent = (preset == "psr" and not right) or (preset == "nsr" and right)
    assert report.applied is not silent
    assert after == pytest.approx(math.log(0.6), abs=1e-15) if silent else (after > math.log(0.6)) is right


@pytest.mark.parametrize(
    ("options", "right", "ratio", "loss", "moves"),
    [
        ({"preset": "nsr"}, False, 0.7, 0.8, False),
        ({"preset": "nsr"}, False, 1.5, 1.5, True),
        ({"preset": "w_reinforce"}, True, 1.5, -0.12, False),
        ({"preset": "w_reinforce"}, True, 0.7, -0.07, True),
    ],
)
def test_the_clip_binds_on_one_side_only(
    options: dict[str, object], right: bool, ratio: float, loss: float, moves: bool
) -> None:
    model = Bigram(3, {1: PI})
    fed = sampled([[0]], [[math.log(0.6 / ratio)]], [float(right)])
    report = bigram_step(model, step_config()._replace(loss=loss_of())).accumulate(method(**options).assemble([fed]))
    assert report is not None and model.table_VV.grad is not None
    assert report.pg_loss == pytest.approx(loss, abs=1e-12)
    assert bool(model.table_VV.grad.any()) is moves


def test_dual_clip_bounds_a_wrong_token_that_grew() -> None:
    samples = method(preset="nsr").assemble([sampled([[0]], [[math.log(0.2 / 9.0)]], [0.0])])
    assert stepped(samples).pg_loss == pytest.approx(9.0)
    assert stepped(samples, {"dual_clip": 3.0}).pg_loss == pytest.approx(3.0)


# -- nothing to learn, nothing known -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("preset", "reward"), [("nsr", 1.0), ("psr", 0.0)])
@pytest.mark.parametrize("bonus", [{}, {"entropy_weight": 0.5}, {"entropy_target": 1.0}])
@pytest.mark.parametrize("denominator", ["kept", "all"])
def test_a_step_in_which_nothing_is_kept(
    preset: str, reward: float, bonus: dict[str, object], denominator: str
) -> None:
    model = Bigram(5, {})
    before = model.table_VV.detach().clone()
    step = bigram_step(model, step_config()._replace(loss=loss_of(**bonus)))
    report = step(method(preset=preset, denominator=denominator).assemble([of_lengths([reward] * 8)]))
    if denominator == "kept" or not bonus.get("entropy_weight"):
        assert not report.applied and report.skipped is Skipped.NOTHING_TO_LEARN
        assert torch.equal(model.table_VV, before)
    else:
        assert report.applied  # every answer counts, and the bonus is all that they are told


def test_a_verifier_that_failed_says_nothing() -> None:
    for options in ({}, {"preset": "nsr", "denominator": "all"}):
        samples = method(**options).assemble([group([1, ERROR, 0])])
        assert not samples[1].pg_weight.any() and not samples[1].advantages.any()
        assert samples[2].pg_weight.all() and samples[2].advantages[0] == -1.0


def test_an_answer_that_cannot_be_read_is_a_wrong_one() -> None:
    fed = group([1, 0])
    unread = (fed.scores[0], Score(reward=0.0, status=ScoreStatus.UNPARSED))
    assert advantages(method().assemble([replace(fed, scores=unread)])) == [0.1, -1.0]


def test_rollouts_that_an_earlier_step_learned_from_or_nobody_sampled() -> None:
    late = method(preset="reinforce").assemble([replace(group([1, 0]), late=True)])
    assert not any(s.pg_weight.any() for s in late)
    fed = group([1])
    foreign = replace(fed, rollouts=(replace(fed.rollouts[0], behaviour_logprobs=()),))
    assert not method().assemble([foreign])[0].pg_weight.any()
    assert method().assemble([]) == []


# -- partial credit ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reward", [0.5, 0.999, 1e-9])
def test_partial_credit_needs_a_threshold(reward: float) -> None:
    with pytest.raises(ConfigError, match=r"algorithm.threshold: rollout r1 of task t has the reward .*set algorithm"):
        method().assemble([group([1, reward])])


def test_a_threshold_decides() -> None:
    fed = group([0.2, 0.5, 0.75, 1, 0])
    assert advantages(method(preset="reinforce", threshold=0.5).assemble([fed])) == [-1.0, 1.0, 1.0, 1.0, -1.0]
    assert advantages(method(preset="reinforce", threshold=1.0).assemble([fed])) == [-1.0, -1.0, -1.0, 1.0, -1.0]


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_a_reward_that_is_no_number_stops_before_anything_is_trained(threshold: float | None) -> None:
    with pytest.raises(ConfigError, match=r"rewards: rollout r0 of task t has a reward that is no number \(nan\)"):
        method(threshold=threshold).assemble([group([math.nan])])


# -- figures -----------------------------------------------------------------------------------------------------------


def test_figures_of_the_latest_step() -> None:
    nsr = method(preset="nsr")
    assert nsr.figures() == {}
    nsr.assemble([of_lengths()])
    assert nsr.figures() == {"reinforce/kept_share": 0.75, "reinforce/right_share": 0.25}
    nsr.assemble([group([1, ERROR]), group([1])])
    assert nsr.figures() == {"reinforce/kept_share": 0.0, "reinforce/right_share": 1.0}
    nsr.assemble([group([ERROR])])
    assert nsr.figures() == {}
    both = method()
    both.assemble([of_lengths()])
    assert both.figures()["reinforce/kept_share"] == 1.0


def test_it_is_built_by_name() -> None:
    built = build_algorithm(WeightedReinforceConfig(preset="nsr"))
    assert isinstance(built, WeightedReinforce) and built.name == "weighted_reinforce" and built.needs == frozenset()
