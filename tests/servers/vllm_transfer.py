"""The weight transfer endpoints of vLLM 0.32 before the fake server, and a wire in one process in the place of NCCL.

Owns: order of calls, replies, how packed messages are cut and loaded, as in vllm/entrypoints/rl/online/api_router.py,
vllm/v1/worker/gpu_worker.py and vllm/distributed/weight_transfer/ of 0.32.0; tests/engines/test_nccl_sync.py holds
replies of the real server. The tensor "scale" is the one weight that the fake server samples with.
"""

from __future__ import annotations

import base64
import math
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

import torch

from critique_rl.engines.nccl import TransferError
from tests.servers.vllm import FakeVllm, Trouble

Weights = dict[str, torch.Tensor]


class WorkerError(Exception):
    """What a worker raises; the server answers 500 with its text."""


@dataclass(kw_only=True)
class InitInfo:
    """`NCCLWeightTransferInitInfo`, field by field."""

    master_address: str | None = None
    master_port: int | None = None
    rank_offset: int
    world_size: int
    nccl_unique_id_b64: str | None = None
    packed: bool = False
    packed_buffer_size_bytes: int = 2**30
    packed_num_buffers: int = 2


@dataclass
class UpdateInfo:
    """`NCCLWeightTransferUpdateInfo`, field by field."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]

    def __post_init__(self) -> None:
        for key in ("dtype_names", "shapes"):
            if len(getattr(self, key)) != len(self.names):
                raise WorkerError(
                    f"`{key}` should be of the same size as `names`: got {len(getattr(self, key))} and "
                    f"{len(self.names)}"
                )


class Wire:
    """Everything that meets here under one id is one group."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.present: dict[bytes, set[int]] = {}
        self.sizes: dict[bytes, set[int]] = {}
        self.sent: dict[bytes, torch.Tensor | None] = {}
        self.taken: dict[bytes, set[int]] = {}

    def meet(self, unique_id: bytes, rank: int, world_size: int) -> None:
        with self.changed:
            present = self.present.setdefault(unique_id, set())
            assert rank not in present
            present.add(rank)
            self.sizes.setdefault(unique_id, set()).add(world_size)
            self.changed.notify_all()

    def whole(self, unique_id: bytes) -> bool:
        sizes = self.sizes[unique_id]
        return len(sizes) == 1 and self.present[unique_id] == set(range(min(sizes)))

    def wait(self, done: Callable[[], bool], until: Callable[[], bool], timeout_s: float) -> bool:
        """Whether `done` came to hold before `until` did or the time was over."""
        with self.changed:
            self.changed.wait_for(lambda: done() or until(), timeout_s)
            return done()


class WireCommunicator:
    """`engines.nccl.Communicator` over the wire; `breaks_at` is the broadcast that fails on this side."""

    def __init__(self, wire: Wire, *, timeout_s: float = 5.0, breaks_at: int | None = None) -> None:
        self.device = torch.device("cpu")
        self.unique_id = os.urandom(128)
        self.closed = False
        self.broadcasts = 0
        self._wire = wire
        self._timeout_s = timeout_s
        self._breaks_at = breaks_at
        self._stopped = False

    def join(self, world_size: int) -> None:
        self._wire.meet(self.unique_id, 0, world_size)
        self._wait(lambda: self._wire.whole(self.unique_id), "meeting")
        self._workers = set(range(1, world_size))

    def broadcast(self, tensor_N: torch.Tensor, root: int = 0) -> None:
        assert root == 0 and tensor_N.is_contiguous() and not self.closed
        self.broadcasts += 1
        if self.broadcasts == self._breaks_at:
            raise TransferError("the wire is cut")
        wire = self._wire
        with wire.changed:
            wire.sent[self.unique_id] = tensor_N.clone()
            taken = wire.taken[self.unique_id] = set()
            wire.changed.notify_all()
        self._wait(lambda: taken == self._workers, "sending")

    def stop(self) -> None:
        with self._wire.changed:
            self._stopped = True
            self._wire.changed.notify_all()

    def close(self) -> None:
        self.closed = True

    def _wait(self, done: Callable[[], bool], what: str) -> None:
        if not self._wire.wait(done, lambda: self._stopped, self._timeout_s):
            raise TransferError(f"{what}: {'given up' if self._stopped else 'not done in time'}")


class Worker:
    """One GPU: `weights` are what it computes with; what has arrived of a layer but is not whole waits in `pending`."""

    def __init__(self, wire: Wire, index: int) -> None:
        self.wire = wire
        self.index = index
        self.weights: Weights = {}
        self.pending: Weights = {}
        self.stale: set[str] = set()
        self.active = False
        self.group: bytes | None = None
        self.rank = 0
        self.info: InitInfo | None = None

    def init(self, info: InitInfo) -> None:
        if not info.nccl_unique_id_b64 and (info.master_address is None or info.master_port is None):
            raise WorkerError(
                "NCCLWeightTransferInitInfo: need nccl_unique_id_b64, or both master_address and master_port (got "
                f"master_address={info.master_address!r}, master_port={info.master_port!r})"
            )
        unique_id = base64.b64decode(info.nccl_unique_id_b64 or "", validate=True)
        if len(unique_id) != 128:
            raise WorkerError(
                "NCCLWeightTransferInitInfo: nccl_unique_id_b64 must decode to 128 bytes, got " + str(len(unique_id))
            )
        self.info, self.rank, self.group = info, self.index + info.rank_offset, unique_id
        self.wire.meet(unique_id, self.rank, info.world_size)

    def start(self) -> None:
        if self.active:
            raise WorkerError(
                "start_weight_update called while a weight update is already active. Call finish_weight_update first."
            )
        self.active = True
        self.stale = set(self.pending)

    def finish(self) -> None:
        if not self.active:
            raise WorkerError("finish_weight_update called without a matching start_weight_update.")
        self.active = False
        if set(self.pending) != self.stale:
            # With halves of two updates nobody can tell what a layer holds.
            mixed = {name: tensor * math.nan for name, tensor in self.pending.items()}
            self.weights.update(mixed if self.stale else self.pending)
        self.pending, self.stale = {}, set()

    def shutdown(self) -> None:
        if self.active:
            raise WorkerError("Cannot release a trainer connection during a weight update")
        self.group = None

    def cut(self, update: UpdateInfo) -> list[list[int]]:
        """The tensors of each message, by their place: a message ends with the one that takes it over the size."""
        assert self.info is not None
        if not self.info.packed:
            return [[i] for i in range(len(update.names))]
        cuts: list[list[int]] = []
        size = 0
        for i in range(len(update.names)):
            if not cuts or size > self.info.packed_buffer_size_bytes:
                cuts.append([])
                size = 0
            cuts[-1].append(i)
            size += _bytes(update, i)
        return cuts

    def load(self, update: UpdateInfo, message: list[int], sent: torch.Tensor) -> None:
        sizes = [_bytes(update, i) for i in message]
        if sent.dtype is not torch.uint8 or sent.numel() != sum(sizes):
            raise WorkerError(f"a message of {sent.numel()} {sent.dtype}, wanted {sum(sizes)} bytes")
        for i, flat in zip(message, sent.split(sizes), strict=True):
            dtype = cast(torch.dtype, getattr(torch, update.dtype_names[i]))
            self.pending[update.names[i]] = flat.contiguous().view(dtype).view(update.shapes[i])


@dataclass(kw_only=True)
class TransferTrouble:
    """`backend`: of the server's weight transfer; `on`: what happens in the place of the N-th update (from 1)."""

    backend: str | None = "nccl"
    no_device: bool = False
    on_update: Mapping[int, str] = field(default_factory=dict[int, str])
    """"refuse" (an error of the worker), "die" (a restart), "hang" (until the test ends), "late" (after loading)."""


class FakeTransferVllm(FakeVllm):
    """`workers` GPUs; `paths` is what was asked for, in order, without what only reads."""

    def __init__(
        self, *, workers: int = 1, transfer: TransferTrouble | None = None, trouble: Trouble | None = None
    ) -> None:
        super().__init__(trouble)
        self.wire = Wire()
        self.transfer = transfer or TransferTrouble()
        self.count = workers
        self.paused = False
        self.updates = 0
        self.ended = False
        self.fresh()

    def __exit__(self, *_: object) -> None:
        with self.wire.changed:
            self.ended = True
            self.wire.changed.notify_all()
        super().__exit__()

    def fresh(self) -> None:
        self.workers = [Worker(self.wire, i) for i in range(self.count)]
        self.paused = False

    def die(self) -> None:
        super().die()
        self.fresh()

    @property
    def paths(self) -> list[str]:
        reads = ("/server_info", "/get_world_size", "/weight_info", "/v1/models", "/health", "/inference")
        return [path.partition("?")[0] for path, _ in self.requests if not path.startswith(reads)]

    def reply(self, path: str, body: dict[str, object]) -> tuple[int, object] | None:
        if self.down or path == "/health":
            return super().reply(path, body)
        if path.startswith("/server_info") and not self.trouble.no_dev:
            status, said = cast("tuple[int, dict[str, dict[str, object]]]", super().reply(path, body))
            backend = self.transfer.backend
            said["vllm_config"]["weight_transfer_config"] = None if backend is None else {"backend": backend}
            return status, said
        if path == "/get_world_size":
            return 200, {"world_size": self.count}
        if path == "/is_paused":
            return 200, {"is_paused": self.paused}
        if path in ("/pause?mode=abort", "/pause?mode=keep", "/resume"):
            self.paused = path != "/resume"
            return 200, {"status": "paused" if self.paused else "resumed"}
        if path == "/inference/v1/generate" and self.paused:
            raise AssertionError("sampling while paused would wait for ever")
        missing = {"/init_weight_transfer_engine": "init_info", "/update_weights": "update_info"}.get(path)
        if missing is not None and missing not in body:
            return 400, _refused(missing)
        try:
            said = self._transfer(path, body)
        except WorkerError as error:
            return 500, _failed(str(error))
        except BrokenPipeError:
            return None
        return super().reply(path, body) if said is None else (200, {"message": said})

    def _transfer(self, path: str, body: dict[str, object]) -> str | None:
        if path == "/init_weight_transfer_engine":
            self._init(cast("dict[str, object]", body["init_info"]))
            return "Weight transfer initialized"
        if path == "/shutdown_weight_transfer_engine":
            for worker in self.workers:
                worker.shutdown()
            return "Weight transfer shut down"
        if path == "/start_weight_update":
            for worker in self.workers:
                worker.start()
            return "Weight update started"
        if path == "/finish_weight_update":
            for worker in self.workers:
                worker.finish()
            if body.get("weight_version") is not None:
                self.label = str(body["weight_version"])
            if "scale" in self.workers[0].weights:
                self.scale = float(self.workers[0].weights["scale"])
            return "Weight update finished"
        if path == "/update_weights":
            self._update(cast("dict[str, object]", body["update_info"]))
            return "Weights updated"
        return None

    def _init(self, raw: dict[str, object]) -> None:
        try:
            info = InitInfo(**raw)  # pyright: ignore[reportArgumentType]
        except TypeError as error:
            said = str(error).replace("InitInfo.__init__", "NCCLWeightTransferInitInfo.__init__")
            raise WorkerError(f"Invalid init_info for NCCLWeightTransferEngine: {said}") from None
        if self.transfer.no_device:
            raise WorkerError("Cannot access accelerator device when none is available.")
        for worker in self.workers:
            worker.init(info)
        group = self.workers[0].group
        assert group is not None
        if not self.wire.wait(lambda: self.wire.whole(group), lambda: self.ended, 5.0):
            raise WorkerError("NCCL error: the trainer did not come")

    def _update(self, raw: dict[str, object]) -> None:
        if not self.workers[0].active:
            raise WorkerError("start_weight_update must be called before update_weights.")
        self.updates += 1
        fate = self.transfer.on_update.get(self.updates)
        try:
            update = UpdateInfo(**raw)  # pyright: ignore[reportArgumentType]
            if fate == "refuse":
                raise WorkerError("CUDA error: out of memory")
            if fate == "hang":
                self.wire.wait(lambda: False, lambda: self.ended, 5.0)
                raise BrokenPipeError
            if fate == "die":
                self.die()
                raise BrokenPipeError
            self._receive(update)
            if fate == "late":
                raise WorkerError("size mismatch for lm_head.weight")
        except WorkerError:
            for worker in self.workers:
                worker.active = False
            raise

    def _receive(self, update: UpdateInfo) -> None:
        group = self.workers[0].group
        if group is None:
            raise WorkerError("NCCL weight transfer not initialized. Call init_transfer_engine() first.")
        wire = self.wire
        for message in self.workers[0].cut(update):
            if not wire.wait(lambda: wire.sent.get(group) is not None, lambda: self.ended, 5.0):
                raise WorkerError("NCCL error: nothing was sent")
            with wire.changed:
                sent = wire.sent[group]
                assert sent is not None
                for worker in self.workers:
                    worker.load(update, message, sent)
                wire.sent[group] = None
                wire.taken[group] |= {worker.rank for worker in self.workers}
                wire.changed.notify_all()


def _bytes(update: UpdateInfo, i: int) -> int:
    return math.prod(update.shapes[i]) * cast(torch.dtype, getattr(torch, update.dtype_names[i])).itemsize


def _failed(said: str) -> dict[str, object]:
    message = (
        f"Call to collective_rpc method failed: Worker failed with error '{said}', please check the stack trace above "
        "for the root cause"
    )
    return {"error": {"message": message, "type": "InternalServerError", "param": None, "code": 500}}


def _refused(missing: str) -> dict[str, object]:
    where = f"body.{missing}"
    message = (
        f"1 validation error:\n  {{'type': 'missing', 'loc': '{where}', 'msg': 'Field required', 'input': 'None'}}"
    )
    return {"error": {"message": message, "type": "Bad Request", "param": where, "code": 400}}
