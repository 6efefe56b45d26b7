"""Which rung of the guidance ladder a prompt is on: the next one after a rest in vain, the same one after a rescue."""

from __future__ import annotations

from critique_rl.config.plateau import PlateauConfig
from critique_rl.schedule.plateau import GroupState, PlateauTracker
from critique_rl.schedule.state import PromptStatus
from critique_rl.types import Score

RIGHT, WRONG = Score(reward=1.0), Score(reward=0.0)
CONFIG = PlateauConfig(min_failures=4, max_success=0.6, max_tries=1, cooldown_visits=1)


def visit(watch: PlateauTracker, step: int, score: Score = WRONG) -> GroupState:
    """One group of four; the critic is asked whenever it should be."""
    state = watch.observe(step, "t", [score] * 4, [True] * 4)
    if state.select:
        watch.note_critiqued("t", step)
    return state


def test_each_rest_in_vain_goes_one_rung_up_and_the_last_one_stays() -> None:
    watch = PlateauTracker(CONFIG, rungs=3)
    states = [visit(watch, step) for step in range(9)]
    # one try, one visit of rest, then the next rung
    assert [s.status for s in states[:4]] == [
        PromptStatus.PLATEAUED,
        PromptStatus.DORMANT,
        PromptStatus.PLATEAUED,
        PromptStatus.DORMANT,
    ]
    assert [s.rung for s in states] == [0, 0, 1, 1, 2, 2, 2, 2, 2]


def test_without_a_ladder_there_is_one_rung() -> None:
    watch = PlateauTracker(CONFIG)
    assert {visit(watch, step).rung for step in range(9)} == {0}


def test_a_rescue_keeps_the_rung_and_so_does_the_next_stall() -> None:
    watch = PlateauTracker(CONFIG, rungs=3)
    for step in range(3):
        visit(watch, step)
    watch.note_rescued("t", 2)
    assert visit(watch, 3).rung == 1  # a verified refinement: tries begin anew on the rung that gave it
    rescued = visit(watch, 4, RIGHT)
    assert (rescued.status, rescued.rung) == (PromptStatus.RESCUED, 1)
    again = [visit(watch, step) for step in range(5, 14)]
    stalled = next(s for s in again if s.status is PromptStatus.PLATEAUED)
    assert stalled.rung == 1


def test_a_checkpoint_from_before_the_ladder_begins_at_its_foot() -> None:
    watch = PlateauTracker(CONFIG, rungs=3)
    record = {"kind": "", "status": "plateaued", "visits": [[0, 4]], "tries": 0, "rested": 0}
    watch.load_state_dict(
        {
            "prompts": {"t": record},
            "history": [{"step": 0, "reward": {"": 0.0}, "judged": {"": 4}, "causes": {"hopeless": 1}}],
            "first_stall_step": 0,
        }
    )
    assert (visit(watch, 1).rung, watch.first_stall_step) == (0, 0)


def test_a_shorter_ladder_than_the_checkpoints_ends_at_its_top() -> None:
    long, short = PlateauTracker(CONFIG, rungs=3), PlateauTracker(CONFIG, rungs=2)
    for step in range(5):
        visit(long, step)
    short.load_state_dict(long.state_dict())
    assert visit(short, 5).rung == 1
