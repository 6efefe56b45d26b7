"""Who is sent to the critic and when, what comes of an answer, of a failure, and of an answer that comes late."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from concurrent.futures import Future

import pytest

from critique_rl.critics.scripted import FailingCritic, ScriptedCritic
from critique_rl.errors import CriticSetupError
from critique_rl.loop.criticize import CriticTally, usable
from critique_rl.loop.desk import CriticDesk, DeskLimits, Resumed, Reviewed
from critique_rl.protocols import StreamingCritic
from critique_rl.types import CriticOutcome, CriticRequest, Critique, Group
from tests.loop.fakes import critique, group, task

REPLY = '{"directives": [{"text": "Carry the one into the tens.", "kind": "procedure", "quote": null}], "scores": {}}'


def ask(
    critic: ScriptedCritic | FailingCritic, *groups: Group, max_attempts: int = 8, show: bool = False
) -> tuple[list[Group], CriticTally]:
    desk = CriticDesk(critic, DeskLimits(max_attempts=max_attempts, show_reference=show))
    for each in groups:
        desk.ask(0, each)
    reviewed = desk.collect(0, groups)
    assert not reviewed.late and not reviewed.probes and desk.waiting == 0
    return reviewed.groups, reviewed.tally


def test_equal_attempts_are_asked_about_once_and_share_the_critique() -> None:
    critic = ScriptedCritic([REPLY])
    (reviewed,), tally = ask(critic, group(task(), "41", "40", "41", "42", "41"))
    assert [r.rollout_id for r in critic.requests] == ["t/0", "t/1"]
    assert [r.attempt for r in critic.requests] == ["41", "40"]
    assert sorted(reviewed.critiques) == ["t/0", "t/1", "t/2", "t/4"]  # the twins too, the correct one not
    assert all(name == c.rollout_id for name, c in reviewed.critiques.items())
    twins = [dataclasses.replace(reviewed.critiques[name], rollout_id="") for name in ("t/0", "t/2", "t/4")]
    assert twins[0] == twins[1] == twins[2]
    assert tally.calls == 2 and tally.directives == 2


def test_a_rollout_whose_verifier_failed_is_never_sent() -> None:
    critic = ScriptedCritic([REPLY])
    (reviewed,), _ = ask(critic, group(task(), "!", "?", "41"))
    assert [r.attempt for r in critic.requests] == ["?", "41"]
    assert sorted(reviewed.critiques) == ["t/1", "t/2"]


def test_equal_attempts_of_two_tasks_are_two_questions() -> None:
    critic = ScriptedCritic([REPLY])
    ask(critic, group(task("a"), "41"), group(task("b"), "41"))
    assert [r.rollout_id for r in critic.requests] == ["a/0", "b/0"]


def test_max_attempts_bounds_the_calls_of_a_group() -> None:
    critic = ScriptedCritic([REPLY])
    (reviewed,), _ = ask(critic, group(task(), "1", "2", "1", "3"), max_attempts=2)
    assert [r.attempt for r in critic.requests] == ["1", "2"]
    assert sorted(reviewed.critiques) == ["t/0", "t/1", "t/2"]


@pytest.mark.parametrize(("show", "seen"), [(False, None), (True, "42")])
def test_the_answer_is_shown_only_if_the_run_allows_it(show: bool, seen: str | None) -> None:
    critic = ScriptedCritic([REPLY])
    ask(critic, group(task(), "41"), show=show)
    assert critic.requests[0].reference == seen
    assert critic.requests[0].score.detail == "checked"


def test_no_request_means_no_call() -> None:
    def never(request: CriticRequest) -> str:
        raise AssertionError(request)

    solved = group(task(), "42", "42")
    reviewed, tally = ask(ScriptedCritic(never), solved, group(task(), "42"))
    assert reviewed[0].critiques == {} and tally == CriticTally()


@pytest.mark.parametrize("outcome", [o for o in CriticOutcome if o is not CriticOutcome.OK])
def test_a_failure_is_kept_and_directs_nothing(outcome: CriticOutcome) -> None:
    (reviewed,), tally = ask(FailingCritic(outcome=outcome), group(task(), "41", "41", "40"))
    assert {c.outcome for c in reviewed.critiques.values()} == {outcome}
    assert not any(usable(c) for c in reviewed.critiques.values())
    assert tally.outcomes == {str(outcome): 2}
    assert reviewed.scores == group(task(), "41", "41", "40").scores


# -- a critic that streams ---------------------------------------------------------------------------------------------


class Streaming:
    """Answers when it is told to: `answer(attempt)`."""

    name = "streaming"

    def __init__(self) -> None:
        self.open: dict[str, tuple[CriticRequest, Future[Critique]]] = {}

    def submit(self, request: CriticRequest) -> Future[Critique]:
        future: Future[Critique] = Future()
        self.open[request.attempt] = (request, future)
        return future

    def answer(self, attempt: str) -> None:
        request, future = self.open[attempt]
        future.set_result(critique(request.rollout_id))

    def review(self, requests: Sequence[CriticRequest]) -> list[Critique]:
        raise AssertionError("a streaming critic is not asked in one go")

    def close(self) -> None:
        pass


def desk(critic: StreamingCritic, *, deadline_s: float | None = 0.0, late_steps: int = 0) -> CriticDesk:
    return CriticDesk(critic, DeskLimits(max_attempts=8, deadline_s=deadline_s, late_steps=late_steps))


def late_of(reviewed: Reviewed) -> list[tuple[str, list[str]]]:
    return [(g.task.id, sorted(g.critiques)) for g in reviewed.late]


def test_requests_go_out_when_they_are_asked_not_when_they_are_collected() -> None:
    critic = Streaming()
    assert desk(critic).ask(0, group(task(), "41", "40", "41")) == 2
    assert sorted(critic.open) == ["40", "41"]


def test_what_misses_the_deadline_is_cancelled_and_counted() -> None:
    critic = Streaming()
    waiting, stalled = desk(critic), group(task(), "41", "40")
    waiting.ask(0, stalled)
    critic.answer("41")
    (reviewed,), late, _, tally = waiting.collect(0, [stalled])
    assert reviewed.critiques["t/0"].outcome is CriticOutcome.OK
    assert reviewed.critiques["t/1"].outcome is CriticOutcome.TIMED_OUT
    assert "critic.stage_deadline_s" in reviewed.critiques["t/1"].reason
    assert tally.outcomes == {"ok": 1, "timed_out": 1} and not late
    assert critic.open["40"][1].cancelled() and waiting.waiting == 0


def test_the_deadline_is_waited_for() -> None:
    critic = Streaming()
    waiting, stalled = desk(critic, deadline_s=0.05), group(task(), "41")
    waiting.ask(0, stalled)
    before = time.monotonic()
    waiting.collect(0, [stalled])
    assert time.monotonic() - before >= 0.05


def test_a_late_critique_serves_a_later_step_within_the_limit() -> None:
    critic = Streaming()
    waiting, stalled = desk(critic, late_steps=2), group(task("a"), "41", "40")
    waiting.ask(0, stalled)
    critic.answer("41")
    reviewed = waiting.collect(0, [stalled])
    assert sorted(reviewed.groups[0].critiques) == ["a/0"]  # the other is neither there nor counted as failed
    assert reviewed.tally.outcomes == {"ok": 1}
    other = group(task("b"), "9")
    assert late_of(waiting.collect(1, [other])) == []
    critic.answer("40")
    reviewed = waiting.collect(2, [other])
    assert late_of(reviewed) == [("a", ["a/1"])]  # what came in time has had its step
    assert reviewed.late[0].late and reviewed.late[0].rollouts == stalled.rollouts
    assert reviewed.groups == [other] and reviewed.tally.outcomes == {"ok": 1}
    assert waiting.waiting == 0


def test_a_critique_that_is_later_than_the_limit_is_given_up() -> None:
    critic = Streaming()
    waiting, stalled = desk(critic, late_steps=1), group(task(), "41")
    waiting.ask(0, stalled)
    assert waiting.collect(0, [stalled]).tally.calls == 0
    reviewed = waiting.collect(1, [])
    assert reviewed.tally.outcomes == {"timed_out": 1}
    assert critic.open["41"][1].cancelled()
    # a late failure directs nothing
    assert all(not usable(c) for g in reviewed.late for c in g.critiques.values())


def test_the_same_task_twice_in_a_step_keeps_its_critiques_apart() -> None:
    critic = Streaming()
    waiting, first, second = desk(critic), group(task(), "41"), group(task(), "40")
    waiting.ask(0, first)
    waiting.ask(0, second)
    critic.answer("41")
    critic.answer("40")
    reviewed = waiting.collect(0, [first, second])
    assert [len(g.critiques) for g in reviewed.groups] == [1, 1]
    assert reviewed.tally.calls == 2


def test_a_broken_off_step_leaves_nothing_behind_and_loses_nothing() -> None:
    critic = Streaming()
    waiting, earlier, broken = desk(critic, late_steps=3), group(task("a"), "41", "39"), group(task("b"), "40")
    waiting.ask(0, earlier)
    waiting.collect(0, [earlier])
    waiting.mark()
    waiting.ask(1, broken)
    critic.answer("41")
    assert late_of(waiting.collect(1, [broken])) == [("a", ["a/0"])]
    waiting.rollback()
    assert critic.open["40"][1].cancelled() and not critic.open["39"][1].cancelled()
    assert waiting.waiting == 2  # what the step had collected is there for the step that repeats it
    assert late_of(waiting.collect(1, [])) == [("a", ["a/0"])]
    with pytest.raises(AssertionError, match="without a mark"):
        waiting.rollback()


def test_a_critic_that_stops_the_run_while_answers_are_collected_loses_none() -> None:
    critic = Streaming()
    waiting, earlier, now = desk(critic, late_steps=1), group(task("a"), "41"), group(task("b"), "40")
    waiting.ask(0, earlier)
    waiting.collect(0, [earlier])
    waiting.mark()
    waiting.ask(1, now)
    critic.answer("41")
    critic.open["40"][1].set_exception(CriticSetupError("no key"))
    with pytest.raises(CriticSetupError):
        waiting.collect(1, [now])
    waiting.rollback()
    assert late_of(waiting.collect(1, [])) == [("a", ["a/0"])]


def test_a_probe_pair_is_attached_to_no_group_and_shows_no_verdict() -> None:
    critic = Streaming()
    waiting, mixed, wrong = desk(critic), group(task("a"), "42", "41"), group(task("b"), "40")
    assert not waiting.ask_probes(0, [wrong])  # one alone tells nothing
    assert waiting.ask_probes(0, [wrong, mixed])
    assert {attempt: request.score.detail for attempt, (request, _) in critic.open.items()} == {"42": "", "40": ""}
    critic.answer("42")
    critic.answer("40")
    reviewed = waiting.collect(0, [wrong, mixed])
    assert [(c.rollout_id, correct) for c, correct in reviewed.probes] == [("a/0", True), ("b/0", False)]
    assert all(g.critiques == {} for g in reviewed.groups) and reviewed.tally.calls == 2


def test_a_critic_that_cannot_be_set_up_stops_the_run() -> None:
    critic = Streaming()
    waiting, stalled = desk(critic), group(task(), "41")
    waiting.ask(0, stalled)
    critic.open["41"][1].set_exception(CriticSetupError("no key"))
    with pytest.raises(CriticSetupError, match="no key"):
        waiting.collect(0, [stalled])


# -- in a checkpoint ---------------------------------------------------------------------------------------------------


def resumed(state: dict[str, object], critic: StreamingCritic, *, late_steps: int) -> CriticDesk:
    """A desk of a new process, from text as a checkpoint holds it."""
    again = desk(critic, late_steps=late_steps)
    again.load_state_dict(json.loads(json.dumps(state)))
    return again


def test_what_waits_is_sent_again_by_the_next_process_and_serves_once() -> None:
    first, stalled = desk(Streaming(), late_steps=2), group(task("a"), "41", "40", "41")
    first.ask(0, stalled)
    first.collect(0, [stalled])
    critic = Streaming()
    again = resumed(first.state_dict(), critic, late_steps=2)
    assert again.state_dict() == first.state_dict() and again.waiting == 2 and not critic.open  # nobody is asked yet
    assert again.ask_again(1) == Resumed(sent=2, given_up=0)
    assert again.ask_again(1) == Resumed(sent=0, given_up=0)
    assert [request.rollout_id for request, _ in critic.open.values()] == ["a/0", "a/1"]
    critic.answer("41")
    reviewed = again.collect(1, [])
    assert late_of(reviewed) == [("a", ["a/0", "a/2"])]  # the twin too
    assert reviewed.late[0].late and reviewed.late[0].rollouts == stalled.rollouts
    assert reviewed.tally.outcomes == {"ok": 1}
    critic.answer("40")
    assert late_of(again.collect(2, [])) == [("a", ["a/1"])]
    assert again.waiting == 0


def test_an_answer_that_came_before_the_checkpoint_is_not_paid_twice() -> None:
    streaming = Streaming()
    first, stalled = desk(streaming, late_steps=1), group(task("a"), "41", "40")
    first.ask(0, stalled)
    first.collect(0, [stalled])
    streaming.answer("41")
    critic = Streaming()
    again = resumed(first.state_dict(), critic, late_steps=1)
    assert again.ask_again(1) == Resumed(sent=1, given_up=0)
    assert sorted(critic.open) == ["40"]
    assert late_of(again.collect(1, [])) == [("a", ["a/0", "a/1"])]  # of the other one that it never came


@pytest.mark.parametrize(("late_steps", "step", "sent"), [(3, 4, 2), (2, 4, 1), (2, 5, 0), (1, 5, 0), (0, 4, 0)])
def test_the_age_limit_counts_from_the_step_that_asked(late_steps: int, step: int, sent: int) -> None:
    """Asked in steps 1 and 2: in step 4 they are 3 and 2 steps old."""
    first = desk(Streaming(), late_steps=3)
    for born, name in ((1, "a"), (2, "b")):
        stalled = group(task(name), "41" if name == "a" else "40")
        first.ask(born, stalled)
        first.collect(born, [stalled])
    critic = Streaming()
    again = resumed(first.state_dict(), critic, late_steps=late_steps)
    assert again.ask_again(step) == Resumed(sent=sent, given_up=2 - sent)
    assert len(critic.open) == again.waiting == sent


def test_a_resumed_question_is_given_up_in_the_step_in_which_it_would_have_been() -> None:
    first, stalled = desk(Streaming(), late_steps=2), group(task("a"), "41")
    first.ask(0, stalled)
    first.collect(0, [stalled])
    critic = Streaming()
    again = resumed(first.state_dict(), critic, late_steps=2)
    again.ask_again(1)
    assert again.collect(1, []).tally.calls == 0
    assert again.collect(2, []).tally.outcomes == {"timed_out": 1}
    assert critic.open["41"][1].cancelled()


def test_a_probe_travels_too() -> None:
    first, mixed = desk(Streaming(), late_steps=1), group(task("a"), "42", "41")
    assert first.ask_probes(0, [mixed])
    first.collect(0, [mixed])
    critic = Streaming()
    again = resumed(first.state_dict(), critic, late_steps=1)
    again.ask_again(1)
    assert {attempt: request.score.detail for attempt, (request, _) in critic.open.items()} == {"42": "", "41": ""}
    critic.answer("42")
    critic.answer("41")
    reviewed = again.collect(1, [])
    assert [(c.rollout_id, correct) for c, correct in reviewed.probes] == [("a/0", True), ("a/1", False)]
    assert reviewed.late == []


def test_what_was_given_up_with_its_process_is_asked_again() -> None:
    streaming = Streaming()
    first, stalled = desk(streaming, late_steps=1), group(task("a"), "41")
    first.ask(0, stalled)
    first.collect(0, [stalled])
    streaming.open["41"][1].cancel()  # as a critic that is closed does
    assert resumed(first.state_dict(), Streaming(), late_steps=1).ask_again(1) == Resumed(sent=1, given_up=0)


def test_a_critic_that_does_not_stream_is_asked_again_with_the_others() -> None:
    first, stalled = desk(Streaming(), late_steps=1), group(task("a"), "41")
    first.ask(0, stalled)
    first.collect(0, [stalled])
    critic = ScriptedCritic([REPLY])
    again = CriticDesk(critic, DeskLimits(max_attempts=8, late_steps=1))
    again.load_state_dict(first.state_dict())
    again.ask_again(1)
    now = group(task("b"), "40")
    again.ask(1, now)
    reviewed = again.collect(1, [now])
    assert [r.attempt for r in critic.requests] == ["41", "40"]
    assert late_of(reviewed) == [("a", ["a/0"])] and sorted(reviewed.groups[0].critiques) == ["b/0"]
