"""Fine-tuning on demonstrations: the mean cross-entropy of their tokens, and nothing else."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from critique_rl.algorithms.by_name import build_algorithm
from critique_rl.algorithms.sft import Sft
from critique_rl.config.algorithm import SftConfig
from critique_rl.config.load import validate
from critique_rl.errors import ConfigError, DataError
from critique_rl.loop.demonstrations import demonstrate
from critique_rl.policy.hf import HFPolicy
from critique_rl.rewards.exact import ExactReward
from critique_rl.types import Group, Message, Rollout, Score, Task
from tests.lab_runs import lab_config, lab_trainer, lines, run_lab, same_weights, weights
from tests.staged_runs import ROWS
from tests.tiny import EOS, step_config, tiny_policy

SOLUTIONS = ("w5 w6 w7", "w8", "w9 w5")


def task(solution: str | None, *, name: str = "t") -> Task:
    metadata = {} if solution is None else {"solution": solution}
    asked = (Message(role="user", content="w10 w11"),)
    return Task(id=name, messages=asked, answer="w7", verifier="exact", metadata=metadata)


def groups(policy: HFPolicy, *solutions: str, max_tokens: int = 8) -> list[Group]:
    tasks = [task(solution, name=f"t{i}") for i, solution in enumerate(solutions)]
    return demonstrate(tasks, policy=policy, reward=ExactReward(), max_tokens=max_tokens, step=3)


# -- what a demonstration is -------------------------------------------------------------------------------------------


def test_a_demonstration_is_a_rollout_that_nobody_sampled() -> None:
    policy = tiny_policy()
    (group,) = groups(policy, SOLUTIONS[0])
    (rollout,) = group.rollouts
    assert rollout.completion_ids == (5, 6, 7, EOS) and rollout.finished and rollout.behaviour_logprobs == ()
    assert rollout.prompt_ids == policy.encode(group.task.messages)
    assert (rollout.id, rollout.text, rollout.policy_version) == ("3/t0/solution", SOLUTIONS[0], 0)
    (score,) = group.scores
    assert score.reward == 0.0  # the whole text is not the answer: told as demonstrations/verified


@pytest.mark.parametrize("solution", [None, "", "  "])
def test_a_task_without_a_solution_is_named(solution: str | None) -> None:
    with pytest.raises(
        DataError, match=r"task 'sum-7' has no worked solution.*\"metadata\": \{\"solution\": \"...\"\}"
    ):
        demonstrate([task(solution, name="sum-7")], policy=tiny_policy(), reward=ExactReward(), max_tokens=8, step=0)


def test_a_solution_that_no_answer_could_be_is_refused() -> None:
    policy = tiny_policy()
    assert groups(policy, SOLUTIONS[0], max_tokens=4)
    with pytest.raises(DataError, match=r"task 't0': its solution has 4 tokens.*rollout.max_tokens = 3"):
        groups(policy, SOLUTIONS[0], max_tokens=3)


# -- what is learned ---------------------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_cross_entropy_of_all_tokens() -> None:
    """By a plain loop over the tokens: sum of -log softmax(logits)[id], over all demonstrations' tokens."""
    loss = validate({"algorithm": {"name": "sft"}}, source="test").loss
    policy = tiny_policy(step_config(loss=loss.model_dump(), distillation={"teacher": "live"}))
    gathered = groups(policy, *SOLUTIONS)
    surprise: list[float] = []
    for group in gathered:
        rollout = group.rollouts[0]
        context = list(rollout.prompt_ids)
        for token in rollout.completion_ids:
            with torch.no_grad():
                logits = policy.model(torch.tensor([context])).logits[0, -1]
            surprise.append(-float(torch.log_softmax(logits, dim=-1)[token]))
            context.append(token)
    report = policy.step(build_algorithm(SftConfig()).assemble(gathered))
    assert len(surprise) == 9  # 3 + 1 + 2 tokens, and an end token each
    assert report.pg_loss == pytest.approx(sum(surprise) / 9, rel=1e-6)
    assert report.loss == report.pg_loss and report.applied
    assert "ratio/mean" not in report.diagnostics and "ratio/clip_fraction" not in report.diagnostics
    assert all(math.isfinite(value) for value in report.diagnostics.values())


def test_one_step_makes_every_demonstration_likelier() -> None:
    loss = validate({"algorithm": {"name": "sft"}}, source="test").loss
    policy = tiny_policy(step_config(loss=loss.model_dump(), distillation={"teacher": "live"}))
    gathered = groups(policy, *SOLUTIONS)
    rollouts = [group.rollouts[0] for group in gathered]

    def total() -> float:
        scored = policy.logprobs([r.prompt_ids for r in rollouts], [r.completion_ids for r in rollouts])
        return float(sum(part.sum() for part in scored))

    before = total()
    policy.step(Sft(SftConfig()).assemble(gathered))
    assert total() > before


def test_tool_outputs_in_a_demonstration_are_not_learned() -> None:
    rollout = Rollout(
        id="r",
        task_id="t",
        prompt_ids=(1,),
        completion_ids=(5, 6, 7),
        behaviour_logprobs=(),
        text="",
        finished=True,
        policy_version=0,
        policy_mask=(True, False, True),
    )
    method = Sft(SftConfig())
    (sample,) = method.assemble([Group(task=task("w5"), rollouts=(rollout,), scores=(Score(reward=1.0),))])
    assert (sample.loss_mask * sample.pg_weight).tolist() == [1.0, 0.0, 1.0]
    assert np.isnan(sample.behaviour_logprobs).all() and sample.advantages.tolist() == [1.0] * 3
    assert method.figures() == {"tokens/trained": 2.0, "demonstrations/verified": 1.0}
    assert method.assemble([]) == [] and method.figures() == {"tokens/trained": 0.0}


# -- in a run ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "wanted"),
    [
        ({"plateau": {"block": 3}}, '[plateau] has no effect with algorithm.name = "sft"'),
        ({"critic": {"kind": "lab_rules"}}, "[critic] would have no effect under algorithm.name = 'sft'"),
        ({"guards": {"mode": "warn"}}, "[guards] would have no effect"),
        (
            {
                "objectives": {
                    "combine": "sum",
                    "of": {"a": {"source": "verifier"}, "b": {"source": "length", "target_tokens": 4}},
                }
            },
            "[objectives] has no place under",
        ),
        ({"rollout": {"group_size": 4}}, 'rollout.group_size = 4 has no effect with algorithm.name = "sft"'),
        ({"loss": {"objective": "clip"}}, "loss.objective = 'clip' has no effect"),
        ({"loss": {"tis_cap": 2.0}}, "loss.tis_cap = 2.0 has no effect"),
        ({"loss": {"entropy_target": 0.2}}, "loss.entropy_target = 0.2 has no effect"),
        ({"budget": {"stop_on_plateau": True}}, "budget.stop_on_plateau = True has no effect"),
    ],
)
def test_what_acts_on_rollouts_is_refused(section: dict[str, object], wanted: str) -> None:
    with pytest.raises(ConfigError) as refused:
        validate({"algorithm": {"name": "sft"}, **section}, source="test")
    assert wanted in str(refused.value)


def sft_run(tmp_path: Path, steps: int) -> dict[str, object]:
    (tmp_path / "rows.jsonl").write_text(
        "".join(
            f'{{"prompt": "{r["prompt"]}", "answer": "{r["answer"]}", "metadata": {{"solution": "{r["answer"]}"}}}}\n'
            for r in ROWS
        )
    )
    return {
        "tasks": {"kind": "jsonl", "path": str(tmp_path / "rows.jsonl"), "held_out_fraction": 0.25},
        "policy": {"model": "lab", "device": "cpu", "threads": 1},
        "rollout": {"prompts_per_step": 4, "max_tokens": 6},
        "algorithm": {"name": "sft"},
        "optimizer": {"learning_rate": 1e-3},
        "budget": {"max_steps": steps},
        "evaluation": {"every": 0},
        "report": {"every": 1},
    }


def test_a_run_samples_nothing_and_learns_the_solutions(tmp_path: Path) -> None:
    trainer = run_lab(lab_config(base=sft_run(tmp_path, 12)), tmp_path / "run")
    rows = [row for row in lines(tmp_path / "run/metrics.jsonl") if "loss/pg" in row]
    losses = [float(str(row["loss/pg"])) for row in rows]
    assert len(losses) == 12 and sum(losses[-3:]) < 0.5 * sum(losses[:3])
    assert trainer.progress.generated_tokens == 0 and trainer.progress.step == 12
    assert {row["tokens/trained"] for row in rows} == {16.0} and {row["demonstrations/verified"] for row in rows} == {
        1.0
    }
    assert not any(key.startswith(("ratio/", "reward/", "policy/entropy_est")) for row in rows for key in row)
    (story, *_) = lines(tmp_path / "run/samples.jsonl")
    assert story["attempts"] and story["plateau"]


def test_the_end_token_is_the_one_that_ends_a_rollout(tmp_path: Path) -> None:
    """Where the policy is sure of an answer, what it samples is token for token what it would be shown."""
    trainer = lab_trainer(lab_config(base=sft_run(tmp_path, 1)), tmp_path / "run")
    parts = trainer.parts
    asked = parts.tasks.batch(0, 8, seed=0)
    prompts = [parts.policy.encode(t.messages) for t in asked]
    sampled = parts.engine.generate(prompts, max_tokens=6, temperature=0.0, seed=0)
    right = [(t, s) for t, s in zip(asked, sampled, strict=True) if s.text == t.answer]
    assert right
    for t, completion in right:
        assert parts.policy.encode_completion(t.metadata["solution"]) == completion.completion_ids
    before = weights(trainer)
    trainer.run()
    assert not same_weights(before, weights(trainer))
    parts.tracker.close()
