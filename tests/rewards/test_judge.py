"""A judge who sees both answers in both positions: wins, ties, losses, a judge with a favourite place, failures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from critique_rl.build import build_reviews
from critique_rl.build_tasks import build_reward
from critique_rl.config.load import validate
from critique_rl.config.rewards import JudgeRewardConfig
from critique_rl.critics.scripted import FailingCritic, ScriptedCritic
from critique_rl.errors import ConfigError
from critique_rl.loop.verifier_check import check_verifier
from critique_rl.rewards.judge import JudgeReward
from critique_rl.types import CriticRequest, Critique, Message, ScoreStatus, Task

TASK = Task(id="w1", messages=(Message(role="user", content="Write."),), answer="reference", verifier="write")
LENGTHS = """
def review(request):
    first, second = (min(1.0, len(text) / 100) for text in (request.attempt, request.other_attempts[0]))
    return {"scores": {"first": first, "second": second}}
"""


def judge(prefers: Callable[[str, str], tuple[float, float]]) -> tuple[JudgeReward, ScriptedCritic]:
    def reply(request: CriticRequest) -> str:
        first, second = prefers(request.attempt, request.other_attempts[0])
        return json.dumps({"directives": [], "scores": {"first": first, "second": second}, "verdict": None})

    critic = ScriptedCritic(reply)
    return JudgeReward(critic.review), critic


def by_length(first: str, second: str) -> tuple[float, float]:
    return min(1.0, len(first) / 100), min(1.0, len(second) / 100)


@pytest.mark.parametrize(
    ("text", "reward"), [("a longer answer", 1.0), ("ninechars", 0.5), ("short", 0.0), ("  a longer answer\n", 1.0)]
)
def test_a_win_a_tie_and_a_loss(text: str, reward: float) -> None:
    score = judge(by_length)[0].score(TASK, text)
    assert (score.reward, score.status, score.extracted) == (reward, ScoreStatus.OK, text.strip())
    assert score.correct == (reward == 1.0)
    assert "reference" not in score.detail.replace("judged against the reference", "")


def test_both_are_shown_in_both_positions() -> None:
    reward, critic = judge(by_length)
    reward.score(TASK, "mine")
    assert [(r.attempt, r.other_attempts) for r in critic.requests] == [
        ("mine", ("reference",)),
        ("reference", ("mine",)),
    ]
    assert all(request.reference is None for request in critic.requests)


def test_a_judge_with_a_favourite_place_makes_every_pair_a_tie() -> None:
    for favourite in ((1.0, 0.0), (0.0, 1.0)):
        score = judge(lambda _first, _second, favourite=favourite: favourite)[0].score(TASK, "mine")
        assert score.reward == 0.5
        assert "disagreed" in score.detail


def test_half_a_win_where_one_position_is_a_tie() -> None:
    # First asking: mine wins, 1. Second asking, mine second: a tie, .5. (1 + 1 - .5) / 2 = .75
    score = judge(lambda first, _: (1.0, 0.0) if first == "mine" else (0.5, 0.5))[0].score(TASK, "mine")
    assert score.reward == 0.75


def test_what_needs_no_judge() -> None:
    reward, critic = judge(by_length)
    assert reward.score(TASK, " reference ").reward == 0.5
    assert reward.score(TASK, " \n").status is ScoreStatus.UNPARSED
    assert critic.requests == []


def test_a_judge_that_fails_is_no_score() -> None:
    score = JudgeReward(FailingCritic().review).score(TASK, "mine")
    assert (score.status, score.reward) == (ScoreStatus.ERROR, 0.0)
    assert "this critic always fails" in score.detail
    for said in ('{"scores": {"first": 1}}', '{"scores": {"better": 1}, "verdict": "correct"}', "first is better"):
        score = JudgeReward(ScriptedCritic([said]).review).score(TASK, "mine")
        assert score.status is ScoreStatus.ERROR, said

    def half(requests: Sequence[CriticRequest]) -> list[Critique]:
        return [*ScriptedCritic(['{"scores": {"first": 1, "second": 0}}']).review(requests[:1])]

    assert JudgeReward(half).score(TASK, "mine").status is ScoreStatus.ERROR


def test_a_judge_is_never_called_a_broken_verifier() -> None:
    reward, critic = judge(by_length)
    config = JudgeRewardConfig(kind="judge", critic={"kind": "scripted", "replies": ["{}"]})
    assert check_verifier([TASK, TASK], reward=reward, config=config).accepts is None
    assert critic.requests == []  # nor paid for


def test_a_section_is_a_critic_with_the_judges_prompt() -> None:
    section: dict[str, object] = {"kind": "openai", "model": "m", "base_url": "http://127.0.0.1:1/v1"}
    made = JudgeRewardConfig(kind="judge", critic=section).judge
    assert made.kind == "openai"
    assert (made.prompt, made.criteria, made.max_directives) == ("judge_pair", ("first", "second"), 0)
    own = JudgeRewardConfig(kind="judge", critic={**section, "prompt": "mine.md"}).judge
    assert own.kind == "openai" and own.prompt == "mine.md"


@pytest.mark.parametrize(
    ("section", "wanted"),
    [
        ({"kind": "policy"}, "cannot judge"),
        ({"kind": "openai", "model": "m", "criteria": ["a"]}, "criteria has no effect"),
        ({"kind": "openai", "model": "m", "max_directives": 2}, "asked for scores alone"),
        ({"kind": "panel"}, "critic:"),
        ({"kind": "openai"}, "model: Field required"),
        ({"kind": "python", "path": "a.py", "threads": 3}, "threads"),
    ],
)
def test_bad_sections(section: dict[str, object], wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        JudgeRewardConfig(kind="judge", critic=section)


def test_from_a_run_file(tmp_path: Path) -> None:
    file = tmp_path / "judge.py"
    file.write_text(LENGTHS)
    config = validate(
        {"rewards": {"write": {"kind": "judge", "critic": {"kind": "python", "path": str(file)}}}}, source="test"
    )
    closing: list[Callable[[], None]] = []
    reward = build_reward(config, build_reviews(config, exchanges=None, closing=closing))
    assert reward.score(TASK, "a longer answer").reward == 1.0
    assert reward.score(TASK, "short").reward == 0.0
    for close in closing:
        close()
    assert len(closing) == 1
    with pytest.raises(ConfigError, match=r"rewards.write: kind = \"judge\" answers in a run only"):
        build_reward(config)
