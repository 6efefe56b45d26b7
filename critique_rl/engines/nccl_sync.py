"""How the trainer's weights reach a vLLM server's GPUs: by vLLM's native weight transfer. Written against vLLM 0.32.

Owns: the order of calls, how tensors are cut into messages, and what follows an error. Must not know: NCCL, sampling,
the proof that the weights arrived. vLLM is never imported here.
Trap: the server answers only when it has received, so the call and the broadcast run side by side.
Trap: an update that failed, perhaps another trainer's, leaves layers half loaded, and the next one would mix with them.
Such a server stays paused, and every meeting begins with an empty session, which puts its layers back.
"""

from __future__ import annotations

import base64
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial

import torch
from pydantic import BaseModel, Field
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from critique_rl.engines.nccl import Communicator, NcclCommunicator, TransferError, load_nccl
from critique_rl.engines.vllm_connection import WAYS_OUT
from critique_rl.engines.vllm_http import VllmServer
from critique_rl.errors import EngineError
from critique_rl.ops.low_rank import merged_weights

NamedWeights = Callable[[], Iterator[tuple[str, torch.Tensor]]]
"""A fresh pass over the whole model under its checkpoint's names: merged, unsharded, the output head included."""

MESSAGE_BYTES = 256 * 2**20
_BUFFERS = 2
_LAST_WORD_S = 5.0


class _World(BaseModel):
    world_size: int = Field(ge=1)


class _Transfer(BaseModel):
    backend: str


class _VllmConfig(BaseModel):
    weight_transfer_config: _Transfer | None


class _Info(BaseModel):
    vllm_config: _VllmConfig


class NcclSync:
    """Sends every weight by broadcast, in messages of about `message_bytes`; after an error it starts anew."""

    def __init__(
        self,
        server: VllmServer,
        weights: NamedWeights,
        connect: Callable[[], Communicator],
        *,
        timeout_s: float,
        message_bytes: int = MESSAGE_BYTES,
    ) -> None:
        """`connect` makes a group of which the server knows nothing yet; `timeout_s` is its and the server's own."""
        self._server = server
        self._weights = weights
        self._connect = connect
        self._last_word_s = min(timeout_s, _LAST_WORD_S)
        self._message_bytes = message_bytes
        self._run = uuid.uuid4().hex[:8]
        self._pushes = 0
        self._label = ""
        self._group: Communicator | None = None

    def push(self, version: int) -> str:
        """Meet if need be, pause, send, label, resume. Raises EngineError, ServerGone."""
        self._pushes += 1
        label = f"{self._run}.{version}.{self._pushes}"
        try:
            # A server that was started again has another label, and knows no group.
            met = self._group is not None and self._server.weight_label() == self._label
            if not met:
                self._check()
            # Between a session's start and its end a server that computes would have no weights.
            self._post("/pause?mode=abort")
            if not met:
                self._meet()
            self._transfer(label)
        except TransferError as error:
            self.close()
            raise EngineError(f"engine: {error}; see docs/engines.md, then resume the run") from error
        except BaseException:
            self.close()
            raise
        self._label = label
        return label

    def close(self) -> None:
        """Leave the group; a later push makes another."""
        group, self._group = self._group, None
        if group is not None:
            group.close()

    def _check(self) -> None:
        """Whether the server was started for this. Raises EngineError, ServerGone."""
        transfer = self._server.ask("GET", "/server_info?config_format=json", _Info).vllm_config.weight_transfer_config
        if transfer is None or transfer.backend != "nccl":
            raise EngineError(
                f'engine.sync = "nccl": the server at {self._server.address} was started '
                f"{'without a weight transfer' if transfer is None else f'for {transfer.backend!r}'}: start it with "
                f'--weight-transfer-config \'{{"backend": "nccl"}}\' ({WAYS_OUT})'
            )

    def _meet(self) -> None:
        """Make a group of this process and all workers. Raises EngineError, ServerGone, TransferError."""
        self.close()
        # Refused where a trainer that died has left its session open.
        with suppress(EngineError):
            self._post("/start_weight_update")
        self._post("/finish_weight_update")
        workers = self._server.ask("GET", "/get_world_size", _World).world_size
        # It may hold the group of an earlier run, or ours from before an error.
        self._post("/shutdown_weight_transfer_engine")
        self._group = group = self._connect()
        info = {
            "nccl_unique_id_b64": base64.b64encode(group.unique_id).decode("ascii"),
            "rank_offset": 1,
            "world_size": workers + 1,
            "packed": True,
            "packed_buffer_size_bytes": self._message_bytes,
            "packed_num_buffers": _BUFFERS,
        }
        self._together(group, "/init_weight_transfer_engine", {"init_info": info}, partial(group.join, workers + 1))

    def _transfer(self, label: str) -> None:
        group = self._group
        assert group is not None
        self._post("/start_weight_update")
        for message in messages(self._weights(), self._message_bytes):
            info = {
                "names": [name for name, _ in message],
                "dtype_names": [str(tensor.dtype).removeprefix("torch.") for _, tensor in message],
                "shapes": [list(tensor.shape) for _, tensor in message],
            }
            flat = [tensor.detach().to(group.device).reshape(-1).view(torch.uint8) for _, tensor in message]
            self._together(group, "/update_weights", {"update_info": info}, partial(group.broadcast, torch.cat(flat)))
        self._post("/finish_weight_update")
        self._server.commit_weights(label)
        self._post("/resume")

    def _together(self, group: Communicator, path: str, body: dict[str, object], ours: Callable[[], None]) -> None:
        """The server's part and ours of one operation; whichever fails ends the other.

        Raises EngineError, ServerGone, TransferError.
        """
        answer: Future[None] = Future()

        def theirs() -> None:
            try:
                self._server.call("POST", path, body)
            except BaseException as error:
                answer.set_exception(error)
                group.stop()
            else:
                answer.set_result(None)

        # A daemon: if our part fails, the server may keep its part waiting until the timeout.
        threading.Thread(target=theirs, daemon=True, name=path).start()
        try:
            ours()
        except TransferError:
            # What the server says tells more than that our part was not done.
            with suppress(TimeoutError):
                answer.result(self._last_word_s)
            raise
        answer.result()

    def _post(self, path: str) -> None:
        self._server.call("POST", path)


def messages(
    weights: Iterable[tuple[str, torch.Tensor]], message_bytes: int
) -> Iterator[list[tuple[str, torch.Tensor]]]:
    """Runs of one dtype, each ended by the tensor that takes it beyond `message_bytes`.

    The receiver ends a run in the same way. It views bytes as the tensor's dtype, which needs them aligned.
    """
    run: list[tuple[str, torch.Tensor]] = []
    size = 0
    for name, tensor in weights:
        if run and run[0][1].dtype != tensor.dtype:
            yield run
            run, size = [], 0
        run.append((name, tensor))
        size += tensor.nbytes
        if size > message_bytes:
            yield run
            run, size = [], 0
    if run:
        yield run


def model_weights(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """The whole of a local model under its checkpoint's names: adapters merged in, and a tied output head, too."""
    nothing: dict[str, torch.Tensor] = {}
    if revert_weight_conversion(model, nothing) is nothing:
        yield from merged_weights(model)
    else:
        # A checkpoint's experts, for one, are made from several of the model's tensors.
        yield from revert_weight_conversion(model, dict(merged_weights(model))).items()


def nccl_sync(server: VllmServer, weights: NamedWeights, *, device: torch.device, timeout_s: float) -> NcclSync:
    """Weights from `device` to the server's GPUs. Raises MissingExtraError, ConfigError."""
    load_nccl(device)
    connect = partial(NcclCommunicator, device=device, timeout_s=timeout_s)
    return NcclSync(server, weights, connect, timeout_s=timeout_s)
