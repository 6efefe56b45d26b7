"""Runs that are stopped while critiques are under way: each critique is used once, as in a run that nobody stopped.

A lab policy trains, a critic answers a question in the step of its own choice, a method notes what reaches it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest

from critique_rl.build import build
from critique_rl.config.critic import OpenAICriticConfig
from critique_rl.critics.asking import FIRST_ASK, Ask
from critique_rl.critics.completion import ChatReply
from critique_rl.critics.limits import spent_in
from critique_rl.critics.redaction import Redactor
from critique_rl.critics.remote import RemoteCritic
from critique_rl.errors import EngineError
from critique_rl.feedback.cache import AnswerCache
from critique_rl.feedback.store import ExchangeStore
from critique_rl.lab.critic import LabCritic
from critique_rl.loop.checkpoint import latest_checkpoint
from critique_rl.loop.desk import CriticDesk, DeskLimits, Resumed
from critique_rl.loop.train import Trainer
from critique_rl.protocols import Algorithm, Critic, StepReport
from critique_rl.trackers.jsonl import JsonlTracker
from critique_rl.types import CriticRequest, Critique, Group, Message, TrainSample, Usage
from tests.lab_runs import Tree, lab_config, lines, same_weights, weights
from tests.loop.fakes import group, task

STEPS = 5


class Killed(Exception):
    """The end of a process, for all that the loop knows: nothing is saved."""


def born(request: CriticRequest) -> int:
    """The step that asked."""
    return int(request.rollout_id.split("/")[0])


class Slow(LabCritic):
    """Streams. It answers a question as soon as it hears one that was asked `delay` steps later."""

    def __init__(self, delay: int) -> None:
        super().__init__()
        self.delay = delay
        self.asked: list[str] = []
        self._open: list[tuple[CriticRequest, Future[Critique]]] = []

    def submit(self, request: CriticRequest) -> Future[Critique]:
        for earlier, future in self._open:
            if not future.done() and born(request) - born(earlier) >= self.delay:
                future.set_result(self.review([earlier])[0])
        self.asked.append(request.rollout_id)
        future: Future[Critique] = Future()
        self._open.append((request, future))
        return future


class Noting:
    """A method that notes the late critiques that reach it, and may break the run off at one step."""

    def __init__(self, inner: Algorithm, stop: BaseException | None, at: int) -> None:
        self.name = inner.name
        self.needs = inner.needs
        self.used: list[tuple[int, str]] = []
        self._inner = inner
        self._stop = stop
        self._at = at
        self.step = 0

    def assemble(self, groups: Sequence[Group]) -> list[TrainSample]:
        if self.step == self._at and self._stop is not None:
            raise self._stop
        self.used += [(self.step, name) for g in groups if g.late for name in sorted(g.critiques)]
        self.step += 1
        return self._inner.assemble(groups)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Course:
    """A trainer with what it was made of."""

    trainer: Trainer
    critic: Slow
    method: Noting
    directory: Path

    def run(self) -> None:
        try:
            self.trainer.run()
        finally:
            self.trainer.parts.tracker.close()

    def told(self) -> list[str]:
        return [str(e["message"]) for e in lines(self.directory / "events.jsonl") if e["kind"] == "critic"]


def course(
    directory: Path,
    *,
    late_steps: int = 2,
    delay: int = 2,
    stop: BaseException | None = None,
    at: int = -1,
    resume: bool = False,
    critic: bool = True,
    edit: Mapping[str, object] | None = None,
) -> Course:
    """A fresh process; `edit` replaces fields of the checkpoint's state."""
    served: Tree = {
        "kind": "openai",
        "model": "x",
        "base_url": "http://127.0.0.1:9/v1",
        "late_steps": late_steps,
        "stage_deadline_s": 1e-6,
    }
    budget: Tree = {"budget": {"max_steps": STEPS}, "checkpoint": {"every": 1}}
    config = lab_config({**budget, "critic": served})
    saved = latest_checkpoint(directory / "checkpoints") if resume else None
    step = cast(int, cast(Tree, saved.state["progress"])["step"]) if saved else None
    parts = build(lab_config(budget), tracker=JsonlTracker(directory, resume_step=step))
    slow, method = Slow(delay), Noting(parts.algorithm, stop, at)
    chosen: Critic | None = slow if critic else None
    trainer = Trainer(config, dataclasses.replace(parts, critic=chosen, algorithm=method), directory)
    if saved is not None:
        assert step is not None
        method.step = step
        trainer.resume(dataclasses.replace(saved, state={**saved.state, **(edit or {})}))
    return Course(trainer=trainer, critic=slow, method=method, directory=directory)


def waiting_at(directory: Path) -> list[str]:
    """Which questions the latest checkpoint holds, by rollout."""
    saved = latest_checkpoint(directory / "checkpoints")
    assert saved is not None
    late = cast("Mapping[str, list[Tree]]", saved.state["late_critiques"])
    return [str(cast(Tree, question["request"])["rollout_id"]) for question in late["questions"]]


def without_clock(row: Tree) -> Tree:
    return {name: value for name, value in row.items() if "latency" not in name and "wall" not in name}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Course:
    """Nobody stops this one; critiques come two steps late."""
    whole = course(tmp_path_factory.mktemp("whole"))
    whole.run()
    assert len({step for step, _ in whole.method.used}) > 1
    return whole


@pytest.mark.parametrize("at", [2, 3, 4])
def test_a_killed_run_uses_each_late_critique_once_and_ends_with_the_same_weights(
    tmp_path: Path, unbroken: Course, at: int
) -> None:
    killed = course(tmp_path, stop=Killed(), at=at)  # its late critiques were collected and not learned from
    with pytest.raises(Killed):
        killed.run()
    open_then = waiting_at(tmp_path)
    assert open_then
    again = course(tmp_path, resume=True)
    again.run()
    assert again.critic.asked[: len(open_then)] == open_then
    assert killed.method.used + again.method.used == unbroken.method.used  # none lost, none twice, each in its step
    assert again.trainer.progress.critic.outcomes == unbroken.trainer.progress.critic.outcomes
    assert same_weights(weights(again.trainer), weights(unbroken.trainer))
    rows = [list(map(without_clock, lines(d / "metrics.jsonl"))) for d in (tmp_path, unbroken.directory)]
    assert rows[0] == rows[1]
    sent_again = [told for told in again.told() if "sent again" in told]
    assert len(sent_again) == 1 and f"open at the checkpoint: {len(open_then)};" in sent_again[0]
    assert not [told for told in unbroken.told() if "sent again" in told or "given up" in told]


def test_a_step_that_an_engine_breaks_off_pays_for_no_answer_twice(tmp_path: Path, unbroken: Course) -> None:
    broken = course(tmp_path, stop=EngineError("the server is away"), at=3)
    with pytest.raises(EngineError):
        broken.run()
    open_then = waiting_at(tmp_path)
    there = [name for name in open_then if name.startswith("1/")]  # answered in the step that was broken off
    assert there and len(there) < len(open_then)
    again = course(tmp_path, resume=True)
    again.run()
    assert again.critic.asked[: len(open_then) - len(there)] == [name for name in open_then if name not in there]
    assert not set(there) & set(again.critic.asked)
    assert broken.method.used + again.method.used == unbroken.method.used
    assert same_weights(weights(again.trainer), weights(unbroken.trainer))


def test_ctrl_c_behind_a_counted_step_keeps_what_that_step_asked(
    tmp_path: Path, unbroken: Course, monkeypatch: pytest.MonkeyPatch
) -> None:
    pressed = course(tmp_path)
    learn = pressed.trainer.parts.policy.step

    def step(samples: Sequence[TrainSample], *, refresh_teacher: bool | None = None) -> StepReport:
        if pressed.method.step == 3:  # the third step is being trained: it ends, then the run does
            os.kill(os.getpid(), signal.SIGINT)
        return learn(samples, refresh_teacher=refresh_teacher)

    monkeypatch.setattr(pressed.trainer.parts.policy, "step", step)
    pressed.run()
    assert (pressed.trainer.stopped_because, pressed.trainer.progress.step) == ("interrupted", 3)
    assert any(name.startswith("2/") for name in waiting_at(tmp_path))
    again = course(tmp_path, resume=True)
    again.run()
    assert pressed.method.used + again.method.used == unbroken.method.used
    assert same_weights(weights(again.trainer), weights(unbroken.trainer))


def test_a_run_that_has_ended_asks_nobody_again(tmp_path: Path) -> None:
    whole = course(tmp_path)
    whole.run()
    assert waiting_at(tmp_path)
    again = course(tmp_path, resume=True)
    again.run()
    assert again.critic.asked == [] and waiting_at(tmp_path)


@pytest.mark.parametrize(("critic", "why"), [(True, "critic.late_steps = 0"), (False, "this run has no critic")])
def test_what_no_step_may_wait_for_any_more_is_given_up_aloud(tmp_path: Path, critic: bool, why: str) -> None:
    killed = course(tmp_path, stop=Killed(), at=3)
    with pytest.raises(Killed):
        killed.run()
    open_then = waiting_at(tmp_path)
    again = course(tmp_path, late_steps=0, resume=True, critic=critic)
    again.run()
    assert [told for told in again.told() if "given up" in told] == [
        f"questions that were open at the checkpoint and are given up: {len(open_then)} ({why})"
    ]
    assert not [told for told in again.told() if "sent again" in told]
    assert again.method.used == [] and not set(open_then) & set(again.critic.asked)
    assert waiting_at(tmp_path) == []


def test_a_shorter_age_limit_drops_only_what_is_too_old(tmp_path: Path) -> None:
    killed = course(tmp_path, stop=Killed(), at=3)
    with pytest.raises(Killed):
        killed.run()
    open_then = waiting_at(tmp_path)
    old = [name for name in open_then if name.startswith("1/")]
    again = course(tmp_path, late_steps=1, delay=1, resume=True)
    again.run()
    assert [told for told in again.told() if "given up" in told] == [
        f"questions that were open at the checkpoint and are given up: {len(old)} (critic.late_steps = 1)"
    ]
    assert [name for _, name in again.method.used if name.startswith("1/")] == []
    assert [step for step, name in again.method.used if name.startswith("2/")] != []


def test_a_checkpoint_from_before_late_critiques_were_in_it_is_taken_up(tmp_path: Path) -> None:
    killed = course(tmp_path, stop=Killed(), at=3)
    with pytest.raises(Killed):
        killed.run()
    saved = latest_checkpoint(tmp_path / "checkpoints")
    assert saved is not None
    old = {name: value for name, value in saved.state.items() if name != "late_critiques"}
    (saved.directory / "state.json").write_text(json.dumps(old), encoding="utf-8")
    again = course(tmp_path, resume=True)
    again.run()
    assert again.trainer.progress.step == STEPS
    assert not [told for told in again.told() if "sent again" in told or "given up" in told]


# -- the budget and the cache of a remote critic -----------------------------------------------------------------------


class Stub:
    """Answers at once, or never."""

    endpoint = "stub"

    def __init__(self, *, answers: bool) -> None:
        self.sent: list[str] = []
        self._answers = answers

    async def complete(self, messages: Sequence[Message], ask: Ask = FIRST_ASK) -> ChatReply:
        self.sent.append(messages[-1].content)
        if not self._answers:
            await asyncio.Event().wait()
        text = '{"directives": [{"text": "Add the ones first.", "kind": "procedure"}], "scores": {}}'
        usage = Usage(prompt_tokens=10, completion_tokens=5)
        return ChatReply(text=text, finish_reason="stop", model="stub", usage=usage)

    def body(self, messages: Sequence[Message], ask: Ask = FIRST_ASK) -> dict[str, object]:
        raise AssertionError("nothing is sent in batches here")

    def price_usd(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        return None

    def batch_price_usd(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        return None

    async def close(self) -> None:
        pass


class Watched(RemoteCritic):
    """Remembers its futures."""

    futures: list[Future[Critique]]

    def submit(self, request: CriticRequest) -> Future[Critique]:
        self.futures = [*getattr(self, "futures", []), super().submit(request)]
        return self.futures[-1]


LATE = DeskLimits(max_attempts=8, deadline_s=0.0, late_steps=1)


def remote(
    folder: Path, stub: Stub, *, max_calls: int | None = None, cache: AnswerCache | None = None, record: bool = True
) -> Watched:
    config = OpenAICriticConfig(kind="openai", model="m", base_url="http://127.0.0.1:9/v1", max_calls=max_calls)
    store = ExchangeStore(folder / "exchanges.jsonl") if record else None
    return Watched(config, stub, redact=Redactor([]), store=store, cache=cache)


def until(stub: Stub, sent: int, critic: Watched) -> None:
    """Wait for so many sends that are never answered."""
    while len(stub.sent) < sent:
        wait(critic.futures, timeout=0.01)


def test_what_is_sent_again_counts_towards_the_calls_of_the_run(tmp_path: Path) -> None:
    """Two calls are sent and given up, at most three are allowed: one of the two can be sent again."""
    stub, stalled = Stub(answers=False), group(task("a"), "41", "40")
    with closing(remote(tmp_path, stub, max_calls=3)) as first:
        desk = CriticDesk(first, LATE)
        desk.ask(0, stalled)
        until(stub, 2, first)
        desk.collect(0, [stalled])
        state = desk.state_dict()
    assert spent_in(ExchangeStore(tmp_path / "exchanges.jsonl")).calls == 2
    with closing(remote(tmp_path, Stub(answers=True), max_calls=3)) as second:
        again = CriticDesk(second, LATE)
        again.load_state_dict(state)
        assert again.ask_again(1) == Resumed(sent=2, given_up=0)
        wait(second.futures)
        assert again.collect(1, []).tally.outcomes == {"ok": 1, "over_budget": 1}
        assert second.spent.calls == 3


def test_an_answer_that_came_behind_the_checkpoint_is_found_in_the_cache(tmp_path: Path) -> None:
    stub, stalled = Stub(answers=True), group(task("a"), "41")
    with closing(remote(tmp_path, stub, cache=AnswerCache(tmp_path / "c.sqlite"), record=False)) as first:
        unanswered = CriticDesk(Never(), LATE)
        unanswered.ask(0, stalled)
        unanswered.collect(0, [stalled])
        state = unanswered.state_dict()  # the checkpoint; then the answer comes, then the kill
        CriticDesk(first, LATE).ask(0, stalled)
        wait(first.futures)
    silent = Stub(answers=False)
    with closing(remote(tmp_path, silent, cache=AnswerCache(tmp_path / "c.sqlite"), record=False)) as second:
        again = CriticDesk(second, LATE)
        again.load_state_dict(state)
        assert again.ask_again(1) == Resumed(sent=1, given_up=0)
        wait(second.futures)
        (late,) = again.collect(1, []).late
        assert late.critiques["a/0"].cached and late.critiques["a/0"].directive_text
    assert silent.sent == [] and len(stub.sent) == 1


class Never(Slow):
    """Answers nothing."""

    def __init__(self) -> None:
        super().__init__(delay=10**9)
