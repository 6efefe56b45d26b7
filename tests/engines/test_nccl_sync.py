"""Weights on their way over vLLM's native transfer: all of them, in order, whatever breaks, and never a hang."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import httpx
import pytest
import torch
from safetensors.torch import load_file

from critique_rl.config.engine import VllmEngineConfig
from critique_rl.engines.nccl import load_nccl
from critique_rl.engines.nccl_sync import MESSAGE_BYTES, NcclSync, messages, model_weights
from critique_rl.engines.sync import write_checkpoint
from critique_rl.engines.vllm_connection import ServerGone
from critique_rl.engines.vllm_http import VllmServer
from critique_rl.engines.vllm_server import VllmServerEngine, vllm_engine
from critique_rl.errors import ConfigError, EngineError, MissingExtraError
from tests.engines.test_vllm_server import PROMPTS, FakePolicy, generate
from tests.servers.vllm import END, Trouble
from tests.servers.vllm_transfer import FakeTransferVllm, TransferTrouble, WireCommunicator
from tests.tiny import tiny_model

MEETING = [
    "/pause",
    "/start_weight_update",
    "/finish_weight_update",
    "/shutdown_weight_transfer_engine",
    "/init_weight_transfer_engine",
]
BEFORE, AFTER = (
    ["/start_weight_update"],
    ["/finish_weight_update", "/reset_prefix_cache", "/update_weight_version", "/resume"],
)


def weights(scale: float = 1.5) -> Iterator[tuple[str, torch.Tensor]]:
    """Two types, a scalar, an odd number of bytes in the middle, and a tensor that is not contiguous."""
    yield "embed", torch.arange(6, dtype=torch.float32).reshape(3, 2).t()
    yield "norm", torch.tensor([0.5, 1.5, 2.5], dtype=torch.bfloat16)
    yield "scale", torch.tensor(scale, dtype=torch.float64)
    yield "head", torch.arange(4, dtype=torch.float32).requires_grad_()


class Ends:
    """Makes communicators, and keeps them to look at."""

    def __init__(self, fake: FakeTransferVllm, *, timeout_s: float, breaks_at: int | None = None) -> None:
        self.fake = fake
        self.timeout_s = timeout_s
        self.breaks_at = breaks_at
        self.made: list[WireCommunicator] = []

    def __call__(self) -> WireCommunicator:
        self.made.append(WireCommunicator(self.fake.wire, timeout_s=self.timeout_s, breaks_at=self.breaks_at))
        return self.made[-1]


@contextmanager
def syncing(
    fake: FakeTransferVllm,
    named: Callable[[], Iterator[tuple[str, torch.Tensor]]] = weights,
    *,
    timeout_s: float = 5.0,
    message_bytes: int = MESSAGE_BYTES,
    breaks_at: int | None = None,
) -> Generator[tuple[NcclSync, Ends]]:
    with fake:
        ends = Ends(fake, timeout_s=timeout_s, breaks_at=breaks_at)
        server = VllmServer(fake.base_url, "small", key=None, timeout_s=timeout_s, max_in_flight=2)
        sync = NcclSync(server, named, ends, timeout_s=timeout_s, message_bytes=message_bytes)
        try:
            yield sync, ends
        finally:
            sync.close()


def holds(fake: FakeTransferVllm, scale: float = 1.5) -> bool:
    """Whether every worker has every tensor, in its type and shape."""
    wanted = dict(weights(scale))
    return all(
        worker.weights.keys() == wanted.keys()
        and all(torch.equal(worker.weights[name], tensor) for name, tensor in wanted.items())
        and all(worker.weights[name].dtype == tensor.dtype for name, tensor in wanted.items())
        for worker in fake.workers
    )


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("message_bytes", [1, 24, MESSAGE_BYTES])
def test_every_worker_gets_every_weight_and_the_calls_keep_their_order(workers: int, message_bytes: int) -> None:
    fake = FakeTransferVllm(workers=workers)
    with syncing(fake, message_bytes=message_bytes) as (sync, ends):
        label = sync.push(0)
        assert holds(fake) and fake.label == label and not fake.paused
        # float32, bfloat16, float64, float32: a message each, whatever its size.
        assert fake.paths == MEETING + BEFORE + ["/update_weights"] * 4 + AFTER
        (asked,) = fake.asked("/init_weight_transfer_engine")
        info = cast("dict[str, object]", asked["init_info"])
        assert info.pop("nccl_unique_id_b64") and info == {
            "rank_offset": 1,
            "world_size": workers + 1,
            "packed": True,
            "packed_buffer_size_bytes": message_bytes,
            "packed_num_buffers": 2,
        }
        first = fake.asked("/update_weights")[0]
        assert first == {"update_info": {"names": ["embed"], "dtype_names": ["float32"], "shapes": [[2, 3]]}}
        assert len(ends.made) == 1


def test_a_group_serves_every_push_until_the_server_is_started_again() -> None:
    scale = [1.5]
    fake = FakeTransferVllm()
    with syncing(fake, lambda: weights(scale[0])) as (sync, ends):
        first = sync.push(0)
        scale[0] = 2.5
        second = sync.push(1)
        assert second != first and holds(fake, 2.5) and fake.scale == 2.5 and len(ends.made) == 1
        fake.die()
        fake.down = 0
        third = sync.push(1)
        assert third != second and holds(fake, 2.5) and fake.label == third
        assert len(ends.made) == 2 and ends.made[0].closed and not ends.made[1].closed
        assert ends.made[0].unique_id != ends.made[1].unique_id
    assert ends.made[1].closed


def test_two_runs_never_share_a_label_and_the_second_takes_over() -> None:
    fake = FakeTransferVllm()
    with syncing(fake) as (sync, ends):
        server = VllmServer(fake.base_url, "small", key=None, timeout_s=5.0, max_in_flight=2)
        other = NcclSync(server, weights, ends, timeout_s=5.0)
        labels = {sync.push(0), other.push(0), sync.push(0)}
        assert len(labels) == 3 and len(ends.made) == 3 and holds(fake)
        other.close()


def test_a_session_that_a_dead_trainer_left_open_is_ended() -> None:
    fake = FakeTransferVllm()
    with syncing(fake) as (sync, _):
        httpx.post(fake.base_url + "/start_weight_update")
        fake.workers[0].pending = {"scale": torch.tensor(9.0)}
        sync.push(0)
        assert holds(fake)


@pytest.mark.parametrize(("fate", "said"), [("refuse", "out of memory"), ("late", "size mismatch")])
def test_an_update_that_the_server_refuses_stops_the_push_and_the_next_one_is_whole(fate: str, said: str) -> None:
    fake = FakeTransferVllm(workers=2, transfer=TransferTrouble(on_update={3: fate}))
    with syncing(fake) as (sync, ends):
        with pytest.raises(EngineError, match=rf"/update_weights of .* failed with 500.*{said}"):
            sync.push(0)
        assert fake.paused and fake.label == "default" and ends.made[0].closed
        label = sync.push(0)
        assert holds(fake) and fake.label == label and not fake.paused and len(ends.made) == 2


def test_half_an_update_mixes_with_the_next_one_unless_an_empty_session_comes_between() -> None:
    """What the fake server makes of leftovers: else the test above could not see them."""
    fake = FakeTransferVllm()
    with syncing(fake) as (sync, _):
        sync.push(0)
        worker = fake.workers[0]
        worker.pending = {"scale": torch.tensor(9.0)}
        sync.push(1)
        assert math.isnan(worker.weights["scale"].item())


def test_a_server_that_dies_in_the_middle_is_gone_and_gets_everything_when_it_is_back() -> None:
    fake = FakeTransferVllm(transfer=TransferTrouble(on_update={2: "die"}))
    with syncing(fake) as (sync, ends):
        with pytest.raises(ServerGone, match="/update_weights"):
            sync.push(0)
        assert ends.made[0].closed and not fake.workers[0].weights
        fake.down = 0
        sync.push(0)
        assert holds(fake)


def test_a_server_that_hangs_is_gone_after_the_timeout() -> None:
    fake = FakeTransferVllm(transfer=TransferTrouble(on_update={1: "hang"}))
    with syncing(fake, timeout_s=0.3) as (sync, ends):
        with pytest.raises(ServerGone, match="/update_weights: ReadTimeout"):
            sync.push(0)
        assert ends.made[0].closed


def test_a_broadcast_that_fails_here_does_not_wait_for_the_server() -> None:
    fake = FakeTransferVllm()
    with syncing(fake, timeout_s=5.0, breaks_at=2) as (sync, ends):
        sync._last_word_s = 0.05  # pyright: ignore[reportPrivateUsage]
        with pytest.raises(EngineError, match=r"the wire is cut; see docs/engines\.md"):
            sync.push(0)
        assert ends.made[0].closed


def test_a_trainer_that_gives_different_weights_up_in_the_middle_leaves_the_server_paused() -> None:
    def broken() -> Iterator[tuple[str, torch.Tensor]]:
        yield "scale", torch.tensor(1.5)
        raise MemoryError("no room to gather")

    fake = FakeTransferVllm()
    with syncing(fake, broken) as (sync, ends):
        with pytest.raises(MemoryError):
            sync.push(0)
        assert fake.paused and fake.label == "default" and ends.made[0].closed


@pytest.mark.parametrize(("backend", "said"), [(None, "without a weight transfer"), ("ipc", "for 'ipc'")])
def test_a_server_without_the_transfer_is_told_how_to_start(backend: str | None, said: str) -> None:
    fake = FakeTransferVllm(transfer=TransferTrouble(backend=backend))
    with syncing(fake) as (sync, ends):
        with pytest.raises(
            EngineError, match=rf"{said}: start it with --weight-transfer-config '\{{\"backend\": \"nccl\"\}}'"
        ):
            sync.push(0)
        assert not ends.made and not fake.paused and not fake.paths


def test_a_server_without_a_gpu_says_so() -> None:
    fake = FakeTransferVllm(transfer=TransferTrouble(no_device=True))
    with syncing(fake) as (sync, ends):
        with pytest.raises(EngineError, match="Cannot access accelerator device when none is available"):
            sync.push(0)
        assert ends.made[0].closed and fake.paths[-1] == "/init_weight_transfer_engine"


def test_a_cache_that_stays_leaves_the_weights_without_their_label() -> None:
    fake = FakeTransferVllm(trouble=Trouble(cache_stays=True))
    with syncing(fake) as (sync, _):
        with pytest.raises(EngineError, match="did not reset its prefix cache"):
            sync.push(0)
        assert fake.label == "default" and fake.paused


def test_messages_end_where_the_receiver_ends_them() -> None:
    # Bytes: 8, 8, 4 | 2 | 16 | 8. The first run ends as 8 + 8 + 4 = 20 > 16; 16 alone is not beyond 16, but there is
    # another type before it, and 16 + 8 > 16.
    sizes = [(2, torch.float32), (2, torch.float32), (1, torch.float32), (1, torch.bfloat16), (4, torch.float32)]
    sizes += [(2, torch.float32), (1, torch.float32)]
    named = [(str(i), torch.zeros(n, dtype=dtype)) for i, (n, dtype) in enumerate(sizes)]
    cut = [[name for name, _ in message] for message in messages(named, 16)]
    assert cut == [["0", "1", "2"], ["3"], ["4", "5"], ["6"]]
    assert list(messages([], 16)) == []


@contextmanager
def engine_of(fake: FakeTransferVllm, policy: FakePolicy) -> Generator[VllmServerEngine]:
    """The engine of a run file over the fake server, with the wire in the place of NCCL."""

    def named() -> Iterator[tuple[str, torch.Tensor]]:
        yield "scale", torch.tensor(policy.scale)

    with fake:
        config = VllmEngineConfig(
            kind="vllm", model="small", base_url=fake.base_url, sync="nccl", timeout_s=5.0, restart_wait_s=5.0
        )
        server = VllmServer(fake.base_url, "small", key=None, timeout_s=5.0, max_in_flight=2)
        sync = NcclSync(server, named, lambda: WireCommunicator(fake.wire), timeout_s=5.0)
        engine = VllmServerEngine(server, sync, policy, config, end_ids=[END], temperature=1.0, poll_s=0.005)
        try:
            yield engine
        finally:
            engine.close()


def test_the_engine_samples_with_the_weights_that_it_sent_and_proves_them() -> None:
    fake, policy = FakeTransferVllm(), FakePolicy()
    with engine_of(fake, policy) as engine:
        before = generate(engine)
        policy.scale, policy.version = 2.0, 1
        after = generate(engine)
        assert len(before) == len(after) == len(PROMPTS) and fake.scale == 2.0
        assert [c.completion_ids for c in before] == [c.completion_ids for c in after]
        assert before[0].behaviour_logprobs[0] / after[0].behaviour_logprobs[0] == pytest.approx(1.5 / 2.0)
        assert fake.paths.count("/init_weight_transfer_engine") == 1
        assert fake.paths.count("/update_weight_version") == 2


def test_a_batch_outlives_a_server_that_dies_while_it_gets_the_weights() -> None:
    fake, policy = FakeTransferVllm(transfer=TransferTrouble(on_update={2: "die"})), FakePolicy()
    with engine_of(fake, policy) as engine:
        generate(engine)
        policy.scale, policy.version = 2.0, 1
        assert len(generate(engine)) == len(PROMPTS)
        assert fake.scale == 2.0 and fake.paths.count("/init_weight_transfer_engine") == 2


def test_a_models_weights_are_those_of_its_checkpoint_and_the_head_is_among_them(tmp_path: Path) -> None:
    model = tiny_model()
    head = model.get_output_embeddings()
    assert head is not None
    head.weight = model.get_input_embeddings().weight  # pyright: ignore[reportAttributeAccessIssue]
    model.config.tie_word_embeddings = True
    write_checkpoint(model, tmp_path)
    wanted: dict[str, torch.Tensor] = {}
    for file in tmp_path.glob("*.safetensors"):
        wanted |= load_file(file)
    named = dict(model_weights(model))
    assert named.keys() == wanted.keys() and "lm_head.weight" in named
    assert all(torch.equal(named[name], tensor) and not named[name].requires_grad for name, tensor in wanted.items())


def test_a_model_whose_checkpoint_has_other_names_is_sent_under_those(tmp_path: Path) -> None:
    """A mixture of experts: one tensor of the model is one per expert in the checkpoint, and for the server."""
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=2, max_position_embeddings=16,
    )  # fmt: skip
    model = MixtralForCausalLM(config)
    model.save_pretrained(tmp_path)
    wanted = load_file(tmp_path / "model.safetensors")
    named = dict(model_weights(model))
    assert named.keys() == wanted.keys() != model.state_dict().keys()
    assert all(torch.equal(named[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, 'sync = "reload" needs weights_directory'),
        ({"sync": "nccl", "weights_directory": "w"}, 'weights_directory has no effect with sync = "nccl"'),
        (
            {"sync": "nccl", "server_weights_directory": "w"},
            'server_weights_directory has no effect with sync = "nccl"',
        ),
    ],
)
def test_a_run_file_names_the_directory_where_it_is_read(keys: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        VllmEngineConfig.model_validate({"kind": "vllm", "model": "m"} | keys)


def test_without_cuda_or_the_library_nothing_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    config = VllmEngineConfig(kind="vllm", model="m", sync="nccl")
    policy = FakePolicy()
    with pytest.raises(ConfigError, match=r"policy is on 'cpu'.*engine\.sync = \"reload\""):
        vllm_engine(
            config,
            policy,
            policy.save,
            end_ids=[END],
            temperature=1.0,
            named_weights=weights,
            device=torch.device("cpu"),
        )
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setitem(sys.modules, "nccl.core", None)
    with pytest.raises(MissingExtraError, match=r"nccl4py.*pip install 'critique-rl\[nccl\]'"):
        load_nccl(torch.device("cuda", 0))
