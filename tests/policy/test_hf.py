"""The policy as the loop sees it: who the teacher is, and checkpoints that go on exactly where they stopped."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from critique_rl.errors import CheckpointError
from critique_rl.policy.hf import HFPolicy
from critique_rl.policy.step import count_denominators
from critique_rl.policy.teacher import EMA_FILE
from critique_rl.types import Message, TeacherTargets
from tests.tiny import V, gradient, sample, step_config, tiny_policy, weights

PROMPT, COMPLETION, CONTEXT = (4, 5, 6), (7, 8, 9), (20, 21, 4, 5, 6)
STEP = [sample(PROMPT, COMPLETION, advantage=0.5, pg=1.0), sample(PROMPT, (8, 2), advantage=-0.5, pg=1.0)]
NOTHING = [sample(PROMPT, COMPLETION, pg=1.0)]  # no advantage: a skipped step
EMA = {"teacher": "ema", "ema_rate": 0.3}


def taught(policy: HFPolicy, *, k: int = 5, context: tuple[int, ...] = CONTEXT) -> TeacherTargets:
    return policy.topk_logprobs([context], [COMPLETION], k=k, who="teacher")[0]


@pytest.mark.parametrize("teacher", ["live", "frozen"])
def test_a_frozen_teacher_stays_what_the_policy_was(teacher: str) -> None:
    policy = tiny_policy(step_config(distillation={"teacher": teacher}))

    def scores(who: str) -> np.ndarray:
        return policy.topk_logprobs([CONTEXT], [COMPLETION], k=5, who=who)[0].sampled_logprobs_T  # pyright: ignore[reportArgumentType]

    start = scores("teacher")
    assert np.array_equal(start, scores("policy"))
    assert policy.step(STEP).applied
    assert not np.allclose(scores("policy"), start, atol=1e-6)
    assert np.array_equal(scores("teacher"), start if teacher == "frozen" else scores("policy"))


def test_an_ema_teacher_scores_with_the_average_of_the_weights() -> None:
    policy = tiny_policy(step_config(distillation=EMA))
    expected = weights(policy)
    for _ in range(3):
        assert policy.step(STEP).diagnostics["teacher/refreshed"] == 1.0
        expected = 0.7 * expected + 0.3 * weights(policy)
    alone = tiny_policy()
    torch.nn.utils.vector_to_parameters(expected, alone.model.parameters())
    (reference,) = alone.topk_logprobs([CONTEXT], [COMPLETION], k=5, who="policy")
    found = taught(policy)
    assert found.ids_TK.tolist() == reference.ids_TK.tolist()
    assert np.allclose(found.logprobs_TK, reference.logprobs_TK, rtol=0, atol=1e-12)
    assert not np.allclose(found.logprobs_TK, taught(tiny_policy()).logprobs_TK, rtol=0, atol=1e-6)


def test_a_skipped_step_leaves_the_ema_teacher_where_it_was() -> None:
    policy = tiny_policy(step_config(distillation=EMA))
    policy.step(STEP)
    before = taught(policy).sampled_logprobs_T
    report = policy.step(NOTHING)
    assert not report.applied and report.diagnostics["teacher/refreshed"] == 0.0
    assert np.array_equal(taught(policy).sampled_logprobs_T, before)


@pytest.mark.parametrize("options", [{"teacher": "live"}, {"teacher": "frozen"}, EMA])
@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
@pytest.mark.parametrize(("k", "tail"), [(5, True), (5, False), (V, True)])
def test_a_teacher_that_says_what_the_policy_says_moves_nothing(
    options: dict[str, object], divergence: str, k: int, tail: bool
) -> None:
    policy = tiny_policy(step_config(distillation={**options, "divergence": divergence, "k": k, "tail": tail}))
    row = sample(PROMPT, COMPLETION, distill=1.0, teacher=taught(policy, k=k, context=PROMPT))
    report = policy.train_step.accumulate([row])
    assert report is not None
    assert abs(report.distill_loss) < 1e-13
    assert float(gradient(policy, [row]).abs().max()) < 1e-12
    other = sample(PROMPT, COMPLETION, distill=1.0, teacher=taught(policy, k=k))  # shown something, it does
    assert float(gradient(policy, [other]).abs().max()) > 1e-3


def test_a_row_without_a_directive_is_no_row_of_the_channel() -> None:
    policy = tiny_policy()
    silent = [*STEP, sample(PROMPT, COMPLETION, distill=1.0)]
    assert count_denominators(silent, step_config()) == count_denominators(STEP, step_config())
    report = policy.train_step.accumulate(silent)
    assert report is not None and report.distill_loss == 0.0
    assert torch.equal(gradient(policy, silent), gradient(policy, STEP))


def test_the_models_positions_are_known() -> None:
    assert tiny_policy().max_positions == 128


def test_encode_and_decode_are_the_codecs() -> None:
    policy = tiny_policy()
    assert policy.encode([Message(role="user", content="w4 w5")]) == (4, 5)
    assert policy.decode((4, 5, 2)) == "w4 w5"


def test_a_restored_policy_takes_the_very_same_next_step(tmp_path: Path) -> None:
    config = step_config(optimizer={"warmup_steps": 3, "weight_decay": 0.01})
    first = tiny_policy(config)
    for _ in range(2):
        assert first.step(STEP).applied
    first.save(tmp_path)
    second = tiny_policy(config, seed=7)  # other weights, no moments
    second.restore(tmp_path)
    assert second.version == first.version == 2
    assert torch.equal(weights(second), weights(first))
    reports = first.step(STEP), second.step(STEP)
    assert reports[0] == reports[1]
    assert torch.equal(weights(second), weights(first))
    for mine, theirs in zip(
        first.train_step.optimizer.state_dict()["state"].values(),
        second.train_step.optimizer.state_dict()["state"].values(),
        strict=True,
    ):
        assert all(torch.equal(mine[name], theirs[name]) for name in ("step", "exp_avg", "exp_avg_sq"))


def test_a_restored_ema_teacher_goes_on_bit_for_bit(tmp_path: Path) -> None:
    config = step_config(distillation={**EMA, "ema_every": 2})
    first = tiny_policy(config)
    for _ in range(3):
        first.step(STEP)
    first.save(tmp_path)
    second = tiny_policy(config, seed=7)
    second.restore(tmp_path)
    assert np.array_equal(taught(first).logprobs_TK, taught(second).logprobs_TK)
    for refreshed in (1.0, 0.0, 1.0):  # steps 4, 5 and 6
        reports = first.step(STEP), second.step(STEP)
        assert reports[0] == reports[1] and reports[0].diagnostics["teacher/refreshed"] == refreshed
        assert np.array_equal(taught(first).logprobs_TK, taught(second).logprobs_TK)
    assert not np.array_equal(taught(first).logprobs_TK, taught(tiny_policy()).logprobs_TK)


def test_a_restored_policys_frozen_teacher_is_still_the_start(tmp_path: Path) -> None:
    first = tiny_policy()
    start = taught(first).logprobs_TK
    for _ in range(2):
        first.step(STEP)
    first.save(tmp_path)
    second = tiny_policy()  # built from the start's weights, as every run is
    second.restore(tmp_path)
    assert not (tmp_path / EMA_FILE).exists()
    assert np.array_equal(taught(second).logprobs_TK, start)


def test_a_checkpoint_loads_with_from_pretrained(tmp_path: Path) -> None:
    policy = tiny_policy()
    policy.save(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    ids_BT = torch.tensor([[4, 5, 6]])
    assert torch.equal(model(input_ids=ids_BT).logits, policy.model(input_ids=ids_BT).logits)
    assert AutoTokenizer.from_pretrained(tmp_path / "policy").encode("w4 w5") == [4, 5]


def cut(name: str, size: int) -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_bytes((directory / name).read_bytes()[:size])


def drop_a_weight(directory: Path) -> None:
    file = directory / "policy" / "model.safetensors"
    state = load_file(file)
    del state["model.norm.weight"]
    save_file(state, file, metadata={"format": "pt"})


BREAKAGES: dict[str, Callable[[Path], object]] = {
    "no directory": shutil.rmtree,
    "no weights": lambda d: (d / "policy" / "model.safetensors").unlink(),
    "cut weights": cut("policy/model.safetensors", 500),
    "a weight too few": drop_a_weight,
    "no optimizer": lambda d: (d / "optimizer.pt").unlink(),
    "cut optimizer": cut("optimizer.pt", 300),
    "empty optimizer": cut("optimizer.pt", 0),
    "not an optimizer": lambda d: torch.save({"steps_taken": 1}, d / "optimizer.pt"),
    "another model's optimizer": lambda d: torch.save(
        {"steps_taken": 1, "optimizer": torch.optim.AdamW([torch.zeros(2)]).state_dict()}, d / "optimizer.pt"
    ),
}


@pytest.mark.parametrize(
    "breakage",
    [
        lambda d: (d / EMA_FILE).unlink(),
        cut(EMA_FILE, 500),
        cut(EMA_FILE, 0),
        lambda d: save_file({"model.norm.weight": torch.ones(16)}, d / EMA_FILE),
    ],
    ids=["absent", "cut", "empty", "another model's"],
)
def test_a_broken_ema_teacher_is_one_clear_error(breakage: Callable[[Path], object], tmp_path: Path) -> None:
    policy = tiny_policy(step_config(distillation=EMA))
    policy.step(STEP)
    policy.save(tmp_path)
    breakage(tmp_path)
    with pytest.raises(CheckpointError, match=r"cannot be read: .+; delete it to go back"):
        policy.restore(tmp_path)


@pytest.mark.parametrize("breakage", BREAKAGES.values(), ids=BREAKAGES.keys())
def test_a_broken_checkpoint_is_one_clear_error(breakage: Callable[[Path], object], tmp_path: Path) -> None:
    policy = tiny_policy()
    policy.step(STEP)
    directory = tmp_path / "step-000001"
    policy.save(directory)
    breakage(directory)
    with pytest.raises(CheckpointError, match=r"step-000001' cannot be read: .+; delete it to go back"):
        policy.restore(directory)
