"""Reference answers in the forms that verifiers may want: what is accepted, what is not, and what cannot be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from critique_rl.algorithms.grpo import Grpo
from critique_rl.config.algorithm import GrpoConfig
from critique_rl.config.plateau import PlateauConfig
from critique_rl.config.rewards import ExactRewardConfig, FormatRewardConfig, RewardConfig
from critique_rl.loop.train import Trainer
from critique_rl.loop.verifier_check import CHECKED_TASKS, check_verifier, check_verifiers
from critique_rl.protocols import Reward
from critique_rl.rewards.exact import ExactReward
from critique_rl.rewards.format_reward import FormatReward
from critique_rl.schedule.plateau import PlateauTracker
from critique_rl.types import Score, ScoreStatus, Task
from tests.loop.fakes import CharPolicy, task
from tests.loop.test_train import Tree, make, memory

TASKS = [task(f"t{i}", answer=str(40 + i)) for i in range(6)]
HOUSE = ExactRewardConfig(
    kind="exact", pattern="^A:((?s:.*))$", form="A: ...", match="contains", casefold=True
)  # what examples/smollm2_house_style.toml wants, and its policy never writes


class Asked:
    """A verifier that answers the same of every text, and remembers what it was asked."""

    def __init__(self, score: Score) -> None:
        self.answer = score
        self.texts: list[str] = []

    def score(self, task: Task, text: str) -> Score:
        self.texts.append(text)
        return self.answer


def built(config: ExactRewardConfig) -> ExactReward:
    return ExactReward(
        pattern=config.pattern,
        form=config.form,
        casefold=config.casefold,
        collapse_whitespace=config.collapse_whitespace,
        match=config.match,
    )


def accepts(reward: Reward, config: RewardConfig | None = None, tasks: Sequence[Task] = TASKS) -> bool | None:
    return check_verifier(tasks, reward=reward, config=config).accepts


def wanting(pattern: str) -> ExactReward:
    return ExactReward(pattern=pattern)


@pytest.mark.parametrize(
    "reward",
    [
        ExactReward(),
        wanting(r"\\boxed\{(.*)\}"),
        wanting(r"Answer: (.*)"),
        wanting(r"<answer>(.*)</answer>"),
    ],
)
def test_a_verifier_that_wants_a_usual_form_is_sound(reward: ExactReward) -> None:
    assert accepts(reward) is True


def test_an_unusual_form_that_is_stated_is_sound() -> None:
    assert accepts(built(HOUSE), HOUSE) is True


def test_a_form_that_the_pattern_itself_refuses_is_broken() -> None:
    config = HOUSE.model_copy(update={"pattern": "^A:(never)$"})
    assert accepts(built(config), config) is False


def test_an_unusual_form_that_is_not_stated_cannot_be_told_from_a_broken_one() -> None:
    config = HOUSE.model_copy(update={"form": ""})
    assert accepts(built(config), config) is None
    config = HOUSE.model_copy(update={"form": "A and a colon first"})
    assert accepts(built(config), config) is None


@pytest.mark.parametrize(
    ("pattern", "broken"),
    [
        (r"^ZZ(Q+)ZZ$", True),
        (r"^ZZ(?P<answer>[A-Z]+)ZZ$", True),
        (r"^\(\[\)]([)\]x]+)$", True),  # brackets that are escaped, or stand in a set, open and close nothing
        (r"^ZZ((?:\d)(?:\d))ZZ$", False),  # 40 to 45 could stand there
        (r"^ZZ\s*(.*)ZZ$", False),
        (r"(?i)^zz([0-9a-f]+)zz$", False),
        (r"^(?:A|B): (\d+)(?: apples)?$", False),
    ],
)
def test_a_pattern_whose_group_can_never_read_the_answers_is_broken(pattern: str, broken: bool) -> None:
    config = ExactRewardConfig(kind="exact", pattern=pattern)
    assert accepts(built(config), config) is (False if broken else None)


@pytest.mark.parametrize("options", [{"match": "contains"}, {"casefold": True}])
def test_answers_that_a_looser_match_would_find_are_not_ruled_out(options: Tree) -> None:
    tasks = [task(f"t{i}", answer=name) for i, name in enumerate(("Ann", "Bob", "Cid"))]
    pattern = "^ZZ([a-z]+)ZZ$" if "casefold" in options else "^ZZ([A-Z][a-z]+ [a-z]+)ZZ$"
    config = ExactRewardConfig.model_validate({"kind": "exact", "pattern": pattern, **options})
    assert accepts(built(config), config, tasks) is None


def test_a_verifier_that_reads_and_refuses_every_reference_is_broken() -> None:
    found = check_verifier(TASKS, reward=Asked(Score(reward=0.0, detail="not correct")), config=None)
    assert found.accepts is False
    for words in ("verifier 'exact'", "all 4 prompts", "'t0', 't1', 't2', 't3'", "boxed", "[rewards.exact]"):
        assert words in found.message
    assert "ok: not correct" in found.message and "no critic is asked" in found.message


def test_the_forms_that_are_tried_by_hand() -> None:
    asked = Asked(Score(reward=0.5))
    check_verifier(TASKS[:1], reward=asked, config=HOUSE)
    assert asked.texts == ["40", "\\boxed{40}", "Answer: 40", "<answer>40</answer>", "A: 40"]


def test_one_accepted_answer_is_enough_and_ends_the_check() -> None:
    class Picky(Asked):
        def score(self, task: Task, text: str) -> Score:
            super().score(task, text)
            return Score(reward=float(task.id == "t1"))

    picky = Picky(Score(reward=0.0))
    assert accepts(picky) is True and len(picky.texts) == 8


def test_at_most_a_few_prompts_are_tried_and_one_alone_tells_nothing() -> None:
    asked = Asked(Score(reward=0.0))
    accepts(asked)
    assert len(asked.texts) == 4 * CHECKED_TASKS
    assert accepts(Asked(Score(reward=0.0)), tasks=TASKS[:1]) is None
    assert accepts(Asked(Score(reward=0.0)), tasks=[]) is None


def test_without_reference_answers_nothing_is_asked_or_said() -> None:
    asked = Asked(Score(reward=0.0))
    assert check_verifier([task("a", answer=""), task("b", answer=" ")], reward=asked, config=None) == (None, "")
    assert asked.texts == []


def test_a_verifier_of_the_shape_alone_has_no_reference() -> None:
    config = FormatRewardConfig(kind="format", pattern="^#", form="# ...")
    assert accepts(FormatReward(pattern="^#"), config) is None


def test_a_verifier_that_fails_is_not_called_broken_by_this_check() -> None:
    assert accepts(Asked(Score(reward=0.0, status=ScoreStatus.ERROR))) is None


def test_each_verifier_is_checked_by_its_own_tasks_and_held_out_ones_help() -> None:
    plateau = PlateauTracker(PlateauConfig())
    asked = Asked(Score(reward=0.0))
    held_out = [task("h0", answer="1"), task("h1", answer="2")]
    check_verifiers(0, TASKS[:1], held_out=lambda: held_out, plateau=plateau, reward=asked, rewards={})
    assert len(asked.texts) == 3 * 4
    ((cause, message),) = plateau.alarms()
    assert str(cause) == "verifier_broken" and "'t0', 'h0', 'h1'" in message
    asked.texts.clear()
    check_verifiers(1, TASKS[:1], held_out=lambda: held_out, plateau=plateau, reward=asked, rewards={})
    assert asked.texts == []


# -- whole runs --------------------------------------------------------------------------------------------------------


def judged_by(trainer: Trainer, reward: Reward) -> Trainer:
    return Trainer(trainer.config, replace(trainer.parts, reward=reward), trainer.run_dir)


@pytest.mark.parametrize("score", [Score(reward=0.0), Score(reward=0.0, status=ScoreStatus.UNPARSED)])
@pytest.mark.parametrize("mode", ["tracker", "always"])
def test_a_run_whose_verifier_rejects_everything_says_so_and_spends_nothing_on_critics(
    tmp_path: Path, score: Score, mode: str
) -> None:
    trainer = judged_by(make(tmp_path, {"plateau": {"mode": mode}}), Asked(score))
    trainer.run()
    told = [(step, words) for step, kind, words in memory(trainer).events if kind == "verifier_broken"]
    assert [step for step, _ in told] == [1] and "looks broken" in told[0][1]
    assert trainer.progress.critic.calls == 0 and trainer.progress.first_critic_step is None
    assert trainer.progress.step == 5 == len(cast(CharPolicy, trainer.parts.policy).trained)
    assert [values["plateau/broken_verifiers"] for values in memory(trainer).steps()] == [1.0] * 5


def test_scalar_runs_are_told_too(tmp_path: Path) -> None:
    changes: Tree = {"algorithm": {"name": "grpo"}, "critic": {"kind": "none"}}
    trainer = judged_by(make(tmp_path, changes, algorithm=Grpo(GrpoConfig())), Asked(Score(reward=0.0)))
    trainer.run()
    assert [kind for _, kind, _ in memory(trainer).events].count("verifier_broken") == 1


def test_a_form_that_the_policy_never_writes_still_gets_its_critics(tmp_path: Path) -> None:
    rewards: Tree = {"rewards": {"exact": HOUSE.model_dump()}}
    trainer = judged_by(make(tmp_path, rewards), built(HOUSE))
    trainer.run()
    assert trainer.progress.critic.calls > 0
    assert not any(kind == "verifier_broken" for _, kind, _ in memory(trainer).events)


def test_a_verifier_that_errs_is_told_and_costs_no_calls(tmp_path: Path) -> None:
    errs = Asked(Score(reward=0.0, status=ScoreStatus.ERROR))
    trainer = judged_by(make(tmp_path, {"plateau": {"alarm_prompts": 4}}), errs)
    trainer.run()
    assert [(step, kind) for step, kind, _ in memory(trainer).events if kind.startswith("verifier")] == [
        (2, "verifier_error")
    ]
    assert trainer.progress.critic.calls == 0
