"""How the trainer's weights reach a server: through a directory that both of them see.

Owns: what is written for the server, under which name, and when it is deleted. Must not know: sampling, the proof that
the weights arrived. vLLM is never imported here.
Trap: on the CPU vLLM keeps a packed copy of an output head that is tied to the embedding, and a reload of a checkpoint
without that head leaves the copy as it was, without an error. Therefore the head is always written out.
"""

from __future__ import annotations

import copy
import json
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, cast

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from critique_rl.engines.vllm_http import VllmServer
from critique_rl.errors import CheckpointError
from critique_rl.ops.low_rank import adapted_layers, merged_weights

_HEAD_FILE = "head.safetensors"
_INDEX = "model.safetensors.index.json"


class WeightSync(Protocol):
    """Brings the weights of the moment to a server."""

    def push(self, version: int) -> str:
        """Give the server the present weights; the label that it now states. Raises EngineError, ServerGone."""
        ...

    def close(self) -> None:
        """Let go of what a push keeps for the next one."""
        ...


class ReloadSync:
    """Writes a checkpoint and has the server reload it. Keeps the newest one only."""

    def __init__(
        self,
        server: VllmServer,
        save: Callable[[Path], None],
        *,
        directory: Path,
        server_directory: str | None = None,
    ) -> None:
        """`save` writes a transformers checkpoint of the whole model; `write_checkpoint` does for a local one."""
        self._server = server
        self._save = save
        self._directory = directory.expanduser().resolve()
        self._server_directory = server_directory or str(self._directory)
        # Another run, or this one before it was resumed, may have given a server the same version number.
        self._run = uuid.uuid4().hex[:8]
        self._pushes = 0
        self._written: Path | None = None

    def push(self, version: int) -> str:
        """Write, rename, reload. Raises CheckpointError if nothing can be written, EngineError, ServerGone."""
        self._pushes += 1
        label = f"{self._run}.{version}.{self._pushes}"
        unfinished, whole = self._directory / f".{label}", self._directory / label
        try:
            unfinished.mkdir(parents=True)
            self._save(unfinished)
            unfinished.rename(whole)
        except OSError as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise CheckpointError(
                f"engine.weights_directory: {str(self._directory)!r} cannot be written: {error}; make room "
                "or name another"
            ) from error
        previous, self._written = self._written, whole
        try:
            self._server.load_weights(f"{self._server_directory.rstrip('/')}/{label}", label)
        finally:
            if previous is not None:
                shutil.rmtree(previous, ignore_errors=True)
        return label

    def close(self) -> None:
        """Nothing: the newest checkpoint stays, for a server that is started again."""


def write_checkpoint(model: PreTrainedModel, directory: Path) -> None:
    """Save a whole model that a server can reload: adapters merged in, and with its output head, even if that is the
    embedding. The live model is left as it is."""
    if adapted_layers(model):
        # Beside its adapters transformers would save nothing. A second object over the same modules does not know them.
        whole = copy.copy(model)
        whole._hf_peft_config_loaded = False  # pyright: ignore[reportPrivateUsage]
        whole.save_pretrained(directory, state_dict=dict(merged_weights(model, device=torch.device("cpu"))))
    else:
        model.save_pretrained(directory)
    head = model.get_output_embeddings()
    embedding = model.get_input_embeddings()
    if head is None or getattr(head, "weight", None) is not getattr(embedding, "weight", None):
        return
    name = next(name for name, module in model.named_modules() if module is head) + ".weight"
    weight = cast(torch.Tensor, head.weight).detach().cpu().contiguous()
    save_file({name: weight}, directory / _HEAD_FILE, metadata={"format": "pt"})
    index = directory / _INDEX
    if index.exists():
        # Files that an index does not name are not read.
        listed = json.loads(index.read_text(encoding="utf-8"))
        listed["weight_map"][name] = _HEAD_FILE
        index.write_text(json.dumps(listed), encoding="utf-8")
