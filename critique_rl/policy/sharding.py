"""One head on every rank: its weights repeated (DDP), or each rank holding a part of them (FSDP2).

Owns: how the weights lie, and bringing them together and apart again. Must not know: samples, losses, files.
Traps: FSDP2 takes the first module that is called for the root, so the head is called once before anything else; the
root is the head and not the model, so that the LM head's weight is whole while `ops.fused` reads it. Outside the
training step all weights are gathered at once, and stay so: a pass then needs no other rank, and shares may differ.
accelerate's own FSDP2 leaves CPUs out and unties tied weights, so torch's is called here, with accelerate's options.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from critique_rl.errors import ConfigError
from critique_rl.policy.batching import micro_batches
from critique_rl.policy.crew import Crew
from critique_rl.policy.head import ResponseHead


def asks_to_shard() -> bool:
    """Whether `accelerate launch --use_fsdp --fsdp_version 2` started this process. Errors: ConfigError."""
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return False
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise ConfigError(f"accelerate launch: FSDP version {version} is not supported; give --fsdp_version 2")
    return True


class RankedHead:
    """`trained` is what a training step calls; scoring and sampling call the head itself after `whole`."""

    def __init__(self, head: ResponseHead, accelerator: Accelerator, crew: Crew) -> None:
        self.head = head
        self.crew = crew
        self.sharded = crew.size > 1 and asks_to_shard()
        self.trained: Callable[..., object] = head
        self._accelerator = accelerator
        self._options = FullyShardedDataParallelPlugin() if self.sharded else None
        self._blocks: list[FSDPModule] = []
        self._is_whole = False
        self._shell: PreTrainedModel | None = None

    def spread(self) -> None:
        """Wrap the head for all ranks, whose weights must be equal. Copies of the model must have been made before."""
        if self.crew.size == 1:
            return
        if self._options is None:
            with self.crew.together():
                self.trained = cast("Callable[..., object]", self._accelerator.prepare(self.head))
            return
        self._shell = _shell_of(self.head.model)
        if isinstance(self._options.cpu_offload, CPUOffloadPolicy):
            raise ConfigError("accelerate launch: --fsdp_offload_params is not supported; leave it out")
        mesh = init_device_mesh(self._accelerator.device.type, (self.crew.size,))
        with self.crew.together():
            kinds = set(cast("list[str] | None", getattr(self.head.model, "_no_split_modules", None)) or ())
            for module in list(self.head.model.modules()):
                if type(module).__name__ in kinds:
                    fully_shard(module, mesh=mesh, reshard_after_forward=bool(self._options.reshard_after_forward))
            fully_shard(self.head, mesh=mesh)
            self._blocks = [module for module in self.head.modules() if isinstance(module, FSDPModule)]
            # Named, because FSDP2 else goes by the latest passes, and ranks have sampled different numbers of tokens.
            for at, block in enumerate(self._blocks):
                block.set_modules_to_backward_prefetch([self._blocks[at - 1]])
            self._call_the_root_first()

    def unsynchronised(self) -> AbstractContextManager[object]:
        """Around all micro-batches of a step but the last: repeated weights have their gradients added up only once."""
        # Split weights add up each time: gradients that wait for the last pass would be whole on every rank.
        return self.trained.no_sync() if isinstance(self.trained, DistributedDataParallel) else nullcontext()

    def whole(self) -> None:
        """Gather the weights, if they are split. To be called by all ranks."""
        if not self._blocks or self._is_whole:
            return
        with self.crew.together():
            for block in self._blocks:
                block.set_reshard_after_forward(False, recurse=False)
                block.unshard()
            self._is_whole = True

    def part(self) -> None:
        """Let go of the other ranks' parts: a training step gathers them layer by layer."""
        if not self._is_whole or self._options is None:
            return
        again = bool(self._options.reshard_after_forward)
        for at, block in enumerate(self._blocks):
            block.reshard()
            block.set_reshard_after_forward(again and at > 0, recurse=False)  # the first is the root
        self._is_whole = False

    def whole_model(self) -> PreTrainedModel:
        """The model for transformers' own functions, such as `generate`; good until the next step. As `whole`."""
        self.whole()
        if self._shell is None:
            return self.head.model
        # A split model parts its weights again before it makes a state dict of them, and waits for other ranks after
        # each token that it generates; a shell of the same form does neither.
        lent: dict[int, torch.nn.Parameter] = {}
        for mine, live in zip(self._shell.modules(), self.head.model.modules(), strict=True):
            for name, weight in live.named_parameters(recurse=False):
                ours = torch.nn.Parameter(weight.detach(), requires_grad=weight.requires_grad)
                mine.register_parameter(name, lent.setdefault(id(weight), ours))
        return self._shell

    @torch.no_grad()
    def _call_the_root_first(self) -> None:
        (batch,) = micro_batches([(0,)], [(0,)], max_tokens=1, pad_id=0, device=self._accelerator.device)
        self.head(batch, temperature=1.0)
        for block in self._blocks:
            block.reshard()  # the root stays whole after a forward pass, and the optimiser must see its parts


@torch.no_grad()
def like_parameters(state: Mapping[str, torch.Tensor], model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A state dict with whole tensors, each cut as the parameter of its name; needs no other rank."""
    own = dict(model.named_parameters(remove_duplicate=False))
    return {name: _cut_like(weight, own.get(name)) for name, weight in state.items()}


@torch.no_grad()
def whole_state(optimizer: torch.optim.Optimizer, *, keep: bool) -> dict[str, object]:
    """The optimiser's state with whole tensors on the host, for a rank that is to `keep` it. Called by all ranks."""

    def whole(value: object) -> object:
        if not isinstance(value, DTensor):
            return value
        gathered = value.full_tensor()
        return gathered.cpu() if keep else None

    state = optimizer.state_dict()
    held = cast("Mapping[int, Mapping[str, object]]", state["state"])
    return {**state, "state": {i: {key: whole(v) for key, v in values.items()} for i, values in held.items()}}


@torch.no_grad()
def cut_state(state: Mapping[str, object], optimizer: torch.optim.Optimizer) -> dict[str, object]:
    """What `whole_state` gave, or a single process, each tensor cut as its parameter; needs no other rank."""
    own = [cast(torch.Tensor, p) for group in optimizer.param_groups for p in group["params"]]
    held = cast("Mapping[int, Mapping[str, object]]", state["state"])

    def fitted(value: object, parameter: torch.Tensor) -> object:
        same = isinstance(value, torch.Tensor) and value.shape == parameter.shape
        return _cut_like(cast(torch.Tensor, value), parameter) if same else value

    return {
        **state,
        "state": {i: {key: fitted(v, own[i]) for key, v in values.items()} for i, values in held.items()},
    }


def _cut_like(value: torch.Tensor, parameter: torch.Tensor | None) -> torch.Tensor:
    if not isinstance(parameter, DTensor) or isinstance(value, DTensor):
        return value
    there = value.to(parameter.device, parameter.dtype)
    return distribute_tensor(there, parameter.device_mesh, parameter.placements, src_data_rank=None)


def _shell_of(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the model's form; its weights take no memory until `RankedHead.whole_model` lends it the live ones."""
    empty = {
        id(weight): torch.nn.Parameter(weight.detach().to("meta"), requires_grad=weight.requires_grad)
        for weight in model.parameters()
    }
    return copy.deepcopy(model, cast("dict[int, object]", empty))
