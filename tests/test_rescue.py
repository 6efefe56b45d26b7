"""Rescue on the lab policy: the rule critic helps, a critic without a useful word does not, bad rows are refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from critique_rl.config.critic import (
    CriticConfig,
    LabRulesCriticConfig,
    NoCriticConfig,
    OpenAICriticConfig,
    PanelCriticConfig,
    PolicyCriticConfig,
    PythonCriticConfig,
    ScriptedCriticConfig,
)
from critique_rl.config.run import RunConfig
from critique_rl.critics.scripted import scripted_critic
from critique_rl.errors import ConfigError, DataError
from critique_rl.feedback.rows import RolloutRow, rollout_from_json, rollout_to_json
from critique_rl.rescue import DETAIL_SHOWN, RescueOptions, failed, rescue, sample_rollouts
from critique_rl.types import Score, ScoreStatus
from tests.lab_runs import lab_config

Json = dict[str, object]
LAB = LabRulesCriticConfig(kind="lab_rules")


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return lab_config()


@pytest.fixture(scope="module")
def rows(config: RunConfig) -> list[RolloutRow]:
    return sample_rollouts(config, tasks=6, group_size=3)


def _scripted(directive: str, *, show_reference: bool = False) -> ScriptedCriticConfig:
    reply = {"directives": [{"text": directive}], "scores": {"correctness": 0.5}, "verdict": "incorrect"}
    return ScriptedCriticConfig(kind="scripted", replies=(json.dumps(reply),), show_reference=show_reference)


IDLE = _scripted("Please look at all of it again with care.")


def _measure(
    config: RunConfig, rows: Sequence[RolloutRow], critics: Sequence[tuple[str, CriticConfig]], **options: object
) -> dict[str, Json]:
    result = rescue(config, critics, rows, options=RescueOptions(**options))  # pyright: ignore[reportArgumentType]
    return {cast(str, entry["critic"]): entry for entry in cast("list[Json]", result["table"])}


# -- rollouts ----------------------------------------------------------------------------------------------------------


def test_rollouts_hold_all_that_training_needs(config: RunConfig, rows: list[RolloutRow]) -> None:
    assert len(rows) == 18
    assert len({row.id for row in rows}) == 18
    assert [row.task.kind for row in rows] == ["hard"] * 9 + ["easy"] * 9
    for row in rows:
        assert row.policy == "lab"
        assert row.policy_version == 0
        assert row.temperature == config.rollout.temperature
        assert len(row.behaviour_logprobs) == len(row.completion_ids) > 0
        assert row.prompt_ids
        assert row.score is not None
        assert row.score.correct == (row.attempt == row.task.answer)
        again = rollout_from_json(json.loads(json.dumps(rollout_to_json(row))), where="here")
        assert again == row


def test_rollouts_repeat_and_follow_the_seed(config: RunConfig, rows: list[RolloutRow]) -> None:
    assert sample_rollouts(config, tasks=6, group_size=3) == rows
    other = sample_rollouts(config.model_copy(update={"seed": 1}), tasks=6, group_size=3)
    assert [row.id for row in other] != [row.id for row in rows]


def test_more_tasks_than_there_are_is_refused(config: RunConfig) -> None:
    with pytest.raises(ConfigError, match="hard tasks a step were asked of a pool of 6"):
        sample_rollouts(config, tasks=40)


# -- rescue ------------------------------------------------------------------------------------------------------------


def test_the_rule_critic_is_better_and_the_idle_one_is_not(config: RunConfig, rows: list[RolloutRow]) -> None:
    table = _measure(config, rows, [("rules", LAB), ("idle", IDLE)], samples=2)
    wrong = sum(map(failed, rows))
    assert wrong >= 8
    assert [*table] == ["control", "rules", "idle"]
    rules, idle, control = table["rules"], table["idle"], table["control"]
    assert rules["second_attempts"] == idle["second_attempts"] == control["second_attempts"] == 2 * wrong
    assert cast(float, rules["rescue_rate"]) > 0.8
    assert cast(float, control["rescue_rate"]) < 0.3
    assert rules["better_than_control"] is True
    assert idle["better_than_control"] is False
    assert (rules["auroc"], rules["verdict_accuracy"]) == (1.0, 1.0)
    assert (idle["auroc"], idle["usable_rate"]) == (0.5, 1.0)
    assert idle["verdict_accuracy"] == wrong / (wrong + cast(int, idle["reviewed_right_attempts"]))


def test_a_critic_without_a_usable_word_counts_with_all_attempts(config: RunConfig, rows: list[RolloutRow]) -> None:
    mute = ScriptedCriticConfig(kind="scripted", replies=("I would rather not say.",))
    entry = _measure(config, rows, [("mute", mute)], limit=4)["mute"]
    assert (entry["critiques"], entry["valid_rate"], entry["usable_rate"]) == (4, 0.0, 0.0)
    assert (entry["second_attempts"], entry["right_rate"]) == (0, None)
    assert (entry["attempts"], entry["rescue_rate"]) == (4, 0.0)
    assert entry["better_than_control"] is False


def test_the_policy_can_be_its_own_critic(config: RunConfig, rows: list[RolloutRow]) -> None:
    own = PolicyCriticConfig(kind="policy", max_tokens=4)
    entry = _measure(config, rows, [("self", own)], limit=2)["self"]
    # The lab policy knows no words to criticise with: no reply of its own can be read.
    assert (entry["critiques"], entry["valid_rate"]) == (2, 0.0)
    assert entry["better_than_control"] is False


def test_the_result_has_the_house_form(config: RunConfig, rows: list[RolloutRow]) -> None:
    heard: list[str] = []
    options = RescueOptions(limit=2, show_detail=True)
    result = rescue(config, [("rules", LAB)], rows, options=options, command="critique-rl rescue", say=heard.append)
    assert {"command", "commit", "device", "versions", "seeds", "wall_time_s", "rows", "table"} <= result.keys()
    assert (result["command"], result["seeds"], result["attempts"], result["tasks"]) == (
        "critique-rl rescue",
        [0],
        2,
        1,
    )
    assert heard == ["control: 2 failed attempts", "rules: 2 failed attempts"]
    assert result["notes"] == [DETAIL_SHOWN]
    json.dumps(result, allow_nan=False)


def test_equal_runs_give_equal_figures(config: RunConfig, rows: list[RolloutRow]) -> None:
    one, two = (_measure(config, rows, [("rules", LAB)], limit=4, samples=2) for _ in range(2))
    assert one == two


def test_the_reference_is_an_arm_of_its_own(config: RunConfig, rows: list[RolloutRow]) -> None:
    critics = [("rules", LAB), ("idle", IDLE), ("told", _scripted("Start from the ones.", show_reference=True))]
    table = _measure(config, rows, critics, limit=2, with_reference=True)
    assert [*table] == ["control", "rules", "idle", "idle + reference", "told"]


def test_no_stage_deadline_ends_a_measurement(
    config: RunConfig, rows: list[RolloutRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[CriticConfig | None] = []

    def build_idle(asked: CriticConfig, **_: object) -> object:
        built.append(asked)
        return scripted_critic(IDLE)

    monkeypatch.setattr("critique_rl.rescue.build_critic", build_idle)
    remote = OpenAICriticConfig(kind="openai", model="m", base_url="http://127.0.0.1:1/v1", stage_deadline_s=1.0)
    panel = PanelCriticConfig(kind="panel", members=(remote, LAB))
    _measure(config, rows, [("remote", remote), ("panel", panel)], limit=1)
    patient = remote.model_copy(update={"stage_deadline_s": None})
    assert built == [patient, panel.model_copy(update={"members": (patient, LAB)})]


def test_critics_do_not_see_the_verifiers_report(config: RunConfig, rows: list[RolloutRow], tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "def review(request):\n    return {'directives': [], 'scores': {'seen': float(bool(request.score.detail))}}\n"
    )
    spy = PythonCriticConfig(kind="python", path=str(tmp_path / "own.py"))
    blind = _measure(config, rows, [("spy", spy)], limit=2)["spy"]
    told = _measure(config, rows, [("spy", spy)], limit=2, show_detail=True)["spy"]
    # Scores 0 against half right attempts, and 1 where the report is seen: off by the half either way.
    assert blind["ece"] == told["ece"] == 0.5
    assert blind["rescue_rate"] == 0.0


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_attempts_that_nobody_verified_are_verified_first(config: RunConfig, rows: list[RolloutRow]) -> None:
    bare = [replace(row, score=None) for row in rows]
    assert _measure(config, bare, [("rules", LAB)], limit=3) == _measure(config, rows, [("rules", LAB)], limit=3)


def test_rows_that_cannot_be_used_are_refused(config: RunConfig, rows: list[RolloutRow]) -> None:
    right = [row for row in rows if not failed(row)]
    broken = [replace(row, score=Score(reward=0.0, status=ScoreStatus.ERROR)) for row in rows]
    for useless in (right, broken, []):
        with pytest.raises(DataError, match="nothing to rescue"):
            _measure(config, useless, [("rules", LAB)])
    without_answer = replace(rows[0], task=replace(rows[0].task, answer=""))
    with pytest.raises(DataError, match=r"row 'v0/lab/.*' has no answer"):
        _measure(config, [without_answer], [("rules", LAB)])
    unknown = replace(rows[0], task=replace(rows[0].task, verifier="magic"))
    with pytest.raises(DataError, match="names verifier 'magic'"):
        _measure(config, [unknown], [("rules", LAB)])


@pytest.mark.parametrize(
    ("critics", "wanted"),
    [
        ([("a", LAB), ("a", IDLE)], "two arms would be called 'a'"),
        ([("control", LAB)], "two arms would be called 'control'"),
        ([("none", NoCriticConfig(kind="none"))], "critic 'none' says nothing"),
    ],
)
def test_arms_need_names_and_critics(
    config: RunConfig, rows: list[RolloutRow], critics: list[tuple[str, CriticConfig]], wanted: str
) -> None:
    with pytest.raises(ConfigError, match=wanted):
        _measure(config, rows, critics)
