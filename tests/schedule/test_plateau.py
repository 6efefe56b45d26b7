"""The per-prompt state machine, the run's history, and exact resumption."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from critique_rl.config.plateau import PlateauConfig
from critique_rl.errors import CheckpointError, ConfigError
from critique_rl.schedule.causes import GroupCause
from critique_rl.schedule.plateau import GroupState, PlateauTracker
from critique_rl.schedule.state import PromptStatus
from critique_rl.types import Score, ScoreStatus

RIGHT = Score(reward=1.0)
WRONG = Score(reward=0.0, extracted="7")
UNPARSED = Score(reward=0.0, status=ScoreStatus.UNPARSED)
ERROR = Score(reward=0.0, status=ScoreStatus.ERROR)
FAIL8 = (WRONG,) * 8


def observe(
    tracker: PlateauTracker, step: int, scores: tuple[Score, ...] = FAIL8, task: str = "t", **options: str
) -> GroupState:
    return tracker.observe(step, task, scores, [True] * len(scores), **options)


def plateaued_tracker(**options: object) -> PlateauTracker:
    tracker = PlateauTracker(PlateauConfig.model_validate(options))
    observe(tracker, 0)
    assert observe(tracker, 1).status is PromptStatus.PLATEAUED
    return tracker


def test_one_failed_group_is_not_a_plateau_but_sixteen_failures_are() -> None:
    tracker = PlateauTracker(PlateauConfig())
    first = observe(tracker, 0)
    # 1 - 0.05^(1/8) = 0.3123 and 1 - 0.05^(1/16) = 0.1707
    assert first.upper_bound == pytest.approx(0.3123, abs=1e-4)
    assert (first.status, first.select, first.cause) == (PromptStatus.FRESH, False, GroupCause.HOPELESS)
    second = observe(tracker, 1)
    assert second.upper_bound == pytest.approx(0.1707, abs=1e-4)
    assert (second.status, second.failures, second.successes, second.select) == (PromptStatus.PLATEAUED, 16, 0, True)
    assert tracker.stalled and tracker.first_stall_step == 1


def test_prompts_do_not_share_evidence() -> None:
    tracker = PlateauTracker(PlateauConfig())
    observe(tracker, 0, task="a")
    assert observe(tracker, 1, task="b").status is PromptStatus.FRESH


def test_a_success_keeps_a_prompt_fresh_until_the_bound_allows_it() -> None:
    tracker = PlateauTracker(PlateauConfig(max_success=0.15))
    observe(tracker, 0, (RIGHT,) + (WRONG,) * 7)
    # With one success in n the bound falls below 0.15 between n = 24 (0.183) and n = 32 (0.140).
    assert [observe(tracker, step).status for step in (1, 2)] == [PromptStatus.FRESH] * 2
    assert observe(tracker, 3).status is PromptStatus.PLATEAUED


def test_old_evidence_is_forgotten() -> None:
    tracker = PlateauTracker(PlateauConfig(window_rollouts=16))
    observe(tracker, 0, (RIGHT,) * 8)
    assert observe(tracker, 1).successes == 8
    assert observe(tracker, 2)[3:5] == (16, 0)


def test_only_a_bare_success_leaves_the_plateau_and_evidence_starts_anew() -> None:
    tracker = plateaued_tracker()
    assert observe(tracker, 2, (ERROR,) * 8).status is PromptStatus.PLATEAUED
    tracker.note_critiqued("t", 2)
    tracker.note_rescued("t", 2)
    assert observe(tracker, 3).status is PromptStatus.PLATEAUED
    rescued = observe(tracker, 4, (RIGHT,) + (WRONG,) * 7)
    assert (rescued.status, rescued.failures, rescued.successes, rescued.select) == (PromptStatus.RESCUED, 7, 1, False)
    assert not tracker.stalled and tracker.first_stall_step == 1
    # The rescued prompt must earn its next plateau: with 1 success the bound is at most 0.171 from n = 27 on.
    statuses = [observe(tracker, step).status for step in (5, 6, 7)]
    assert statuses == [PromptStatus.RESCUED, PromptStatus.RESCUED, PromptStatus.PLATEAUED]


def test_a_prompt_rests_after_its_tries_and_is_tried_again_after_the_cooldown() -> None:
    tracker = plateaued_tracker(max_tries=2, cooldown_visits=2)
    tracker.note_critiqued("t", 1)
    assert observe(tracker, 2).select
    tracker.note_critiqued("t", 2)
    resting = [observe(tracker, step) for step in (3, 4)]
    assert [(s.status, s.select) for s in resting] == [(PromptStatus.DORMANT, False)] * 2
    again = observe(tracker, 5)
    assert (again.status, again.select) == (PromptStatus.PLATEAUED, True)
    tracker.note_critiqued("t", 5)
    assert observe(tracker, 6).select, "the tries start from zero after a rest"


def test_a_verified_refinement_renews_the_tries() -> None:
    tracker = plateaued_tracker(max_tries=1)
    tracker.note_critiqued("t", 1)
    tracker.note_rescued("t", 1)
    assert observe(tracker, 2).select


def test_a_success_wakes_a_resting_prompt() -> None:
    tracker = plateaued_tracker(max_tries=1)
    tracker.note_critiqued("t", 1)
    assert observe(tracker, 2).status is PromptStatus.DORMANT
    assert observe(tracker, 3, (RIGHT,) * 8).status is PromptStatus.RESCUED


@pytest.mark.parametrize("options", [{"exempt_steps": 3}, {"exempt_fraction": 0.25}])
def test_nothing_is_plateaued_or_asked_in_the_exemption(options: dict[str, float]) -> None:
    tracker = PlateauTracker(PlateauConfig.model_validate(options), total_steps=10)
    for step in range(3):
        state = observe(tracker, step)
        assert (state.status, state.select) == (PromptStatus.FRESH, False)
    assert observe(tracker, 3).select


def test_a_fraction_needs_the_length_of_the_run() -> None:
    with pytest.raises(ConfigError, match="exempt_steps instead"):
        PlateauTracker(PlateauConfig(exempt_fraction=0.1))


@pytest.mark.parametrize(
    ("mode", "selected"),
    [
        ("tracker", {"plateaued"}),
        ("paper", {"fresh", "plateaued", "unparsed"}),
        ("always", {"fresh", "plateaued", "mixed", "solved", "unparsed"}),
        ("never", set[str]()),
    ],
)
def test_the_modes(mode: str, selected: set[str]) -> None:
    groups = {
        "fresh": FAIL8,
        "mixed": (RIGHT,) + (WRONG,) * 7,
        "solved": (RIGHT,) * 8,
        "unparsed": (UNPARSED,) * 8,
        "error": (ERROR,) * 8,
    }
    tracker = PlateauTracker(PlateauConfig.model_validate({"mode": mode}))
    chosen = {name for name, scores in groups.items() if observe(tracker, 0, scores, task=name).select}
    observe(tracker, 0, task="plateaued")
    chosen |= {"plateaued"} if observe(tracker, 1, task="plateaued").select else set()
    assert chosen == selected


@pytest.mark.parametrize(("wanted", "status"), [(True, PromptStatus.PLATEAUED), (False, PromptStatus.FRESH)])
def test_unreadable_answers_are_evidence_only_if_wanted(wanted: bool, status: PromptStatus) -> None:
    tracker = PlateauTracker(PlateauConfig(critique_unparsed=wanted, critique_truncated=False))
    for step in range(3):
        state = observe(tracker, step, (UNPARSED,) * 8)
    assert (state.status, state.select, state.cause) == (status, wanted, GroupCause.UNPARSED)
    for step in range(3, 6):
        cut = tracker.observe(step, "cut", FAIL8, [False] * 8)
    assert (cut.status, cut.select, cut.upper_bound) == (PromptStatus.FRESH, False, 1.0)


def test_the_scalar_run_still_reports_its_stall() -> None:
    tracker = plateaued_tracker(mode="never")
    assert tracker.stalled
    for step in range(2, 20):
        tracker.note_critiqued("t", step)
        assert observe(tracker, step).status is PromptStatus.PLATEAUED


def test_counts_are_of_prompts_by_status_and_of_the_latest_groups_by_cause() -> None:
    tracker = PlateauTracker(PlateauConfig())
    assert tracker.counts()["plateau/fresh"] == 0
    for step in range(2):
        observe(tracker, step, task="hard")
        observe(tracker, step, (RIGHT,) * 8, task="easy")
    counts = tracker.counts()
    assert {k: v for k, v in counts.items() if v} == {
        "plateau/fresh": 1,
        "plateau/plateaued": 1,
        "groups/solved": 0.5,
        "groups/hopeless": 0.5,
    }


def flat_run() -> PlateauTracker:
    tracker = PlateauTracker(PlateauConfig(block=2, horizon=40))
    for step in range(40):
        for number in range(3):
            observe(tracker, step, task=f"h{number}", kind="hard")
        observe(tracker, step, (RIGHT,) * (step // 5) + (WRONG,) * (8 - step // 5), task="e", kind="easy")
    return tracker


def test_the_trend_is_read_per_kind() -> None:
    tracker = flat_run()
    assert tracker.run_report("hard").verdict == "flat"
    assert tracker.run_report("easy").verdict == "rising"
    # Easy reward gains 1/8 every five steps, 1/40 per step; it is a quarter of the rollouts.
    assert tracker.run_report().slope == pytest.approx(1 / 160, rel=0.1)


def test_the_message_names_the_stalled_kind_and_its_evidence() -> None:
    assert flat_run().message() == (
        "stall: 3 of 3 hard prompts all-fail over >=64 rollouts each (95% upper bound on success 0.05 or less); "
        "reward trend on hard prompts flat (Sen slope 0 per step, p 1)"
    )


def test_the_message_of_a_young_run() -> None:
    tracker = PlateauTracker(PlateauConfig())
    assert (
        tracker.message() == "no stall: 0 of 0 prompts plateaued; reward trend undecided (0 of 8 blocks of 10 values)"
    )
    observe(tracker, 0)
    observe(tracker, 1)
    assert tracker.message().startswith("stall: 1 of 1 prompt all-fail over >=16 rollouts each (95% upper bound")


def test_a_resumed_tracker_continues_exactly() -> None:
    script = [FAIL8, FAIL8, FAIL8, (RIGHT,) + (WRONG,) * 7, (ERROR,) * 8, FAIL8, FAIL8, FAIL8, FAIL8]

    def play(tracker: PlateauTracker, steps: range) -> list[GroupState]:
        states: list[GroupState] = []
        for step in steps:
            states.append(observe(tracker, step, script[step], kind="hard"))
            if states[-1].select:
                tracker.note_critiqued("t", step)
        return states

    config = PlateauConfig(max_tries=1)
    whole = PlateauTracker(config)
    expected = play(whole, range(9))
    for cut in range(9):
        first, second = PlateauTracker(config), PlateauTracker(config)
        head = play(first, range(cut))
        saved: Mapping[str, object] = json.loads(json.dumps(first.state_dict()))
        second.load_state_dict(saved)
        assert head + play(second, range(cut, 9)) == expected
        assert second.state_dict() == whole.state_dict()
        assert second.message() == whole.message()


def test_a_foreign_state_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"prompts\.t\.status.*older checkpoint"):
        PlateauTracker(PlateauConfig()).load_state_dict({"prompts": {"t": {"status": "asleep"}}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window_rollouts": 8}, "below min_failures"),
        ({"max_success": 0.01}, "cannot be reached"),
        ({"horizon": 20}, "always be undecided"),
        ({"forgetting": 0.5}, "forgetting"),
    ],
)
def test_a_config_that_can_have_no_effect_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PlateauConfig.model_validate(options)
