"""The school world in a run file: its tasks, its verifier, its critic and the policy's short name."""

from __future__ import annotations

from pathlib import Path

import pytest

from critique_rl.build import build
from critique_rl.build_critic import build_critic
from critique_rl.build_tasks import build_reward, build_tasks
from critique_rl.cli.main import main
from critique_rl.config.critic import SchoolRulesCriticConfig
from critique_rl.config.load import validate
from critique_rl.config.run import RunConfig
from critique_rl.config.school import ALL_KINDS, SchoolTasksConfig
from critique_rl.errors import ConfigError
from critique_rl.lab.school.critic import SchoolCritic
from critique_rl.lab.school.problems import KINDS, Sum
from critique_rl.lab.school.tasks import SchoolTasks, school_task
from critique_rl.loop.verifier_check import check_verifier
from critique_rl.trackers.fanout import FanoutTracker
from critique_rl.types import ScoreStatus

BUILD_SCHOOL = "critique_rl.lab.school.build.build_school_policy"


def run_of(**tasks: object) -> RunConfig:
    return validate(
        {
            "policy": {"model": "lab_school", "device": "cpu", "threads": 1},
            "tasks": {"kind": "lab_school", "train": 8, "held_out": 4, **tasks},
            "rollout": {"prompts_per_step": 5, "group_size": 2, "max_tokens": 40},
            "algorithm": {"name": "grpo"},
        },
        source="test",
    )


def test_the_section_makes_the_task_source() -> None:
    assert ALL_KINDS == KINDS
    config = run_of(kinds=["chain", "sort"], held_out_kinds=["chain"], shares={"sort": 0.5}, chain_length=3)
    tasks = build_tasks(config.tasks)
    assert isinstance(tasks, SchoolTasks)
    assert tasks.shares == pytest.approx({"chain": 2 / 3, "sort": 1 / 3})
    assert [t.kind for t in tasks.held_out()] == ["chain"] * 4
    assert len(tasks.training()) == 16


@pytest.mark.parametrize(
    ("tasks", "told"),
    [
        ({"kinds": ["sum", "sum"]}, "kinds = .* names one twice"),
        ({"kinds": []}, "kinds"),
        ({"kinds": ["dance"]}, "kinds"),
        ({"kinds": ["sum"], "shares": {"sort": 1.0}}, "shares names 'sort', which is not asked"),
        ({"shares": {"sort": 0.0}}, "shares"),
        (
            {"kinds": ["sort"], "held_out_kinds": ["sort"], "fixed_accuracy": True},
            "fixed_accuracy = true has no effect",
        ),
        ({"fixed_accuracy": True, "verifier": "mine"}, "fixed_accuracy = true has no effect"),
        ({"kinds": ["sum"], "held_out_kinds": ["sum"], "chain_length": 4}, "chain_length = 4 has no effect"),
        ({"chain_length": 6}, "chain_length"),
    ],
)
def test_keys_that_could_not_work_are_refused(tasks: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        run_of(**tasks)


@pytest.mark.parametrize("kind", KINDS)
def test_the_verifier_does_not_look_broken(kind: str) -> None:
    config = run_of(kinds=[kind], held_out_kinds=[kind])
    found = check_verifier(build_tasks(config.tasks).held_out(), reward=build_reward(config), config=None)
    assert found.accepts is True


def test_fixed_accuracy_reaches_the_verifier_in_a_mixture_too() -> None:
    part: dict[str, object] = {"kind": "lab_school", "kinds": ["sum"], "held_out_kinds": ["sum"], "train": 4}
    config = validate(
        {
            "policy": {"model": "lab_school"},
            "tasks": {"kind": "mixture", "of": {"a": {**part, "fixed_accuracy": True}, "b": {"kind": "lab"}}},
            "algorithm": {"name": "grpo"},
        },
        source="test",
    )
    tasks = [school_task(Sum(left=left, right=5)) for left in range(10, 60)]
    reward = build_reward(config)
    assert [reward.score(t, "=10").reward for t in tasks] == [reward.score(t, f"={t.answer}").reward for t in tasks]


def test_the_critic_is_built_by_its_name() -> None:
    critic = build_critic(SchoolRulesCriticConfig(kind="lab_school_rules", lies=0.5))
    assert isinstance(critic, SchoolCritic)


def test_the_short_name_loads_the_packaged_policy_and_it_answers() -> None:
    parts = build(run_of(), tracker=FanoutTracker([]))
    tasks = parts.tasks.held_out()
    prompts = [parts.policy.encode(t.messages) for t in tasks for _ in range(6)]
    done = parts.engine.generate(prompts, max_tokens=40, temperature=1.0, seed=1)
    scores = [parts.reward.score(tasks[i // 6], c.text) for i, c in enumerate(done)]
    assert all(c.finished for c in done)
    assert sum(s.status is ScoreStatus.OK for s in scores) >= 114  # of 120
    assert any(s.correct for s in scores) and not all(s.correct for s in scores)


def test_the_command_builds_this_world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[Path, dict[str, object]]] = []

    def fake(out_dir: Path, **options: object) -> None:
        asked.append((out_dir, options))
        (out_dir / "LAB.json").write_text("{}\n", encoding="utf-8")

    monkeypatch.setattr(BUILD_SCHOOL, fake)
    assert main(["lab", "build", "--world", "school", "--output", str(tmp_path), "--seed", "3", "--steps", "7"]) == 0
    assert capsys.readouterr().out == "{}\n"
    (out_dir, options), *more = asked
    assert (out_dir, options["seed"], options["steps"], more) == (tmp_path, 3, 7, [])


def test_the_section_has_its_defaults() -> None:
    config = SchoolTasksConfig(kind="lab_school")
    assert (config.kinds, config.held_out_kinds, config.chain_length) == (KINDS, KINDS, 5)
