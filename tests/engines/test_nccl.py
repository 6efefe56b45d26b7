"""The trainer's end of an NCCL group over a library that only writes down what it is asked."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import pytest
import torch

from critique_rl.engines.nccl import NcclCommunicator, TransferError


class FakeNccl(ModuleType):
    """`nccl.core` with one group: each operation is in progress for two looks, then in `state`."""

    SUM = "sum"

    def __init__(self) -> None:
        super().__init__("nccl.core")
        self.state = 0
        self.looks = 0
        self.calls: list[tuple[object, ...]] = []
        self.Communicator = SimpleNamespace(init=self.init)

    def NCCLConfig(self, **options: object) -> object:
        return options

    def get_unique_id(self) -> bytes:
        return bytes(range(128))

    def get_error_string(self, nccl_result: int) -> str:
        return f"error {nccl_result}"

    def init(self, nranks: int, rank: int, unique_id: bytes, config: object) -> FakeNccl:
        self.looks = 0
        self.calls.append(("init", nranks, rank, unique_id, config))
        return self

    def get_async_error(self) -> int:
        self.looks += 1
        return 7 if self.looks <= 2 else self.state

    def allreduce(self, sendbuf: torch.Tensor, recvbuf: torch.Tensor, op: object, *, stream: int) -> None:
        self.looks = 0
        self.calls.append(("allreduce", sendbuf.dtype, sendbuf.numel(), sendbuf is recvbuf, op, stream))

    def broadcast(self, sendbuf: torch.Tensor, recvbuf: torch.Tensor, root: int, *, stream: int) -> None:
        self.looks = 0
        self.calls.append(("broadcast", sendbuf.numel(), sendbuf is recvbuf, root, stream))

    def abort(self) -> None:
        self.calls.append(("abort",))


@pytest.fixture
def nccl(monkeypatch: pytest.MonkeyPatch) -> FakeNccl:
    """The library, and as much of CUDA as a stream and an event."""
    fake = FakeNccl()
    stream = SimpleNamespace(cuda_stream=5)
    event = SimpleNamespace(record=list[object]().append, query=lambda: True)

    @contextmanager
    def on(_device: torch.device) -> Generator[None]:
        yield

    def current(_device: torch.device) -> SimpleNamespace:
        return stream

    monkeypatch.setitem(sys.modules, "nccl.core", fake)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device", on)
    monkeypatch.setattr(torch.cuda, "current_stream", current)
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    return fake


def joined(timeout_s: float = 5.0) -> NcclCommunicator:
    """One end that has met; its tensors are on the CPU, which only the fake library allows."""
    end = NcclCommunicator(device=torch.device("cuda", 0), timeout_s=timeout_s)
    end.device = torch.device("cpu")
    end.join(3)
    return end


def test_the_trainer_meets_without_blocking_and_adds_up_one_number_as_the_workers_do(nccl: FakeNccl) -> None:
    end = joined()
    assert end.unique_id == bytes(range(128))
    end.broadcast(torch.zeros(6, dtype=torch.uint8))
    end.close()
    end.close()
    assert nccl.calls == [
        ("init", 3, 0, bytes(range(128)), {"blocking": False}),
        ("allreduce", torch.float32, 1, True, "sum", 5),
        ("broadcast", 6, True, 0, 5),
        ("abort",),
    ]


def test_an_error_of_nccl_a_stop_and_a_timeout_end_the_wait(nccl: FakeNccl) -> None:
    nccl.state = 6
    with pytest.raises(TransferError, match=r"meeting 2 workers by NCCL: error 6 \(NCCL_DEBUG=WARN"):
        joined()
    nccl.state = 0
    end = joined()
    nccl.state = 7
    end.stop()
    with pytest.raises(TransferError, match="sending 6 bytes by NCCL: given up"):
        end.broadcast(torch.zeros(6, dtype=torch.uint8))
    nccl.state = 0
    end = joined(timeout_s=0.05)
    nccl.state = 7
    with pytest.raises(TransferError, match=r"not done after 0\.05 s"):
        end.broadcast(torch.zeros(6, dtype=torch.uint8))
    end.close()
    with pytest.raises(TransferError, match="no group"):
        end.broadcast(torch.zeros(6, dtype=torch.uint8))


def test_no_id_is_an_error_before_the_server_is_asked(nccl: FakeNccl, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> bytes:
        raise RuntimeError("no interface")

    monkeypatch.setattr(nccl, "get_unique_id", fails)
    with pytest.raises(TransferError, match="no id: no interface"):
        joined()
