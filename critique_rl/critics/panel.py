"""Several critics as one: asks every member about every attempt, and combines what came back in time.

Owns: asking members side by side, their stage deadlines, closing them. Must not know: the voting rules (consensus.py),
or what a member is. A member that streams is asked in the background; any other on the caller's own thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import replace

from critique_rl.config.critic import LiteLLMCriticConfig, OpenAICriticConfig, PanelCriticConfig, SingleCriticConfig
from critique_rl.critics.base import ReplyContext, failed_as
from critique_rl.critics.consensus import combine
from critique_rl.errors import CriticSetupError
from critique_rl.net import LoopThread
from critique_rl.protocols import Critic, StreamingCritic
from critique_rl.types import CriticOutcome, CriticRequest, Critique


def panel_critic(
    config: PanelCriticConfig, members: Sequence[Critic], *, thread: LoopThread | None = None
) -> PanelCritic:
    """The critic that a `panel` section describes, over its members in the section's order; a StreamingCritic if all
    of them are. `thread` is the one that the members share: the panel closes it after them.

    Raises CriticSetupError if there are not as many members as the section names.
    """
    kind = StreamingPanel if all(isinstance(member, StreamingCritic) for member in members) else PanelCritic
    return kind(config, members, thread=thread)


class PanelCritic:
    """`protocols.Critic` over several. A member whose name is taken is called NAME#2, NAME#3 in the panel's critiques.

    A streaming member that has not answered a request within its own `stage_deadline_s` has timed out on it.
    """

    def __init__(
        self, config: PanelCriticConfig, members: Sequence[Critic], *, thread: LoopThread | None = None
    ) -> None:
        """Raises CriticSetupError if `config` names another number of members."""
        if len(members) != len(config.members):
            raise CriticSetupError(f"the panel names {len(config.members)} members and was given {len(members)}")
        self.name = config.name
        self._quorum = config.quorum if config.quorum is not None else len(members) // 2 + 1
        self._max_directives = config.max_directives
        names = _distinct([member.name for member in members])
        self._timer = timer = thread or LoopThread()
        self._members = tuple(
            _Member(name, member, _deadline_s(section), timer)
            for name, member, section in zip(names, members, config.members, strict=True)
        )

    def review(self, requests: Sequence[CriticRequest]) -> list[Critique]:
        """One critique a request, in order. Raises CriticSetupError only, naming the member."""
        sent: dict[str, list[Future[Critique]]] = {}
        try:
            # Those that answer in the background first: they work while the others are asked here.
            for member in sorted(self._members, key=lambda member: not member.streams):
                sent[member.name] = member.ask(requests)
            return [
                self._combine(request, [sent[member.name][i] for member in self._members])
                for i, request in enumerate(requests)
            ]
        finally:
            for futures in sent.values():
                _cancel_all(futures)

    def close(self) -> None:
        """Close every member, also after one that fails to; the first fault is raised at the end."""
        faults: list[Exception] = []
        for member in self._members:
            try:
                member.critic.close()
            except Exception as error:
                faults.append(error)
        self._timer.close()
        if faults:
            raise faults[0]

    def _combine(self, request: CriticRequest, futures: Sequence[Future[Critique]]) -> Critique:
        """Waits for what is not done yet."""
        critiques = [member.conclude(request, future) for member, future in zip(self._members, futures, strict=True)]
        return combine(request, critiques, critic=self.name, quorum=self._quorum, max_directives=self._max_directives)


class StreamingPanel(PanelCritic):
    """A panel all of whose members stream: `protocols.StreamingCritic`."""

    def submit(self, request: CriticRequest) -> Future[Critique]:
        """Ask every member now; the future ends when the last one has answered, failed or met its deadline.
        Cancelling it cancels the members' calls."""
        combined: Future[Critique] = Future()
        asked: list[Future[Critique]] = []
        try:
            for member in self._members:
                asked.extend(member.ask([request]))
        except BaseException:
            _cancel_all(asked)
            raise
        left = len(asked)
        lock = threading.Lock()

        def on_end(_: Future[Critique]) -> None:
            nonlocal left
            with lock:
                left -= 1
                last = left == 0
            if not last or not combined.set_running_or_notify_cancel():
                return
            try:
                critique = self._combine(request, asked)
            except Exception as error:
                combined.set_exception(error)
            else:
                combined.set_result(critique)

        combined.add_done_callback(lambda whole: _cancel_all(asked) if whole.cancelled() else None)
        for future in asked:
            future.add_done_callback(on_end)
        return combined


class _Member:
    """One critic of the panel under its name there."""

    def __init__(self, name: str, critic: Critic, deadline_s: float | None, timer: LoopThread) -> None:
        self.name = name
        self.critic = critic
        self.streams = isinstance(critic, StreamingCritic)
        self._deadline_s = deadline_s
        self._timer = timer

    def ask(self, requests: Sequence[CriticRequest]) -> list[Future[Critique]]:
        """One future a request: done already if the member does not stream. Raises CriticSetupError."""
        futures: list[Future[Critique]] = []
        try:
            if not isinstance(self.critic, StreamingCritic):
                return [_done(critique) for critique in self.critic.review(requests)]
            for request in requests:
                future = self.critic.submit(request)
                futures.append(future)
                if self._deadline_s is not None:
                    self._timer.start(_cancel_later(future, self._deadline_s))
        except BaseException as error:
            _cancel_all(futures)
            if isinstance(error, CriticSetupError):
                raise self._named(error) from error
            raise
        return futures

    def conclude(self, request: CriticRequest, future: Future[Critique]) -> Critique:
        """The member's critique under its name in the panel. Raises CriticSetupError."""
        try:
            return replace(future.result(), critic=self.name)
        except CancelledError:
            late = self._deadline_s is not None
            reason = f"no answer within stage_deadline_s = {self._deadline_s:g}" if late else "the call was given up"
            context = ReplyContext(critic=self.name, latency_s=self._deadline_s or 0.0)
            return failed_as(request, CriticOutcome.TIMED_OUT, reason, context)
        except CriticSetupError as error:
            raise self._named(error) from error

    def _named(self, error: CriticSetupError) -> CriticSetupError:
        return CriticSetupError(f"panel member {self.name}: {error}")


async def _cancel_later(future: Future[Critique], seconds: float) -> None:
    await asyncio.sleep(seconds)
    future.cancel()


def _deadline_s(section: SingleCriticConfig) -> float | None:
    return section.stage_deadline_s if isinstance(section, OpenAICriticConfig | LiteLLMCriticConfig) else None


def _distinct(names: Sequence[str]) -> list[str]:
    taken: list[str] = []
    for name in names:
        number, free = 1, name
        while free in taken:
            number += 1
            free = f"{name}#{number}"
        taken.append(free)
    return taken


def _done(critique: Critique) -> Future[Critique]:
    future: Future[Critique] = Future()
    future.set_result(critique)
    return future


def _cancel_all(futures: Sequence[Future[Critique]]) -> None:
    for future in futures:
        future.cancel()
