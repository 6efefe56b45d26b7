"""One NCCL group of the trainer, which is rank 0, and a server's workers, through NVIDIA's nccl4py.

Owns: meeting, broadcasting, and giving up in time. Must not know: what is sent, HTTP. vLLM is never imported here.
Trap: a blocking NCCL call cannot be ended once the other side has gone, so the group is non-blocking and looked at.
Trap: vLLM's workers add up one float32 as soon as they have met; if one rank does not, all of them hang.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable
from typing import Protocol, SupportsBytes, SupportsInt, cast

import torch

from critique_rl.errors import ConfigError, MissingExtraError

_SUCCESS, _IN_PROGRESS = 0, 7
_LOOK_S = 0.001
_ABORT_S = 5.0


class TransferError(Exception):
    """NCCL failed, took too long, or was stopped; the group is of no use any more."""


class Communicator(Protocol):
    """The trainer's end of a broadcast to every worker of a server."""

    device: torch.device
    unique_id: bytes
    """128 bytes by which the workers find this end."""

    def join(self, world_size: int) -> None:
        """Return when all `world_size` ranks, this one included, have met. Raises TransferError."""
        ...

    def broadcast(self, tensor_N: torch.Tensor, root: int = 0) -> None:
        """Return when every rank has the tensor. Raises TransferError."""
        ...

    def stop(self) -> None:
        """From any thread: what waits now or later ends in TransferError."""
        ...

    def close(self) -> None:
        """End what is in flight and leave the group; never raises."""
        ...


class _Group(Protocol):
    """`nccl.core.Communicator`, as far as it is used."""

    def get_async_error(self) -> SupportsInt: ...

    def allreduce(self, sendbuf: torch.Tensor, recvbuf: torch.Tensor, op: object, *, stream: int) -> None: ...

    def broadcast(self, sendbuf: torch.Tensor, recvbuf: torch.Tensor, root: int, *, stream: int) -> None: ...

    def abort(self) -> None: ...


class _Groups(Protocol):
    def init(self, nranks: int, rank: int, unique_id: object, config: object) -> _Group: ...


class _Nccl(Protocol):
    """The module `nccl.core`, as far as it is used."""

    SUM: object
    Communicator: _Groups

    def NCCLConfig(self, *, blocking: bool) -> object: ...

    def get_unique_id(self) -> SupportsBytes: ...

    def get_error_string(self, nccl_result: int) -> str: ...


class NcclCommunicator:
    """`Communicator` over NCCL. One object is one group: after an error, make another."""

    def __init__(self, *, device: torch.device, timeout_s: float) -> None:
        """`timeout_s`: longest wait for the others, each time. Raises MissingExtraError, ConfigError, TransferError."""
        self._nccl = load_nccl(device)
        self.device = device
        self._timeout_s = timeout_s
        self._stopped = threading.Event()
        self._group: _Group | None = None
        try:
            self._id = self._nccl.get_unique_id()
        except Exception as error:  # nccl4py's errors have no base of their own
            raise TransferError(f"NCCL makes no id: {error}") from error
        self.unique_id = bytes(self._id)

    def join(self, world_size: int) -> None:
        """Meet the others as rank 0. Raises TransferError."""

        def meet() -> None:
            config = self._nccl.NCCLConfig(blocking=False)
            self._group = self._nccl.Communicator.init(world_size, 0, self._id, config)

        self._do(f"meeting {world_size - 1} workers", meet)
        one = torch.zeros(1, dtype=torch.float32, device=self.device)
        self._do("the first sum", lambda: self._met().allreduce(one, one, self._nccl.SUM, stream=self._stream()))

    def broadcast(self, tensor_N: torch.Tensor, root: int = 0) -> None:
        """Send a contiguous tensor on `device` to every rank. Raises TransferError."""
        assert tensor_N.is_contiguous() and tensor_N.device == self.device
        self._do(
            f"sending {tensor_N.nbytes} bytes",
            lambda: self._met().broadcast(tensor_N, tensor_N, root, stream=self._stream()),
        )

    def stop(self) -> None:
        """From any thread: what waits now or later ends in TransferError."""
        self._stopped.set()

    def close(self) -> None:
        """End what is in flight. Whatever NCCL makes of that, this returns."""
        group, self._group = self._group, None
        if group is None:
            return
        # An abort can wait for work that only ends once its caller has gone on.
        abort = threading.Thread(target=_abort, args=(group, self.device), daemon=True)
        abort.start()
        abort.join(_ABORT_S)

    def _do(self, what: str, start: Callable[[], None]) -> None:
        """Start an operation, and return when the device is through with it. Raises TransferError."""
        deadline = time.monotonic() + self._timeout_s
        try:
            with torch.cuda.device(self.device):
                start()
                # Until the group is settled the operation may not stand in the stream yet.
                self._wait(self._settled, deadline)
                through = torch.cuda.Event()
                through.record(torch.cuda.current_stream(self.device))
                self._wait(lambda: self._settled() and through.query(), deadline)
        except Exception as error:  # nccl4py's errors have no base of their own
            raise TransferError(f"{what} by NCCL: {error}") from error

    def _wait(self, done: Callable[[], bool], deadline: float) -> None:
        while not done():
            if self._stopped.is_set():
                raise TransferError("given up")
            if time.monotonic() >= deadline:
                raise TransferError(f"not done after {self._timeout_s:g} s")
            time.sleep(_LOOK_S)

    def _settled(self) -> bool:
        state = int(self._met().get_async_error())
        if state not in (_SUCCESS, _IN_PROGRESS):
            raise TransferError(f"{self._nccl.get_error_string(state)} (NCCL_DEBUG=WARN says more)")
        return state == _SUCCESS

    def _met(self) -> _Group:
        if self._group is None:
            raise TransferError("no group")
        return self._group

    def _stream(self) -> int:
        return torch.cuda.current_stream(self.device).cuda_stream


def load_nccl(device: torch.device) -> _Nccl:
    """The library, if it can be of use on this device. Raises MissingExtraError, ConfigError."""
    if device.type != "cuda" or torch.version.cuda is None:
        raise ConfigError(
            f'engine.sync = "nccl": the policy is on {str(device)!r}, and NCCL sends from CUDA devices only; set '
            'engine.sync = "reload", or policy.device to a CUDA device'
        )
    try:
        return cast(_Nccl, importlib.import_module("nccl.core"))
    except ImportError:
        raise MissingExtraError("nccl4py", "nccl", 'engine.sync = "nccl"') from None


def _abort(group: _Group, device: torch.device) -> None:
    with torch.cuda.device(device):
        group.abort()
