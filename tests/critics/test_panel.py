"""A panel's members: asked side by side, named, timed, closed; and what each of their faults does to the rest."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import pytest

from critique_rl.config.critic import OpenAICriticConfig, PanelCriticConfig
from critique_rl.critics.openai_compatible import openai_critic
from critique_rl.critics.panel import PanelCritic, StreamingPanel, panel_critic
from critique_rl.critics.scripted import FailingCritic, ScriptedCritic
from critique_rl.errors import CriticSetupError
from critique_rl.protocols import Critic, StreamingCritic
from critique_rl.types import CriticOutcome, CriticRequest, Critique, Directive

Make = Callable[..., CriticRequest]
OK, TIMED_OUT = CriticOutcome.OK, CriticOutcome.TIMED_OUT


def said(critic: str, *texts: str) -> Critique:
    directives = tuple(Directive(text=text) for text in texts)
    return Critique(rollout_id="r1", critic=critic, outcome=OK, directives=directives, verdict="incorrect")


def config(count: int, *, quorum: int | None = None, deadline_s: float | None = None) -> PanelCriticConfig:
    member: dict[str, object] = {"kind": "scripted", "replies": ["{}"]}
    if deadline_s is not None:
        member = {"kind": "litellm", "model": "a/b", "stage_deadline_s": deadline_s}
    return PanelCriticConfig.model_validate({"kind": "panel", "members": [member] * count, "quorum": quorum})


class Streaming:
    """A member that answers when told to."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.futures: list[Future[Critique]] = []
        self.closed = False

    def submit(self, request: CriticRequest) -> Future[Critique]:
        future: Future[Critique] = Future()
        self.futures.append(future)
        return future

    def review(self, requests: Sequence[CriticRequest]) -> list[Critique]:
        raise AssertionError("a member that streams is asked by submit")

    def close(self) -> None:
        self.closed = True


def test_members_are_asked_and_named(good_reply: str, make_request: Make) -> None:
    members = [ScriptedCritic([good_reply]), ScriptedCritic([good_reply]), FailingCritic()]
    critic = panel_critic(config(3), members)
    assert type(critic) is PanelCritic and not isinstance(critic, StreamingCritic)
    first, second = critic.review([make_request(1), make_request(2)])
    critic.close()
    assert [one.critic for one in first.members] == ["scripted", "scripted#2", "failing"]
    assert (first.rollout_id, second.rollout_id, first.critic) == ("r1", "r2", "panel")
    assert [(one.text, one.critic) for one in first.directives] == [("Carry the one from the ones column.", "scripted")]
    assert critic.review([]) == []


def test_streaming_members_work_while_the_others_are_asked(good_reply: str, make_request: Make) -> None:
    streaming = Streaming("far")

    def here(request: CriticRequest) -> str:
        # The far member was asked before this one, and answers meanwhile.
        streaming.futures[0].set_result(said("far"))
        return good_reply

    members: list[Critic] = [ScriptedCritic(here), streaming]
    critique = panel_critic(config(2), members).review([make_request(1)])[0]
    assert [one.critic for one in critique.members] == ["scripted", "far"]
    assert critique.outcome is OK


def test_a_member_that_misses_its_deadline_has_timed_out(make_request: Make) -> None:
    quick, slow = Streaming("quick"), Streaming("slow")
    critic = panel_critic(config(2, quorum=1, deadline_s=0.05), [quick, slow])
    assert isinstance(critic, StreamingPanel) and isinstance(critic, StreamingCritic)
    future = critic.submit(make_request(1))
    quick.futures[0].set_result(said("quick", "Carry the one."))
    critique = future.result(timeout=10)
    critic.close()
    assert [one.outcome for one in critique.members] == [OK, TIMED_OUT]
    assert "stage_deadline_s = 0.05" in critique.members[1].reason
    assert critique.directive_text == "Carry the one."
    assert slow.futures[0].cancelled()


def test_a_future_ends_with_the_last_member_and_cancels_all(make_request: Make) -> None:
    first, second = Streaming("first"), Streaming("second")
    critic = panel_critic(config(2), [first, second])
    assert isinstance(critic, StreamingPanel)
    whole = critic.submit(make_request(1))
    first.futures[0].set_result(said("first"))
    assert not whole.done()
    second.futures[0].set_result(said("second"))
    assert whole.result(timeout=0).outcome is OK
    given_up = critic.submit(make_request(2))
    assert given_up.cancel()
    assert first.futures[1].cancelled() and second.futures[1].cancelled()
    critic.close()
    assert first.closed and second.closed


def test_a_member_that_can_never_answer_stops_the_run_by_name(make_request: Make) -> None:
    first, second = Streaming("first"), Streaming("second")
    critic = panel_critic(config(2), [first, second])
    assert isinstance(critic, StreamingPanel)
    whole = critic.submit(make_request(1))
    first.futures[0].set_exception(CriticSetupError("no key"))
    second.futures[0].set_result(said("second"))
    with pytest.raises(CriticSetupError, match="panel member first: no key"):
        whole.result(timeout=10)

    class Broken(FailingCritic):
        def review(self, requests: Sequence[CriticRequest]) -> list[Critique]:
            raise CriticSetupError("unknown model")

    mixed = panel_critic(config(2), [second, Broken()])
    with pytest.raises(CriticSetupError, match="panel member failing: unknown model"):
        mixed.review([make_request(1)])
    assert second.futures[1].cancelled()


def test_closing_closes_all_also_after_a_fault() -> None:
    class Stuck(FailingCritic):
        def close(self) -> None:
            raise OSError("disk gone")

    last = Streaming("last")
    critic = panel_critic(config(3), [Stuck(), Streaming("x"), last])
    with pytest.raises(OSError, match="disk gone"):
        critic.close()
    assert last.closed


def test_the_number_of_members_is_checked() -> None:
    with pytest.raises(CriticSetupError, match="names 3 members and was given 2"):
        panel_critic(config(3), [FailingCritic(), FailingCritic()])


def test_many_submissions_at_once(make_request: Make) -> None:
    members = [Streaming("first"), Streaming("second")]
    critic = panel_critic(config(2, deadline_s=30.0), members)
    assert isinstance(critic, StreamingPanel)
    futures = [critic.submit(make_request(number)) for number in range(50)]

    def answer(one: Streaming) -> None:
        for future in one.futures:
            future.set_result(said(one.name))

    threads = [threading.Thread(target=answer, args=(one,)) for one in members]
    for thread in threads:
        thread.start()
    assert {future.result(timeout=10).verdict for future in futures} == {"incorrect"}
    for thread in threads:
        thread.join()
    critic.close()


def test_real_members_over_the_wire(server: Any, answer: Any, make_request: Make) -> None:
    def decide(body: dict[str, object]) -> object:
        return answer(delay_s=1.0) if body["model"] == "slow" else answer()

    server.decide = decide
    sections = [
        OpenAICriticConfig(kind="openai", model=model, base_url=server.url, stage_deadline_s=stage_deadline_s)
        for model, stage_deadline_s in (("quick", 30.0), ("slow", 0.2), ("other", None))
    ]
    critic = panel_critic(
        PanelCriticConfig(kind="panel", members=tuple(sections)), [openai_critic(section) for section in sections]
    )
    assert isinstance(critic, StreamingPanel)
    reviewed = critic.review([make_request(1)])[0]
    submitted = critic.submit(make_request(2)).result(timeout=10)
    critic.close()
    for critique in (reviewed, submitted):
        assert [one.outcome for one in critique.members] == [OK, TIMED_OUT, OK]
        assert critique.directive_text == "Carry the one from the ones column."
        assert (critique.verdict, critique.directives[0].critic) == ("incorrect", "openai:quick")
