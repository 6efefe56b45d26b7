"""Rescued prompts come back with what rescued them until they succeed by themselves. The model is a fake."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from critique_rl.algorithms.two_channel import TwoChannel
from critique_rl.config.algorithm import TwoChannelConfig
from critique_rl.config.load import merge, validate
from critique_rl.critics.scripted import ScriptedCritic
from critique_rl.loop.checkpoint import latest_checkpoint
from critique_rl.loop.parts import Parts
from critique_rl.loop.train import Trainer
from critique_rl.schedule.plateau import PlateauTracker
from critique_rl.schedule.replay import Replay
from critique_rl.schedule.trust import CriticTrust
from critique_rl.types import Completion, Task, TokenIds, TrainSample
from tests.lab_runs import LAB, lab_config, lab_trainer, lines, run_lab, same_weights, weights
from tests.loop.fakes import END, TEMPLATE, CharPolicy, ExactReward, Memory, decode, encode, engine, group, task

Tree = dict[str, object]
REPLY = '{"directives": [{"text": "Count six sevens.", "kind": "procedure", "quote": null}], "scores": {}}'
BASE: Tree = {
    "algorithm": {"name": "two_channel", "use": ["refinements"]},
    "critic": {"kind": "scripted", "replies": [REPLY]},
    "plateau": {"min_failures": 2, "max_success": 0.9},
    "rollout": {"prompts_per_step": 1, "group_size": 2, "max_tokens": 4},
    "budget": {"max_steps": 4},
    "evaluation": {"every": 0},
    "report": {"every": 1},
    "replay": {},
}
ANSWERS = {"1+1=": "2", "6*7=": "42", "5*5=": "25"}


class Questions:
    """Three prompts in turn, `size` at a step."""

    def batch(self, step: int, size: int, *, seed: int) -> Sequence[Task]:
        names = sorted(ANSWERS)
        shown = [names[(step * size + i) % len(names)] for i in range(size)]
        return [task(name, question=name, answer=ANSWERS[name]) for name in shown]

    def held_out(self) -> Sequence[Task]:
        return []


class OneQuestion(Questions):
    def batch(self, step: int, size: int, *, seed: int) -> Sequence[Task]:
        return [task("6*7=", question="6*7=", answer="42")]


class Sampler:
    """Right under a directive; to a bare prompt right from the policy's version `knows` on, and "8" before.

    `helpless` names versions at which no directive helps either; `stop_at` a call that is interrupted.
    """

    def __init__(
        self, policy: CharPolicy, *, knows: int = 99, helpless: Sequence[int] = (), stop_at: int | None = None
    ) -> None:
        self.policy = policy
        self.knows = knows
        self.helpless = helpless
        self.stop_at = stop_at
        self.calls = 0
        self.asked: list[str] = []

    def generate(
        self,
        prompts: Sequence[TokenIds],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        on_done: Callable[[int, Completion], None] | None = None,
        stop: Sequence[str] = (),
    ) -> list[Completion]:
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        self.asked += [decode(prompt) for prompt in prompts]
        return engine(*(self._answer(decode(prompt)) for prompt in prompts)).generate(
            prompts, max_tokens=max_tokens, temperature=temperature, seed=seed, on_done=on_done
        )

    def _answer(self, prompt: str) -> str:
        answer = next(answer for question, answer in ANSWERS.items() if question in prompt)
        helped = "Count" in prompt and self.policy.version not in self.helpless
        return answer if helped or self.policy.version >= self.knows else "8"


def make(
    run_dir: Path,
    changes: Tree | None = None,
    *,
    tasks: Questions | None = None,
    policy: CharPolicy | None = None,
    trust: bool = False,
    **sampling: object,
) -> Trainer:
    config = validate(merge(BASE, changes or {}), source="test")
    assert config.replay is not None
    policy = policy or CharPolicy()
    parts = Parts(
        tasks=tasks or OneQuestion(),
        policy=policy,
        engine=Sampler(policy, **sampling),  # pyright: ignore[reportArgumentType]
        reward=ExactReward(),
        plateau=PlateauTracker(config.plateau),
        algorithm=TwoChannel(TwoChannelConfig(use=("refinements",), critic_score_weight=0.0)),
        tracker=Memory(),
        critic=ScriptedCritic([REPLY]),
        trust=CriticTrust(config.trust) if trust else None,
        replay=Replay(capacity=config.replay.capacity, max_age_steps=config.replay.max_age_steps),
        refine_template=TEMPLATE,
    )
    return Trainer(config, parts, run_dir)


def trained(run_dir: Path, changes: Tree | None = None, **options: object) -> Trainer:
    trainer = make(run_dir, changes, **options)  # pyright: ignore[reportArgumentType]
    trainer.run()
    return trainer


def column(trainer: Trainer, key: str) -> list[float]:
    return [row.get(key, 0.0) for row in cast(Memory, trainer.parts.tracker).steps()]


def imitated(trainer: Trainer) -> list[list[TrainSample]]:
    return [[s for s in step if s.imitate_weight.any()] for step in cast(CharPolicy, trainer.parts.policy).trained]


# -- instead of the critic ---------------------------------------------------------------------------------------------


def test_a_rescued_prompt_is_replayed_and_nobody_is_asked_again(tmp_path: Path) -> None:
    trainer = trained(tmp_path)
    assert column(trainer, "critic/step_calls") == [1.0, 0.0, 0.0, 0.0]
    assert column(trainer, "refinement/sampled") == [2.0, 0.0, 0.0, 0.0]
    assert column(trainer, "refinement/injected") == [1.0, 1.0, 1.0, 1.0]
    assert column(trainer, "refinement/rung/replay/injected") == [0.0, 1.0, 1.0, 1.0]
    assert column(trainer, "replay/prompts") == [1.0, 1.0, 1.0, 1.0]
    # Two bare rollouts of two ids a step, and once two refinements of three; what is replayed was paid for before.
    assert column(trainer, "tokens/generated") == [10.0, 14.0, 18.0, 22.0]


def test_what_is_replayed_is_scored_and_centred_in_its_new_group(tmp_path: Path) -> None:
    policy = CharPolicy()
    trainer = trained(tmp_path, policy=policy)
    again = imitated(trainer)[2]
    assert [s.rollout_id for s in again] == ["2/6*7=/replay"]
    assert decode(again[0].prompt_ids) == "user: 6*7=" and again[0].completion_ids == (*encode("42"), END)
    # two failures and one success: 1 - 1/3 and 0 - 1/3
    assert again[0].advantages.tolist() == pytest.approx([2 / 3] * 3)
    bare = [s for s in policy.trained[2] if s.pg_weight.any()]
    assert [s.advantages[0] for s in bare] == pytest.approx([-1 / 3] * 2)
    assert policy.scored.count(("user: 6*7=", "42")) == 2 + 3  # both new ones once, and one at every later visit


def test_it_is_forgotten_when_the_bare_prompt_succeeds(tmp_path: Path) -> None:
    trainer = trained(tmp_path, {"budget": {"max_steps": 5}}, knows=2)
    assert column(trainer, "replay/prompts") == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert column(trainer, "refinement/injected") == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_it_is_forgotten_when_it_is_too_old_and_the_critic_is_asked_again(tmp_path: Path) -> None:
    trainer = trained(tmp_path, {"replay": {"max_age_steps": 2}, "budget": {"max_steps": 5}})
    assert column(trainer, "critic/step_calls") == [1.0, 0.0, 0.0, 1.0, 0.0]


def test_one_that_the_policy_has_left_behind_is_dropped(tmp_path: Path) -> None:
    policy = CharPolicy(mean_logprob=lambda _: -30.0 if policy.version == 1 else -1.0)
    trainer = trained(tmp_path, policy=policy)
    assert column(trainer, "refinement/refused/unlikely") == [0.0, 1.0, 0.0, 0.0]
    assert column(trainer, "replay/prompts") == [1.0, 0.0, 1.0, 1.0]
    assert column(trainer, "critic/step_calls") == [1.0, 0.0, 1.0, 0.0]


def test_one_that_is_found_wrong_by_now_is_dropped(tmp_path: Path) -> None:
    trainer = make(tmp_path)
    reward = cast(ExactReward, trainer.parts.reward)
    real = reward.score
    policy = cast(CharPolicy, trainer.parts.policy)
    reward.score = lambda task, text: real(task, "?" if policy.version == 2 else text)  # type: ignore[method-assign]
    trainer.run()
    assert column(trainer, "refinement/refused/not_verified") == [0.0, 0.0, 1.0, 0.0]
    assert column(trainer, "replay/attempts") == [1.0, 1.0, 0.0, 1.0]


def test_what_cannot_be_judged_or_had_its_step_is_left_alone(tmp_path: Path) -> None:
    trainer = trained(tmp_path)
    stage = trainer._replay  # pyright: ignore[reportPrivateUsage]
    of = task("6*7=", question="6*7=")
    unjudged, late, failed = group(of, "!", "!"), replace(group(of, "8"), late=True), group(of, "!", "?")
    assert stage.recall(4, [unjudged, late]) == [unjudged, late]
    assert stage.serves(4, failed) and not stage.serves(4, unjudged)
    assert [r.rung for r in stage.recall(4, [failed])[0].refinements] == ["replay"]
    assert not stage.serves(4, group(of, "8", "42")) and not stage.serves(4, failed)  # forgotten


def test_without_the_section_nothing_is_kept(tmp_path: Path) -> None:
    trainer = make(tmp_path)
    plain = Trainer(trainer.config.model_copy(update={"replay": None}), trainer.parts, tmp_path)
    plain.run()
    assert column(plain, "critic/step_calls") == [1.0] * 4 and not any(column(plain, "replay/prompts"))


# -- beside the critic -------------------------------------------------------------------------------------------------


def test_beside_the_critic_it_competes_for_the_one_place(tmp_path: Path) -> None:
    trainer = trained(
        tmp_path, {"replay": {"instead_of_critic": False}, "trust": {"trials": 4}}, trust=True, helpless=[1, 2]
    )
    assert column(trainer, "critic/step_calls") == [1.0] * 4
    assert column(trainer, "refinement/injected") == [1.0] * 4
    assert column(trainer, "refinement/rung/replay/injected") == [0.0, 1.0, 1.0, 1.0]
    assert column(trainer, "refinement/verified") == [2.0, 0.0, 0.0, 2.0]
    # The new ones of the last step are equal to what was kept.
    assert column(trainer, "refinement/refused/duplicate")[-1] == 2.0


# -- prompts that are visited again ------------------------------------------------------------------------------------


def test_remembered_prompts_take_the_last_places_in_turn(tmp_path: Path) -> None:
    changes: Tree = {"replay": {"revisit_share": 0.5}, "rollout": {"prompts_per_step": 2}, "budget": {"max_steps": 5}}
    trainer = make(tmp_path, changes, tasks=Questions())
    seen: list[list[str]] = []
    stage = trainer._replay  # pyright: ignore[reportPrivateUsage]
    real = stage.batch

    def batch(step: int, tasks: Sequence[Task]) -> list[Task]:
        found = real(step, tasks)
        seen.append([of.id for of in found])
        return found

    stage.batch = batch  # type: ignore[method-assign]
    trainer.run()
    drawn = [[of.id for of in Questions().batch(step, 2, seed=0)] for step in range(5)]
    assert drawn == [["1+1=", "5*5="], ["6*7=", "1+1="], ["5*5=", "6*7="], ["1+1=", "5*5="], ["6*7=", "1+1="]]
    # "5*5=" is not among the second step's, and so on: the first place is always the drawn one
    assert seen == [["1+1=", "5*5="], ["6*7=", "5*5="], ["5*5=", "1+1="], ["1+1=", "6*7="], ["6*7=", "5*5="]]


def test_a_share_too_small_for_one_prompt_changes_nothing(tmp_path: Path) -> None:
    options: Tree = {"rollout": {"prompts_per_step": 2}, "replay": {"revisit_share": 0.49}}
    some = trained(tmp_path / "some", options, tasks=Questions())
    none = trained(tmp_path / "none", merge(options, {"replay": {"revisit_share": 0.0}}), tasks=Questions())
    assert cast(Sampler, some.parts.engine).asked == cast(Sampler, none.parts.engine).asked


# -- what is saved -----------------------------------------------------------------------------------------------------


def state(trainer: Trainer) -> Tree:
    found = json.loads(json.dumps(trainer._state.to_json()))  # pyright: ignore[reportPrivateUsage]
    del found["progress"]["wall_s"]
    return found


@pytest.mark.parametrize("call", [2, 4, 5, 6])
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(tmp_path: Path, call: int) -> None:
    changes: Tree = {"rollout": {"prompts_per_step": 2}, "budget": {"max_steps": 6}, "replay": {"revisit_share": 0.5}}
    whole = trained(tmp_path / "whole", changes, tasks=Questions(), knows=4)
    broken = trained(tmp_path / "run", changes, tasks=Questions(), knows=4, stop_at=call)
    assert broken.stopped_because == "interrupted"
    saved = latest_checkpoint(tmp_path / "run/checkpoints")
    assert saved is not None and "replay" in saved.state
    resumed = make(tmp_path / "run", changes, tasks=Questions(), knows=4)
    resumed.resume(saved)
    resumed.run()
    assert state(resumed) == state(whole)
    done = cast(int, cast(Tree, saved.state["progress"])["step"])
    kept = cast(Memory, broken.parts.tracker).steps()[:done]
    assert kept + cast(Memory, resumed.parts.tracker).steps() == cast(Memory, whole.parts.tracker).steps()


LONG: Tree = {
    "budget": {"max_steps": 6},
    "checkpoint": {"every": 3, "keep": 9},
    "replay": {"revisit_share": 0.5},
    "tasks": {"train_hard": 3, "train_easy": 3},
}


def test_a_resumed_lab_run_equals_an_unbroken_one(tmp_path: Path) -> None:
    whole = run_lab(lab_config(LONG, base=LAB), tmp_path / "whole")
    rows = lines(tmp_path / "whole/metrics.jsonl")
    assert any(row.get("refinement/rung/replay/injected") for row in rows)
    first = run_lab(lab_config(merge(LONG, {"budget": {"max_steps": 3}}), base=LAB), tmp_path / "run")
    assert first.progress.step == 3
    saved = latest_checkpoint(tmp_path / "run/checkpoints")
    assert saved is not None
    resumed = lab_trainer(lab_config(LONG, base=LAB), tmp_path / "run", saved=saved)
    resumed.run()
    resumed.parts.tracker.close()
    assert same_weights(weights(resumed), weights(whole))
    assert state(resumed)["replay"] == state(whole)["replay"]
