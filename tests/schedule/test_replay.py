"""What is kept of a rescued prompt, which attempt is chosen, and when it is forgotten."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from critique_rl.errors import CheckpointError
from critique_rl.schedule.replay import Replay
from critique_rl.types import CriticOutcome, Critique, Directive, Message, Refinement, Rollout, Score, Task, Turn


def task(name: str) -> Task:
    return Task(
        id=name, messages=(Message(role="user", content="q"),), answer="1", verifier="exact", metadata={"a": "b"}
    )


def second(
    name: str, *ids: int, bare: float = -1.0, reward: float = 1.0, bare_logprobs: tuple[float, ...] | None = None
) -> Refinement:
    """A second attempt whose tokens all have the bare log-prob `bare`."""
    return Refinement(
        attempt_id=f"attempt of {name}",
        critique=Critique(
            rollout_id="a", critic="c", outcome=CriticOutcome.OK, directives=(Directive(text="Carry the one."),)
        ),
        rollout=Rollout(
            id=name,
            task_id="t",
            prompt_ids=(7, 8),
            completion_ids=ids,
            behaviour_logprobs=(-0.25,) * len(ids),
            text=name,
            finished=True,
            policy_version=3,
        ),
        score=Score(reward=reward),
        bare_logprobs=(bare,) * len(ids) if bare_logprobs is None else bare_logprobs,
        rung="lesson",
    )


def memory(*, capacity: int = 10, max_age_steps: int = 100) -> Replay:
    return Replay(capacity=capacity, max_age_steps=max_age_steps)


def recalled(replay: Replay, *, step: int = 5, task: str = "t") -> str | None:
    found = replay.recall(task, step=step)
    return None if found is None else found.rollout.text


def test_what_comes_back_is_the_verified_attempt_with_both_contexts() -> None:
    replay = memory()
    replay.note(task("t"), second("x", 1, 2, bare_logprobs=(-1.0, -2.0)), step=4)
    found = replay.recall("t", step=9)
    assert found is not None
    assert (found.rollout.prompt_ids, found.rollout.completion_ids) == ((7, 8), (1, 2))
    assert (found.rollout.behaviour_logprobs, found.bare_logprobs) == ((-0.25, -0.25), (-1.0, -2.0))
    assert found.rollout.id == "9/t/replay" and found.rollout.policy_version == 3 and found.rollout.finished
    assert found.score.correct and not found.rejected and found.attempt_id == "attempt of x" and found.rung == "lesson"
    assert (found.critique.directive_text, found.critique.critic) == ("Carry the one.", "replay")
    assert found.reliance == pytest.approx(-1.5 + 0.25)


def test_it_is_recalled_on_every_visit_until_the_bare_prompt_succeeds() -> None:
    replay = memory()
    replay.note(task("t"), second("x", 1), step=0)
    replay.note(task("u"), second("y", 1), step=0)
    assert [recalled(replay, step=s) for s in (1, 2, 3)] == ["x", "x", "x"]
    replay.forget("t")
    replay.forget("never seen")
    assert recalled(replay) is None and recalled(replay, task="u") == "y"


def test_the_likeliest_under_the_bare_prompt_is_chosen_then_the_shorter_then_the_older() -> None:
    replay = memory()
    replay.note(task("t"), second("far", 1, 2, bare=-3.0), step=0)
    replay.note(task("t"), second("long", 1, 2, 3, bare=-1.0), step=1)
    replay.note(task("t"), second("near", 4, 5, bare=-1.0), step=2)
    replay.note(task("t"), second("later", 6, 7, bare=-1.0), step=3)
    assert recalled(replay) == "near"


def test_of_equal_attempts_the_newest_is_kept() -> None:
    replay = memory()
    replay.note(task("t"), second("old", 1, 2, bare=-1.0), step=0)
    replay.note(task("t"), second("new", 1, 2, bare=-2.0), step=1)
    assert len(replay) == 1 and recalled(replay) == "new"


def test_what_is_too_old_is_dropped() -> None:
    replay = memory(max_age_steps=10)
    replay.note(task("t"), second("x", 1, bare=-1.0), step=0)
    replay.note(task("t"), second("y", 2, bare=-5.0), step=5)
    assert recalled(replay, step=10) == "x"
    assert recalled(replay, step=11) == "y"
    assert recalled(replay, step=16) is None
    assert replay.counts() == {"replay/attempts": 0.0, "replay/prompts": 0.0}


def test_the_oldest_leaves_when_there_is_no_room() -> None:
    replay = memory(capacity=3)
    for step, (of, name) in enumerate([("t", "a"), ("u", "b"), ("t", "c"), ("v", "d"), ("v", "e")]):
        replay.note(task(of), second(name, step), step=step)
    assert [recalled(replay, task=of) for of in "tuv"] == ["c", None, "d"]
    assert replay.counts() == {"replay/attempts": 3.0, "replay/prompts": 2.0}


def test_only_verified_attempts_with_bare_logprobs_are_kept() -> None:
    replay = memory()
    with pytest.raises(ValueError, match="'x' is not verified"):
        replay.note(task("t"), second("x", 1, reward=0.5), step=0)
    with pytest.raises(ValueError, match="0 bare log-probs for 1 tokens"):
        replay.note(task("t"), second("x", 1, bare_logprobs=()), step=0)
    with pytest.raises(ValueError, match="not verified"):
        replay.note(task("t"), second("x"), step=0)
    assert len(replay) == 0


def test_one_that_may_not_be_trained_on_leaves_alone() -> None:
    replay = memory()
    replay.note(task("t"), second("x", 1, bare=-1.0), step=0)
    replay.note(task("t"), second("y", 2, bare=-5.0), step=1)
    replay.discard("t", (1,))
    replay.discard("u", (1,))
    assert recalled(replay) == "y"
    replay.discard("t", (2,))
    assert recalled(replay) is None and replay.unsolved(step=1) == []


def test_the_unsolved_come_in_turn() -> None:
    replay = memory(max_age_steps=10)
    for step, name in enumerate("tuv"):
        replay.note(task(name), second(name, 1), step=step)
    replay.visited("t")
    replay.visited("never seen")
    assert replay.unsolved(step=5) == [task("u"), task("v"), task("t")]
    replay.note(task("u"), second("again", 2), step=6)  # a rescue is not a visit
    replay.forget("v")
    assert [of.id for of in replay.unsolved(step=11)] == ["u"]  # t is too old by now


def test_what_happened_since_a_mark_can_be_undone_once() -> None:
    replay = memory()
    replay.note(task("t"), second("x", 1), step=0)
    replay.note(task("u"), second("y", 1), step=0)
    before = replay.state_dict()
    replay.mark()
    replay.note(task("t"), second("z", 2), step=1)
    replay.note(task("v"), second("z", 2), step=1)
    replay.visited("t")
    replay.forget("u")
    replay.rollback()
    assert replay.state_dict() == before and list(replay.state_dict()["attempts"]) == ["t", "u"]  # pyright: ignore
    with pytest.raises(AssertionError, match="without a mark"):
        replay.rollback()


@pytest.mark.parametrize("limits", [{"capacity": 0, "max_age_steps": 1}, {"capacity": 1, "max_age_steps": 0}])
def test_a_memory_without_room_is_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Replay(**limits)


def test_the_state_travels_in_checkpoints() -> None:
    replay, resumed = memory(), memory()
    replay.note(task("t"), second("x", 1, 2, bare=-0.1), step=3)
    replay.note(task("u"), second("y", 3), step=4)
    resumed.load_state_dict(json.loads(json.dumps(replay.state_dict())))
    assert resumed.state_dict() == replay.state_dict()
    assert resumed.recall("t", step=9) == replay.recall("t", step=9)
    assert resumed.unsolved(step=9) == replay.unsolved(step=9) == [task("t"), task("u")]
    with pytest.raises(CheckpointError, match="replay memory in the checkpoint"):
        resumed.load_state_dict({"attempts": {"t": [{"step": "soon"}]}})
    with pytest.raises(CheckpointError, match="attempts of 2 tasks came with 0 tasks"):
        resumed.load_state_dict({"attempts": replay.state_dict()["attempts"]})
    assert resumed.state_dict() == replay.state_dict()


def test_an_episode_comes_back_with_its_mask_and_turns_also_from_a_checkpoint() -> None:
    turns = (Turn(start=0, end=1, text="a", action="search", argument="a", observation="b", documents=("d",)),)
    refinement = second("x", 1, 2, 3, bare_logprobs=(-1.0, -9.0, -2.0))
    mask = (True, False, True)
    episode = replace(refinement, rollout=replace(refinement.rollout, policy_mask=mask, turns=turns))
    replay = memory()
    replay.note(task("t"), episode, step=1)
    # the tool's -9 does not count: -1.5 is likelier than the -2 of a later one
    replay.note(task("t"), second("y", 4, bare=-2.0), step=2)
    fresh = memory()
    fresh.load_state_dict(json.loads(json.dumps(replay.state_dict())))
    found = fresh.recall("t", step=3)
    assert found is not None
    assert (found.rollout.policy_mask, found.rollout.turns) == (mask, turns)
    assert found.own_bare_logprobs == (-1.0, -2.0)
