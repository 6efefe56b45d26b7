"""Runs of the search laboratory: masks in what is trained, resumed runs, demonstrations, guards of first turns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from critique_rl.config.load import validate
from critique_rl.config.run import RunConfig
from critique_rl.errors import ConfigError
from critique_rl.loop.checkpoint import latest_checkpoint
from critique_rl.loop.worked_episodes import demonstration_rollout
from critique_rl.rescue import sample_rollouts
from critique_rl.types import TrainSample
from tests.lab_runs import Tree, lab_trainer, lines, run_lab, same_weights, weights

SEARCH: Tree = {
    "name": "search",
    "policy": {"model": "lab_search", "device": "cpu", "threads": 1},
    "tasks": {"kind": "lab_search", "train_people": 6, "held_out_people": 2, "no_answer_penalty": 0.5},
    "rollout": {"prompts_per_step": 3, "group_size": 4, "max_tokens": 40},
    "algorithm": {"name": "grpo"},
    "optimizer": {"learning_rate": 1e-3},
    "budget": {"max_steps": 2},
    "evaluation": {"every": 0, "samples_per_task": 2},
    "report": {"every": 1, "samples_per_step": 3},
}


def config(**changes: object) -> RunConfig:
    return validate({**SEARCH, **changes}, source="test")


def test_only_the_policys_words_are_learned_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = lab_trainer(config(), tmp_path)
    trained: list[TrainSample] = []
    step = trainer.parts.policy.step
    monkeypatch.setattr(
        trainer.parts.policy, "step", lambda samples, **options: (trained.extend(samples), step(samples, **options))[1]
    )
    trainer.run()
    trainer.parts.tracker.close()
    decode = trainer.parts.policy.decode
    assert len(trained) == 24
    searched = 0
    for sample in trained:
        own = [i for i, kept in zip(sample.completion_ids, sample.loss_mask, strict=True) if kept]
        told = [i for i, kept in zip(sample.completion_ids, sample.loss_mask, strict=True) if not kept]
        assert "result>" not in decode(own)
        assert decode(told).count("<result>") == decode(told).count("</result>")
        assert all(sample.behaviour_logprobs[sample.loss_mask == 0] == 0.0)
        searched += "<result>" in decode(told)
    assert searched > 12


def test_what_was_sampled_is_what_the_trainer_would_score(tmp_path: Path) -> None:
    trainer = lab_trainer(config(budget={"max_steps": 1}), tmp_path)
    groups = trainer._gatherer.sample().groups  # pyright: ignore[reportPrivateUsage]
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    scored = trainer.parts.policy.logprobs([r.prompt_ids for r in rollouts], [r.completion_ids for r in rollouts])
    for rollout, logprobs in zip(rollouts, scored, strict=True):
        own = np.asarray(rollout.policy_mask)
        np.testing.assert_allclose(logprobs[own], rollout.own_logprobs, atol=1e-4)
    trainer.parts.tracker.close()


def test_a_resumed_run_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    whole = run_lab(config(), tmp_path / "whole")
    half = config(budget={"max_steps": 1})
    run_lab(half, tmp_path / "half")
    saved = latest_checkpoint(tmp_path / "half" / "checkpoints")
    assert saved is not None
    resumed = lab_trainer(config(), tmp_path / "half", saved=saved)
    resumed.run()
    resumed.parts.tracker.close()
    assert same_weights(weights(whole), weights(resumed))


def test_what_is_recorded_of_a_run(tmp_path: Path) -> None:
    trainer = run_lab(config(), tmp_path)
    success = trainer.progress.evaluations[-1]["success"]
    assert isinstance(success, dict)
    assert {"query_unique_ratio", "answered"} <= set(success["town"]["rates"])
    stories = lines(tmp_path / "samples.jsonl")
    attempt = stories[0]["attempts"][0]  # pyright: ignore[reportIndexIssue, reportArgumentType]
    tool = [token for token in attempt["tokens"] if token.get("heard")]  # pyright: ignore
    said = [token for token in attempt["tokens"] if not token.get("heard")]  # pyright: ignore
    assert tool and all("result>" in token["text"] and "pg" not in token for token in tool)
    assert all(token["student_prob"] is not None for token in said)
    assert trainer.progress.generated_tokens < 24 * 20


def test_chosen_first_turns_are_counted_with_those_left_out_and_never_learned(tmp_path: Path) -> None:
    rollout = {"prompts_per_step": 3, "group_size": 4, "max_tokens": 40, "first_turn_candidates": 12}
    trainer = lab_trainer(config(rollout=rollout), tmp_path)
    groups = trainer._gatherer.sample().groups  # pyright: ignore[reportPrivateUsage]
    trainer.parts.tracker.close()
    for group in groups:
        firsts = {rollout.turns[0].argument for rollout in group.rollouts}
        assert len(firsts) >= 2  # the packaged policy asks three times in four by the same name
        assert group.rollouts[0].turns[0].discarded_tokens > 0
        for one in group.rollouts:
            assert not any(one.policy_mask[: one.turns[0].end])


def test_fine_tuning_on_worked_episodes_makes_them_likelier(tmp_path: Path) -> None:
    tree = {key: value for key, value in SEARCH.items() if key != "rollout"}
    rollout = {"prompts_per_step": 6, "max_tokens": 40}
    run = validate(
        {**tree, "algorithm": {"name": "sft"}, "rollout": rollout, "budget": {"max_steps": 12}}, source="test"
    )
    trainer = lab_trainer(run, tmp_path)
    policy = trainer.parts.policy
    shown = [demonstration_rollout(t, policy, step=0) for t in trainer.parts.tasks.batch(0, 12, seed=0)]

    def mean_logprob() -> float:
        scored = policy.logprobs([r.prompt_ids for r in shown], [r.completion_ids for r in shown])
        return float(
            np.mean(np.concatenate([s[np.asarray(r.policy_mask)] for s, r in zip(scored, shown, strict=True)]))
        )

    before = mean_logprob()
    trainer.run()
    trainer.parts.tracker.close()
    assert mean_logprob() > before + 0.05
    assert trainer.progress.generated_tokens == 0


def test_attempts_cannot_be_written_to_a_file() -> None:
    with pytest.raises(ConfigError, match="which words were the tool's"):
        sample_rollouts(config(), tasks=1)


def test_critics_read_transcripts_and_the_loop_goes_on_from_their_words(tmp_path: Path) -> None:
    seen = tmp_path / "seen.txt"
    (tmp_path / "own.py").write_text(
        "def review(request):\n"
        f"    with open({str(seen)!r}, 'a') as file:\n"
        "        file.write(request.attempt + '\\n--\\n')\n"
        "    return {'directives': [{'quote': None, 'kind': 'procedure', 'turn': 0, 'text': 'try another name'}]}\n",
        encoding="utf-8",
    )
    run = config(
        algorithm={"name": "two_channel"},
        critic={"kind": "python", "path": str(tmp_path / "own.py")},
        plateau={"min_failures": 2, "max_success": 0.9},
        refinement={"prompt": "lab_refine", "ladder": ["critique"], "min_bare_logprob": -99.0},
        distillation={"prompt": "lab_teacher"},
        rollout={"prompts_per_step": 6, "group_size": 4, "max_tokens": 40},
    )
    trainer = run_lab(run, tmp_path / "run")
    assert trainer.progress.critic.outcomes.get("ok")
    assert "<result>" in seen.read_text(encoding="utf-8")
    told = [story for story in lines(tmp_path / "run" / "samples.jsonl") if story["refinements"]]
    assert told
    assert trainer.progress.skipped_steps == 0
