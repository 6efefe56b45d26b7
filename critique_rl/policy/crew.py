"""The processes of a run: rank 0 leads and hands out work, the others follow. Alone, every call is a direct one.

Owns: how shares, results and errors travel between processes, and who waits for whom. Must not know: what the work is.
Traps: a follower may wait for days, so messages have a group of their own; a rank that fails where all ranks must
act together leaves the others waiting inside that act, so it ends its process and the launcher ends theirs. gloo's
threads let go of a message's tensors after its answer is in use, and need the interpreter for that: one that asks for
it while the interpreter ends aborts the process (pytorch issue 190489), so every way out goes through `_leave`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import NamedTuple, TypeVar, cast

import torch
import torch.distributed as dist
from accelerate import PartialState

from critique_rl.errors import CritiqueRLError, ModelError
from critique_rl.policy.shares import cut

Options = TypeVar("Options")
Row = TypeVar("Row")
Result = TypeVar("Result")
Share = TypeVar("Share")
PATIENCE = timedelta(days=365)
GOODBYE = timedelta(seconds=30)
IDLE_LIMIT_S = 10.0


class _Order(NamedTuple):
    duty: str
    share: object


class _Failed(NamedTuple):
    kind: type[CritiqueRLError]
    message: str


class Crew:
    """Rank `rank` of `size`. One duty at a time; every rank registers the same duties before the first is called."""

    def __init__(self, *, rank: int = 0, size: int = 1, group: dist.ProcessGroup | None = None) -> None:
        self.rank = rank
        self.size = size
        self._group = group
        self._duties: dict[str, Callable[[object], object]] = {}
        self._turn = threading.RLock()
        self._owed = False
        self._busy = False
        self._broken = False

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def duty(self, name: str, work: Callable[[Share], Result]) -> Callable[[Sequence[Share]], list[Result]]:
        """Register what each rank does with its share; the leader calls the answer with one share a rank.

        Errors of that call: the leader's own as they come; a follower's CritiqueRLError of the same kind, or else
        ModelError, with its rank; the crew can go on after them.
        """
        if self.size > 1:
            self._duties[name] = cast("Callable[[object], object]", work)

        def on_every_rank(shares: Sequence[Share]) -> list[Result]:
            assert self.leads and len(shares) == self.size
            if self.size == 1:
                return [work(shares[0])]
            return self._call(name, work, shares)

        return on_every_rank

    def row_duty(
        self, name: str, work: Callable[[Options, list[Row]], list[Result]]
    ) -> Callable[[Options, Sequence[Row], Sequence[int]], list[Result]]:
        """As `duty`, for work on rows: called with options, rows and their costs, it answers in the rows' order."""

        def one_share(share: tuple[Options, list[Row]]) -> list[Result]:
            return work(*share)

        call = self.duty(name, one_share)

        def on_every_rank(options: Options, rows: Sequence[Row], costs: Sequence[int]) -> list[Result]:
            shares = cut(costs, self.size)
            parts = call([(options, [rows[i] for i in share]) for share in shares])
            found = {
                i: one for share, part in zip(shares, parts, strict=True) for i, one in zip(share, part, strict=True)
            }
            return [found[i] for i in range(len(rows))]

        return on_every_rank

    def forget(self, *, but: str) -> None:
        """Drop all duties but one, and with them the objects of a run that has ended."""
        self._duties = {name: work for name, work in self._duties.items() if name == but}

    def follow(self) -> None:
        """Do what the leader asks until it releases the crew. A Ctrl-C is the leader's to act on.

        Errors: SystemExit with a message if the leading process has gone without releasing this one.
        """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        released = False
        try:
            gone = self._serve()
            released = gone is None
        finally:
            self._leave(together=released)
        if gone is not None:
            raise SystemExit(f"critique-rl: rank {self.rank}: the leading process is gone: {gone}")

    def _serve(self) -> str | None:
        """Until the release, which is None, or the end of the leading process, whose message is given back."""
        while True:
            try:
                order = self._await_order()
            except RuntimeError as error:
                return str(error)
            if order is None:
                return None
            try:
                reply: object = self._duties[order.duty](order.share)
            except Exception as error:
                kind = type(error) if isinstance(error, CritiqueRLError) else ModelError
                told = str(error) if isinstance(error, CritiqueRLError) else f"{type(error).__name__}: {error}"
                reply = _Failed(kind, told)
            try:
                dist.gather_object(reply, None, group=self._group, group_dst=0)
            except RuntimeError as error:
                return str(error)

    def release(self) -> None:
        """Let the followers go. Waits for what they still do; harmless a second time and when alone.

        Errors: ModelError if a follower has ended before; the leader has left the crew all the same.
        """
        if self.size == 1 or self._group is None or not self.leads:
            return
        with _interrupts_held():
            released = False
            try:
                if not self._broken:
                    self._settle()
                    self._send([None] * self.size)
                    released = True
            finally:
                self._leave(together=released)

    def _leave(self, *, together: bool) -> None:
        """End the groups and their threads. `together`: wait for the others first, so that nobody hangs up on them."""
        if together:
            try:
                dist.monitored_barrier(self._group, timeout=GOODBYE)
            except RuntimeError as late:
                print(f"critique-rl: rank {self.rank} leaves without all others: {late}", file=sys.stderr, flush=True)
        # What still holds a group keeps its threads: a group is joined when the last reference to it goes.
        self._group = None
        self._duties.clear()
        dist.destroy_process_group()
        _await_idle_threads(IDLE_LIMIT_S)

    @contextmanager
    def together(self) -> Generator[None]:
        """Around work in which every rank must act: an error in it cannot be recovered and ends the process."""
        if self.size == 1:
            yield
            return
        with _interrupts_held():
            try:
                yield
            except BaseException:
                traceback.print_exc()
                print(
                    f"critique-rl: rank {self.rank} failed in work that all {self.size} ranks do together, so none of "
                    "them can go on; the run continues from its last checkpoint with --resume",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(1)

    def total(self, values: Sequence[float]) -> list[float]:
        """The sums over ranks, for all ranks. To be called by all of them inside `together`."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def largest(self, value: int) -> int:
        """The maximum over ranks, for all ranks. To be called by all of them inside `together`."""
        return int(self._reduce([value], dist.ReduceOp.MAX)[0])

    def _reduce(self, values: Sequence[float], how: dist.ReduceOp.RedOpType) -> list[float]:
        if self.size == 1:
            return list(values)
        held = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(held, op=how, group=self._group)
        return held.tolist()

    def _call(self, name: str, work: Callable[[Share], Result], shares: Sequence[Share]) -> list[Result]:
        with self._turn, _interrupts_held() as hold:
            assert not self._busy, "a duty calls no duty"
            self._busy = True
            try:
                self._settle()
                self._send([_Order(name, share) for share in shares])
                self._owed = True
                with hold.felt():
                    mine = work(shares[0])
                replies = self._settle()
            finally:
                self._busy = False
        for rank, reply in enumerate(replies):
            if isinstance(reply, _Failed):
                raise _told_by(rank, reply)
        return [mine, *cast("list[Result]", replies[1:])]

    def _settle(self) -> list[object]:
        """Take in the replies of the latest order, which an error or a Ctrl-C may have left lying."""
        replies: list[object] = [None] * self.size
        if self._owed:
            with self._followers_needed():
                dist.gather_object(None, replies, group=self._group, group_dst=0)
            self._owed = False
        return replies

    def _send(self, orders: Sequence[_Order | None]) -> None:
        assert self._group is not None, "the crew was released"
        with self._followers_needed():
            dist.scatter_object_list([None], list(orders), group=self._group, group_src=0)

    @contextmanager
    def _followers_needed(self) -> Generator[None]:
        """Around an exchange: torch's error for a peer that hung up is told in the run's words."""
        try:
            yield
        except RuntimeError as error:
            self._broken = True
            error.__traceback__ = None  # its frames hold the group, and a held group keeps its threads
            raise ModelError(
                f"a following process has ended ({error}), so the others cannot go on; what it wrote says why, and "
                "the run continues from its last checkpoint with --resume"
            ) from None

    def _await_order(self) -> _Order | None:
        box: list[_Order | None] = [None]
        dist.scatter_object_list(box, None, group=self._group, group_src=0)
        return box[0]


def join_crew(*, cpu: bool) -> Crew:
    """The processes that `accelerate launch` (or torchrun) started together, or this one alone. Once per process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Crew()
    state = PartialState(cpu=cpu)
    if state.num_processes == 1:
        return Crew()
    group = dist.new_group(backend="gloo", timeout=PATIENCE)
    return Crew(rank=state.process_index, size=state.num_processes, group=cast("dist.ProcessGroup", group))


def _told_by(rank: int, failed: _Failed) -> CritiqueRLError:
    told = f"rank {rank}: {failed.message}"
    try:
        return failed.kind(told)
    except TypeError:  # an error that is made of other things than its message
        return ModelError(told)


def _await_idle_threads(limit_s: float) -> None:
    """Give gloo's threads the interpreter until they want nothing more of it, for `limit_s` seconds at most.

    For groups that outlive their destruction because a split model's mesh or a wrapped one holds them. Where the
    system does not tell what its threads do, this is a short pause and no proof.
    """
    ends_at = time.monotonic() + limit_s
    seen: dict[str, str] | None = None
    while time.monotonic() < ends_at:
        time.sleep(0.02)  # longer than a thread waits for the interpreter before it asks again
        now = _gloo_threads()
        if now == seen and all(state.startswith("S") for state in now.values()):
            return
        seen = now


def _gloo_threads() -> dict[str, str]:
    """Of each thread that carries out gloo's exchanges: its state, and how often it has gone to sleep so far."""
    found: dict[str, str] = {}
    for task in Path("/proc/self/task").glob("*"):
        try:
            if (task / "comm").read_text().strip() != "pt_gloo_runloop":
                continue
            status = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
        except OSError:  # it ended meanwhile
            continue
        found[task.name] = f"{status['State'].strip()} {status['voluntary_ctxt_switches'].strip()}"
    return found


class _Hold:
    """Keeps a Ctrl-C until the block ends, but for the parts of it where it is felt at once."""

    def __init__(self) -> None:
        self.held: tuple[int, FrameType | None] | None = None
        self.previous: Callable[[int, FrameType | None], object] | None = None
        self._felt = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._felt and self.previous is not None:
            self.previous(number, frame)
        else:
            self.held = (number, frame)

    @contextmanager
    def felt(self) -> Generator[None]:
        self._felt = True
        try:
            if self.held is not None and self.previous is not None:
                held, self.held = self.held, None
                self.previous(*held)
            yield
        finally:
            self._felt = False


@contextmanager
def _interrupts_held() -> Generator[_Hold]:
    """A Ctrl-C inside the block takes effect at its end. Elsewhere than in the main thread, nothing is held."""
    hold = _Hold()
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        yield hold
        return
    hold.previous = previous
    signal.signal(signal.SIGINT, hold)
    try:
        yield hold
    finally:
        signal.signal(signal.SIGINT, previous)
    if hold.held is not None:
        previous(*hold.held)
