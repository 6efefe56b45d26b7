"""Whole runs up the guidance ladder: who is asked on which rung, what is recorded, and who judges the critic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from critique_rl.algorithms.two_channel import TwoChannel
from critique_rl.config.algorithm import TwoChannelConfig
from critique_rl.config.load import merge, validate
from critique_rl.critics.scripted import ScriptedCritic
from critique_rl.errors import ConfigError
from critique_rl.loop.critic_stage import CriticStage
from critique_rl.loop.guidance import load_guidance
from critique_rl.loop.parts import Parts
from critique_rl.loop.train import Trainer
from critique_rl.prompting.catalogue import load_prompt
from critique_rl.rewards.by_name import VerifierRouter
from critique_rl.rewards.exact import ExactReward as Exact
from critique_rl.schedule.plateau import PlateauTracker
from critique_rl.schedule.trust import CriticTrust
from critique_rl.types import Completion, Task, TokenIds
from tests.loop.fakes import CharPolicy, Memory, decode, engine, task

Tree = dict[str, object]
REPLY = '{"directives": [{"text": "Count six sevens.", "kind": "procedure", "quote": null}], "scores": {}}'
BASE: Tree = {
    "algorithm": {"name": "two_channel"},
    "critic": {"kind": "scripted", "replies": [REPLY]},
    "plateau": {"min_failures": 2, "max_success": 0.9, "max_tries": 1, "cooldown_visits": 1},
    "rollout": {"prompts_per_step": 1, "group_size": 2, "max_tokens": 4},
    "budget": {"max_steps": 3},
    "evaluation": {"every": 0},
    "report": {"every": 1},
}


class OneTask:
    """The same prompt at every step, with a worked solution."""

    def batch(self, step: int, size: int, *, seed: int) -> Sequence[Task]:
        return [replace(task(question="6*7="), metadata={"solution": "Six sevens are added up one by one here."})]

    def held_out(self) -> Sequence[Task]:
        return []


class Under:
    """Right only under contexts that hold `cue`; remembers every context."""

    def __init__(self, cue: str) -> None:
        self.cue = cue
        self.contexts: list[str] = []

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
        contexts = [decode(prompt) for prompt in prompts]
        self.contexts += contexts
        return engine(*("42" if self.cue in context else "8" for context in contexts)).generate(
            prompts, max_tokens=max_tokens, temperature=temperature, seed=seed, on_done=on_done
        )


def trained(
    run_dir: Path, changes: Tree, *, cue: str, trust: bool = False, router: bool = False
) -> tuple[Trainer, ScriptedCritic, Under]:
    config = validate(merge(BASE, changes), source="test")
    critic, sampler = ScriptedCritic([REPLY]), Under(cue)
    parts = Parts(
        tasks=OneTask(),
        policy=CharPolicy(),
        engine=sampler,
        reward=VerifierRouter({"exact": Exact()}) if router else Exact(),
        plateau=PlateauTracker(config.plateau, rungs=len(config.refinement.ladder)),
        algorithm=TwoChannel(TwoChannelConfig()),
        tracker=Memory(),
        critic=critic,
        trust=CriticTrust(config.trust) if trust else None,
        refine_template=load_prompt("refine"),
        teacher_template=load_prompt("teacher"),
    )
    trainer = Trainer(config, parts, run_dir)
    trainer.run()
    return trainer, critic, sampler


def steps(trainer: Trainer) -> list[dict[str, float]]:
    rows = [dict(row) for row in cast(Memory, trainer.parts.tracker).steps()]
    return [{k.removeprefix("refinement/"): v for k, v in row.items() if k.startswith("refinement/")} for row in rows]


def test_a_bare_verdict_that_works_asks_no_critic(tmp_path: Path) -> None:
    trainer, critic, _ = trained(tmp_path, {"refinement": {"ladder": ["verdict", "critique"]}}, cue="Wrong.")
    assert critic.requests == [] and trainer.progress.critic.calls == 0
    assert [row["injected"] for row in steps(trainer)] == [1.0, 1.0, 1.0]
    assert [row["rung/verdict/injected"] for row in steps(trainer)] == [1.0, 1.0, 1.0]
    assert trainer.progress.first_critic_step is None
    told = cast("list[dict[str, object]]", cast(Memory, trainer.parts.tracker).samples[0][1]["refinements"])
    assert [one["rung"] for one in told] == ["verdict", "verdict"]
    assert all(sample.teacher is None for batch in cast(CharPolicy, trainer.parts.policy).trained for sample in batch)


def test_what_does_not_work_is_left_for_the_next_rung(tmp_path: Path) -> None:
    ladder = ["verdict", "critique"]
    trainer, critic, _ = trained(tmp_path, {"refinement": {"ladder": ladder}, "budget": {"max_steps": 5}}, cue="Count")
    rungs = [
        [key.split("/")[1] for key, value in row.items() if key.endswith("/sampled") and value]
        for row in steps(trainer)
    ]
    tried = [rung for step in rungs for rung in step]
    assert tried[0] == "verdict" and tried[-1] == "critique" and tried == sorted(tried, reverse=True)
    assert len(critic.requests) == sum(rung == "critique" for rung in tried)  # two equal attempts are one question
    assert trainer.progress.injected > 0


def test_a_prefix_stands_in_for_a_critic(tmp_path: Path) -> None:
    trainer, critic, sampler = trained(tmp_path, {"refinement": {"ladder": ["prefix_50"]}}, cue="breaks off")
    assert critic.requests == []
    assert any("Six sevens are added\n" in context for context in sampler.contexts)
    assert [row["rung/prefix_50/injected"] for row in steps(trainer)] == [1.0, 1.0, 1.0]


def test_a_lesson_hides_the_attempt_and_its_control_has_the_same_template(tmp_path: Path) -> None:
    changes: Tree = {"refinement": {"view": "lesson"}, "budget": {"max_steps": 1}}
    _, critic, sampler = trained(tmp_path, changes, cue="Count", trust=True)
    assert len(critic.requests) == 1
    guided = [context for context in sampler.contexts if "from the beginning" in context]
    assert not any("wrong answer" in context for context in guided)
    assert sum("Count six sevens." in context for context in guided) == 2
    assert sum("\n\nWrong.\n\n" in context for context in guided) == 1


def test_one_critique_of_all_failures(tmp_path: Path) -> None:
    class Two(Under):
        def generate(self, prompts: Sequence[TokenIds], **options: object) -> list[Completion]:  # pyright: ignore[reportIncompatibleMethodOverride]
            return engine("7", "108").generate(prompts, **options)  # pyright: ignore[reportArgumentType]

    config = validate(merge(BASE, {"refinement": {"aggregate": "critique"}}), source="test")
    critic = ScriptedCritic([REPLY])
    parts = Parts(
        tasks=OneTask(),
        policy=CharPolicy(),
        engine=Two(""),
        reward=Exact(),
        plateau=PlateauTracker(config.plateau),
        algorithm=TwoChannel(TwoChannelConfig()),
        tracker=Memory(),
        critic=critic,
        refine_template=load_prompt("refine"),
    )
    trainer = Trainer(config, parts, tmp_path)
    trainer.run()
    assert [(r.attempt, r.other_attempts) for r in critic.requests] == [("7", ("108",))] * len(critic.requests)
    assert critic.requests
    assert steps(trainer)[0]["rung/critique/sampled"] == 2.0


def test_a_critic_that_is_not_trusted_leaves_the_rungs_that_need_none() -> None:
    class Distrust:
        asks_critic = False

    config = validate(merge(BASE, {"refinement": {"ladder": ["critique", "prefix_25"]}}), source="test")
    parts = Parts(
        tasks=OneTask(),
        policy=CharPolicy(),
        engine=Under(""),
        reward=Exact(),
        plateau=PlateauTracker(config.plateau),
        algorithm=TwoChannel(TwoChannelConfig()),
        tracker=Memory(),
        trust=cast(CriticTrust, Distrust()),
    )
    stage = CriticStage(config, parts, load_guidance(config.refinement, load_prompt("refine")))
    assert stage.rung(OneTask().batch(0, 1, seed=0)[0], 0) == "prefix_25"
    assert stage.rung(task(), 0) is None


def test_an_unknown_second_verifier_stops_the_run_before_its_first_token(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"refinement\.second_verifier = 'math'"):
        trained(tmp_path, {"refinement": {"second_verifier": "math"}}, cue="Count", router=True)
