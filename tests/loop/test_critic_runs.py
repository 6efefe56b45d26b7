"""Runs of the lab's policy with critics of several kinds: over the wire, replayed, switched off, late, offline."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest

from critique_rl.build import build
from critique_rl.errors import ConfigError
from critique_rl.feedback.rows import FeedbackRow, RolloutRow, feedback_to_json
from critique_rl.lab.critic import LabCritic
from critique_rl.lab.serve import serve
from critique_rl.loop.checkpoint import latest_checkpoint
from critique_rl.loop.collect import collect
from critique_rl.loop.train import Trainer
from critique_rl.trackers.jsonl import JsonlTracker
from critique_rl.types import CriticRequest, Critique
from tests.lab_runs import GRPO, LAB, Tree, lab_config, lab_trainer, lines, run_lab, same_weights, weights
from tests.loop.fakes import Memory

STEPS: Tree = {"budget": {"max_steps": 4}}


def steps_of(run_dir: Path) -> list[Tree]:
    return [row for row in lines(run_dir / "metrics.jsonl") if "loss/total" in row]


def train(config: Tree, run_dir: Path, *, base: Tree = LAB) -> Trainer:
    """A run with its exchanges recorded, as `critique-rl train` does it."""
    resolved = lab_config(config, base=base)
    tracker = JsonlTracker(run_dir)
    parts = build(resolved, tracker=tracker, exchanges=run_dir / "exchanges.jsonl")
    trainer = Trainer(resolved, parts, run_dir)
    try:
        trainer.run()
    finally:
        if parts.critic is not None:
            parts.critic.close()
        tracker.close()
    return trainer


def test_the_rule_critic_over_http_trains_like_the_rule_critic_and_replays_bit_for_bit(tmp_path: Path) -> None:
    with serve() as server:
        remote: Tree = {
            "kind": "openai",
            "model": "lab-rules",
            "base_url": server.base_url,
            "criteria": ["columns", "format"],
            "min_directive_chars": 1,
        }
        live = train({**STEPS, "critic": remote}, tmp_path / "live")
    local = train(STEPS, tmp_path / "local")
    replayed_critic: Tree = {
        "kind": "recorded",
        "path": str(tmp_path / "live/exchanges.jsonl"),
        "criteria": remote["criteria"],
        "min_directive_chars": 1,
    }
    replayed = train({**STEPS, "critic": replayed_critic}, tmp_path / "replayed")
    assert live.progress.critic.outcomes == local.progress.critic.outcomes
    assert live.progress.injected == local.progress.injected > 0
    assert same_weights(weights(live), weights(local))
    assert same_weights(weights(live), weights(replayed))
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert lines(tmp_path / "live" / name) == lines(tmp_path / "replayed" / name)


def test_a_critic_no_better_than_its_control_is_switched_off_and_leaves_scalar_grpo(tmp_path: Path) -> None:
    useless = '{"directives": [{"text": "Please try to be more careful.", "kind": "procedure"}], "scores": {}}'
    config: Tree = {
        **STEPS,
        "budget": {"max_steps": 8},
        "critic": {"kind": "scripted", "replies": [useless]},
        "trust": {"trials": 8},
    }
    trainer = train(config, tmp_path)
    (event,) = [e for e in lines(tmp_path / "events.jsonl") if e["kind"] == "trust"]
    assert "no better" in str(event["message"]) and "scalar GRPO" in str(event["message"])
    after = [row for row in steps_of(tmp_path) if int(str(row["step"])) > int(str(event["step"]))]
    assert after
    assert all(row["critic/step_calls"] == 0.0 and row["loss/distill"] == 0.0 for row in after)
    assert trainer.progress.critic.calls == steps_of(tmp_path)[-1]["critic/calls"]
    assert steps_of(tmp_path)[-1]["trust/control_trials"] == 8.0


def test_a_critic_that_rescues_is_kept_and_its_controls_end(tmp_path: Path) -> None:
    train({"budget": {"max_steps": 6}, "trust": {"trials": 4}}, tmp_path)
    (event,) = [e for e in lines(tmp_path / "events.jsonl") if e["kind"] == "trust"]
    assert "it stays" in str(event["message"])
    last = steps_of(tmp_path)[-1]
    assert last["critic/step_calls"] != 0.0
    assert last["trust/control_trials"] == 4.0
    assert float(str(last["trust/rescue_rate"])) > 0.8 > 0.2 > float(str(last["trust/control_rate"]))


def test_trust_survives_a_resume(tmp_path: Path) -> None:
    trainer = run_lab(lab_config({"budget": {"max_steps": 4}}), tmp_path)
    assert trainer.parts.trust is not None
    again = build(lab_config({"budget": {"max_steps": 4}}), tracker=trainer.parts.tracker)
    assert again.trust is not None
    again.trust.load_state_dict(json.loads(json.dumps(trainer.parts.trust.state_dict())))
    assert again.trust.figures() == trainer.parts.trust.figures() != {}


class LateCritic(LabCritic):
    """Streams; every answer comes while the next step is under way."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[tuple[CriticRequest, Future[Critique]]] = []
        self.asked = 0

    def submit(self, request: CriticRequest) -> Future[Critique]:
        for earlier, future in self.waiting:
            if not future.done() and earlier.rollout_id.split("/")[0] != request.rollout_id.split("/")[0]:
                future.set_result(self.review([earlier])[0])
        self.asked += 1
        future = Future[Critique]()
        self.waiting.append((request, future))
        return future

    def review(self, requests: Sequence[CriticRequest]) -> list[Critique]:
        return super().review(requests)


def test_late_critiques_serve_the_next_step_once(tmp_path: Path) -> None:
    served: Tree = {
        "kind": "openai",
        "model": "x",
        "base_url": "http://127.0.0.1:9/v1",
        "late_steps": 1,
        "stage_deadline_s": 1e-6,
    }
    config = lab_config({"budget": {"max_steps": 5}, "critic": served})
    tracker = JsonlTracker(tmp_path)
    critic = LateCritic()
    parts = build(lab_config({"budget": {"max_steps": 5}}), tracker=tracker)
    trainer = Trainer(config, dataclasses.replace(parts, critic=critic), tmp_path)
    trainer.run()
    tracker.close()
    rows = steps_of(tmp_path)
    assert sum(float(str(row["critic/late_groups"])) for row in rows) > 0
    assert trainer.progress.injected > 0
    assert trainer.progress.critic.outcomes.get("ok", 0) > 0
    # what the last step asked has no step left to serve
    assert trainer.progress.critic.calls <= critic.asked
    per_step = [float(str(row["tokens/generated"])) for row in rows]
    assert per_step == sorted(per_step)


def test_the_policy_can_be_its_own_critic(tmp_path: Path) -> None:
    config = lab_config({"critic": {"kind": "policy", "max_tokens": 8}})
    tracker = JsonlTracker(tmp_path)
    parts = build(config, tracker=tracker, exchanges=tmp_path / "exchanges.jsonl")
    trainer = Trainer(config, parts, tmp_path)
    trainer.run()
    tracker.close()
    assert parts.critic is not None
    parts.critic.close()
    # a policy of twelve digits and a few words writes no critique, and nothing breaks
    assert trainer.progress.critic.calls > 0
    assert len(lines(tmp_path / "exchanges.jsonl")) >= 1


# -- offline -----------------------------------------------------------------------------------------------------------


def feedback_file(path: Path, *, strip: bool = False) -> Path:
    """Rollouts of the starting policy with the rule critic's words; `strip` leaves only what a person would write."""
    config = lab_config()
    parts = build(config, tracker=Memory())
    tasks = parts.tasks.batch(0, 12, seed=1)
    groups = collect(
        tasks,
        policy=parts.policy,
        engine=parts.engine,
        reward=parts.reward,
        config=config.rollout,
        step=0,
        seed=3,
    )
    critic = LabCritic()
    with path.open("w") as file:
        for group in groups:
            for rollout, score in zip(group.rollouts, group.scores, strict=True):
                request = CriticRequest(rollout_id=rollout.id, task=group.task, attempt=rollout.text, score=score)
                row = RolloutRow(
                    id=rollout.id,
                    task=group.task,
                    attempt=rollout.text,
                    score=score,
                    policy="" if strip else "lab",
                    prompt_ids=() if strip else rollout.prompt_ids,
                    completion_ids=() if strip else rollout.completion_ids,
                    behaviour_logprobs=() if strip else rollout.behaviour_logprobs,
                )
                feedback = FeedbackRow(rollout=row, critique=critic.review([request])[0])
                file.write(json.dumps(feedback_to_json(feedback)) + "\n")
    return path


@pytest.mark.parametrize("strip", [False, True], ids=["with ids", "as a person writes it"])
def test_training_from_feedback_asks_nobody_and_moves_the_policy(tmp_path: Path, strip: bool) -> None:
    path = feedback_file(tmp_path / "feedback.jsonl", strip=strip)
    base = {key: value for key, value in LAB.items() if key != "critic"}
    config: Tree = {"feedback": {"path": str(path), "epochs": 2}, "budget": {"max_steps": 50}}
    trainer = train(config, tmp_path / "run", base=base)
    assert trainer.stopped_because == "feedback used up"
    assert trainer.progress.step == 6  # 12 tasks, 4 a step, twice
    assert trainer.progress.critic.calls == 0 and trainer.progress.injected > 0
    rows = steps_of(tmp_path / "run")
    assert all(row["feedback/stale"] == 0.0 for row in rows)
    assert rows[0]["loss/distill"] != 0.0
    if strip:
        assert rows[-1]["feedback/reencoded"] == 2 * 12 * 4
        assert all(row["loss/pg"] == 0.0 for row in rows)
    # only second attempts were sampled
    sampled = sum(float(str(row["refinement/sampled"])) for row in rows)
    assert 0 < trainer.progress.generated_tokens <= sampled * 6


def test_an_offline_run_resumes_exactly(tmp_path: Path) -> None:
    path = feedback_file(tmp_path / "feedback.jsonl")
    base = {key: value for key, value in LAB.items() if key != "critic"}
    config: Tree = {"feedback": {"path": str(path)}, "budget": {"max_steps": 50}}
    straight = train(config, tmp_path / "straight", base=base)
    first = train({**config, "budget": {"max_steps": 1}}, tmp_path / "broken", base=base)
    assert first.progress.step == 1
    saved = latest_checkpoint(tmp_path / "broken/checkpoints")
    assert saved is not None
    resumed = lab_trainer(lab_config(config, base=base), tmp_path / "broken", saved=saved)
    resumed.run()
    resumed.parts.tracker.close()
    assert same_weights(weights(straight), weights(resumed))


def test_feedback_takes_the_critics_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[feedback\] takes the place of a critic"):
        lab_config({"feedback": {"path": "x.jsonl"}})
    with pytest.raises(ConfigError, match=r"\[feedback\] would have no effect under algorithm.name = 'grpo'"):
        lab_config({"feedback": {"path": "x.jsonl"}}, base=GRPO)
