"""The guessing world in a run file: its tasks, the judges that read its answers, and the policy's short name."""

from __future__ import annotations

from pathlib import Path

import pytest

from critique_rl.build import build
from critique_rl.build_tasks import build_reward, build_tasks
from critique_rl.cli.main import main
from critique_rl.config.load import validate
from critique_rl.config.run import RunConfig
from critique_rl.errors import DataError
from critique_rl.lab.guess.problems import ANSWER_PATTERN, CONFIDENCE_PATTERN, CONFIDENCE_TOP, GuessProblem
from critique_rl.lab.guess.tasks import GuessTasks, guess_task
from critique_rl.loop.verifier_check import check_verifier
from critique_rl.trackers.fanout import FanoutTracker
from critique_rl.types import ScoreStatus

TASK = guess_task(GuessProblem.parse("7+2[026]="))  # 27
BUILD_GUESS = "critique_rl.lab.guess.build.build_guess_policy"
EXACT: dict[str, object] = {"kind": "exact", "pattern": ANSWER_PATTERN, "form": "... c7"}
HONEST: dict[str, object] = {
    "kind": "with_confidence",
    "pattern": CONFIDENCE_PATTERN,
    "form": "... c7",
    "divide_by": float(CONFIDENCE_TOP),
}


def run_of(**sections: object) -> RunConfig:
    tree: dict[str, object] = {
        "policy": {"model": "lab_guess", "device": "cpu", "threads": 1},
        "tasks": {"kind": "lab_guess", "train_known": 4, "train_guessed": 5, "held_out": 2},
        "rollout": {"prompts_per_step": 4, "group_size": 2, "max_tokens": 6},
        "algorithm": {"name": "grpo"},
        "rewards": {"guess": EXACT},
    }
    return validate({**tree, **sections}, source="test")


def test_the_section_makes_the_task_source() -> None:
    tasks = build_tasks(run_of().tasks)
    assert isinstance(tasks, GuessTasks)
    assert (len(tasks.known), len(tasks.guessed), len(tasks.held_out())) == (4, 20, 10)


@pytest.mark.parametrize(
    ("text", "reward", "status"),
    [
        ("27 c0", 1.0, ScoreStatus.OK),
        ("29 c9", 0.0, ScoreStatus.OK),
        ("27", 0.0, ScoreStatus.UNPARSED),
        ("abstain", 0.0, ScoreStatus.UNPARSED),
        ("27 c10", 0.0, ScoreStatus.UNPARSED),
    ],
)
@pytest.mark.parametrize("judge", [EXACT, HONEST], ids=["exact", "with_confidence"])
def test_judges_look_at_the_answer(judge: dict[str, object], text: str, reward: float, status: ScoreStatus) -> None:
    score = build_reward(run_of(rewards={"guess": judge})).score(TASK, text)
    assert (score.reward, score.status) == (reward, status)


def test_the_stated_digit_is_read_as_ninths() -> None:
    score = build_reward(run_of(rewards={"guess": HONEST})).score(TASK, "27 c3")
    assert score.confidence == pytest.approx(1 / 3)


def test_an_abstention_can_be_told_from_what_is_malformed() -> None:
    judge = {"kind": "exact", "pattern": "^([0-9]{2}(?= c[0-9]$)|abstain$)", "form": "... c7"}
    reward = build_reward(run_of(rewards={"guess": judge}))
    found = [(s.extracted, s.status) for s in (reward.score(TASK, t) for t in ("27 c3", "abstain", "27"))]
    assert found == [("27", ScoreStatus.OK), ("abstain", ScoreStatus.OK), (None, ScoreStatus.UNPARSED)]


@pytest.mark.parametrize("judge", [EXACT, HONEST], ids=["exact", "with_confidence"])
def test_no_judge_looks_broken_to_the_plateau_tracker(judge: dict[str, object]) -> None:
    config = run_of(rewards={"guess": judge})
    found = check_verifier(
        build_tasks(config.tasks).held_out(), reward=build_reward(config), config=config.rewards["guess"]
    )
    assert found.accepts is True


def test_a_run_file_without_the_judge_is_refused() -> None:
    with pytest.raises(DataError, match=r"names verifier 'guess'; known are exact: add \[rewards\.guess\]"):
        build(run_of(rewards={}), tracker=FanoutTracker([]))


def test_the_short_name_loads_the_packaged_policy_and_it_answers() -> None:
    parts = build(run_of(), tracker=FanoutTracker([]))
    tasks = parts.tasks.held_out()
    prompts = [parts.policy.encode(t.messages) for t in tasks for _ in range(8)]
    done = parts.engine.generate(prompts, max_tokens=6, temperature=1.0, seed=1)
    scores = [parts.reward.score(tasks[i // 8], c.text) for i, c in enumerate(done)]
    assert all(c.finished for c in done)
    # about 0.95 of 80 in the right form: four standard errors of 0.024
    assert sum(s.status is ScoreStatus.OK for s in scores) >= 68
    assert any(s.correct for s in scores) and not all(s.correct for s in scores)


@pytest.mark.parametrize(
    ("flags", "built"), [([], "critique_rl.lab.build.build_policy"), (["--world", "guess"], BUILD_GUESS)], ids=str
)
def test_the_command_builds_the_world_that_was_named(
    flags: list[str], built: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[Path, dict[str, object]]] = []

    def fake(out_dir: Path, **options: object) -> None:
        asked.append((out_dir, options))
        (out_dir / "LAB.json").write_text("{}\n", encoding="utf-8")

    monkeypatch.setattr(built, fake)
    assert main(["lab", "build", *flags, "--output", str(tmp_path), "--seed", "3", "--steps", "7"]) == 0
    assert capsys.readouterr().out == "{}\n"
    (out_dir, options), *more = asked
    assert (out_dir, options["seed"], options["steps"], more) == (tmp_path, 3, 7, [])
