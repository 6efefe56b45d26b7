"""Taking back what happened since a mark: exact, and without copying what was not touched."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from critique_rl.config.plateau import PlateauConfig
from critique_rl.config.trust import TrustConfig
from critique_rl.schedule.history import StepRecord
from critique_rl.schedule.plateau import PlateauTracker
from critique_rl.schedule.state import PromptRecord, VerifierRecord
from critique_rl.schedule.trust import CriticTrust
from critique_rl.types import Score, ScoreStatus

SCORES = {
    "right": Score(reward=1.0),
    "wrong": Score(reward=0.0),
    "unparsed": Score(reward=0.0, status=ScoreStatus.UNPARSED),
    "error": Score(reward=0.0, status=ScoreStatus.ERROR),
}
CONFIG = PlateauConfig(min_failures=4, max_success=0.6, max_tries=1, cooldown_visits=1, alarm_prompts=1)
Action = tuple[str, str, str, bool]
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["observe", "observe", "next", "critiqued", "rescued", "verifier", "alarms"]),
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from(sorted(SCORES)),
        st.booleans(),
    ),
    max_size=12,
)


class Player:
    """Plays actions on a tracker; a prompt that was never seen is left alone."""

    def __init__(self) -> None:
        self.tracker = PlateauTracker(CONFIG, rungs=3)
        self.step = 0
        self.seen: set[str] = set()

    def play(self, actions: list[Action]) -> None:
        for name, task, score, flag in actions:
            if name == "observe":
                self.tracker.observe(self.step, task, [SCORES[score]] * 4, [flag] * 4, kind=task, verifier=task)
                self.seen.add(task)
            elif name == "next":
                self.step += 1
            elif name == "critiqued" and task in self.seen:
                self.tracker.note_critiqued(task, self.step)
            elif name == "rescued" and task in self.seen:
                self.tracker.note_rescued(task, self.step)
            elif name == "verifier":
                self.tracker.note_verifier(task, self.step, accepts=flag)
            elif name == "alarms":
                self.tracker.alarms()


@settings(deadline=None, max_examples=200, derandomize=True)
@given(ACTIONS, ACTIONS, ACTIONS)
def test_rollback_restores_exactly_what_was_and_the_run_goes_on_from_there(
    before: list[Action], undone: list[Action], after: list[Action]
) -> None:
    played, straight = Player(), Player()
    for player in (played, straight):
        player.play(before)
        player.tracker.alarms()
    expected = copy.deepcopy(played.tracker.state_dict())
    step, seen = played.step, set(played.seen)
    played.tracker.mark()
    played.play(undone)
    played.tracker.rollback()
    assert played.tracker.state_dict() == expected
    assert list(played.tracker.state_dict()["prompts"]) == list(expected["prompts"])  # pyright: ignore
    played.step, played.seen = step, seen
    for player in (played, straight):
        player.play(after)
    assert played.tracker.state_dict() == straight.tracker.state_dict()


def test_the_latest_mark_counts_and_only_once() -> None:
    player = Player()
    player.tracker.mark()
    player.play([("observe", "a", "wrong", True)])
    expected = player.tracker.state_dict()
    player.tracker.mark()
    player.play([("observe", "b", "wrong", True)])
    player.tracker.rollback()
    assert player.tracker.state_dict() == expected
    with pytest.raises(AssertionError, match="without a mark"):
        player.tracker.rollback()


@pytest.mark.parametrize("prompts", [1, 300])
def test_the_cost_of_a_step_does_not_grow_with_the_run(prompts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = PlateauTracker(CONFIG)
    for step in range(prompts):
        tracker.observe(step, f"p{step}", [SCORES["wrong"]] * 4, [True] * 4)
    copied: list[str] = []
    for record in (PromptRecord, StepRecord, VerifierRecord):
        own = record.copy

        def counted(self: object, own: object = own, name: str = record.__name__) -> object:
            copied.append(name)
            return own(self)  # pyright: ignore

        monkeypatch.setattr(record, "copy", counted)
    tracker.mark()
    for _ in range(2):
        tracker.observe(prompts, "p0", [SCORES["wrong"]] * 4, [True] * 4)
    tracker.note_critiqued("p0", prompts)
    tracker.rollback()
    assert sorted(copied) == ["PromptRecord", "StepRecord", "VerifierRecord"]


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.lists(st.booleans(), max_size=6), st.lists(st.booleans(), max_size=6), st.booleans())
def test_the_trust_guard_can_be_taken_back_too(critiqued: list[bool], control: list[bool], judged: bool) -> None:
    trust = CriticTrust(TrustConfig(trials=3, min_scored=8))
    trust.note_refinements(critiqued=[True, False], control=[False] * (3 if judged else 1))
    trust.note_scores([0.5, 0.9], [False, True])
    trust.note_cost(usd=0.5, tokens=10)
    expected, area = copy.deepcopy(trust.state_dict()), trust.auroc
    trust.mark()
    trust.note_refinements(critiqued=critiqued, control=control)
    trust.note_scores([0.9] * 8, [False] * 8)
    trust.note_cost(usd=None, tokens=3)
    trust.verdict()
    trust.rollback()
    assert trust.state_dict() == expected and trust.auroc == area
    with pytest.raises(AssertionError, match="without a mark"):
        trust.rollback()
