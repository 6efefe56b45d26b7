"""Weights on their way to a server: whole when they are seen, one version at a time, and proven."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from critique_rl.config.engine import VllmEngineConfig
from critique_rl.engines.sync import ReloadSync, write_checkpoint
from critique_rl.engines.vllm_http import VllmServer
from critique_rl.errors import CheckpointError, EngineError
from tests.engines.test_vllm_server import running
from tests.servers.vllm import WEIGHTS_FILE, FakeVllm, Trouble
from tests.tiny import tiny_model


def server(fake: FakeVllm) -> VllmServer:
    return VllmServer(fake.base_url + "/v1/", "small", key=None, timeout_s=5.0, max_in_flight=2)


def write_scale(directory: Path) -> None:
    (directory / WEIGHTS_FILE).write_text("1.5", encoding="utf-8")


def test_the_newest_checkpoint_is_kept_and_the_server_is_asked_in_order(tmp_path: Path) -> None:
    with FakeVllm() as fake:
        sync = ReloadSync(server(fake), write_scale, directory=tmp_path / "weights")
        first, second = sync.push(0), sync.push(1)
        assert fake.label == second != first
        assert [p.name for p in (tmp_path / "weights").iterdir()] == [second]
        paths = [path.split("?")[0] for path, _ in fake.requests]
    assert paths == ["/collective_rpc", "/reset_prefix_cache", "/update_weight_version"] * 2


def test_two_runs_never_share_a_label(tmp_path: Path) -> None:
    with FakeVllm() as fake:
        labels = {ReloadSync(server(fake), write_scale, directory=tmp_path).push(0) for _ in range(2)}
    assert len(labels) == 2


def test_the_server_may_see_the_directory_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "seen").symlink_to(tmp_path / "weights")
    with FakeVllm() as fake:
        sync = ReloadSync(
            server(fake), write_scale, directory=tmp_path / "weights", server_directory=f"{tmp_path / 'seen'}/"
        )
        label = sync.push(0)
        (asked,) = fake.asked("/collective_rpc")
    assert asked["kwargs"] == {"weights_path": f"{tmp_path / 'seen'}/{label}"}


def test_a_checkpoint_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    def half(directory: Path) -> None:
        write_scale(directory)
        raise OSError("no space left")

    with FakeVllm() as fake:
        with pytest.raises(CheckpointError, match=r"engine\.weights_directory.*no space left"):
            ReloadSync(server(fake), half, directory=tmp_path).push(0)
        assert fake.requests == [] and list(tmp_path.iterdir()) == []


def test_a_server_that_keeps_old_weights_is_found_out_with_both_numbers(tmp_path: Path) -> None:
    # trainer: -1.5 * (1 + i % 3), server: -1.0 * (1 + i % 3), so the server's mean is two thirds of the trainer's
    with running(tmp_path, Trouble(ignores_reload=True)) as (engine, _, _):
        with pytest.raises(EngineError, match="does not hold the trainer's weights") as caught:
            engine.sync_weights()
        words = str(caught.value).split()
        ours = float(words[words.index("here") - 1])
        theirs = float(words[words.index("there,") - 1])
        assert theirs == pytest.approx(2 * ours / 3, abs=1e-4)
        with pytest.raises(EngineError):  # a failed proof is not taken for a finished sync
            engine.sync_weights()


@pytest.mark.parametrize(("tolerance", "holds"), [(2.0, True), (0.1, False)])
def test_the_tolerance_is_the_configs(tmp_path: Path, tolerance: float, holds: bool) -> None:
    with running(tmp_path, Trouble(ignores_reload=True), probe_tolerance=tolerance) as (engine, _, _):
        if holds:
            engine.sync_weights()
        else:
            with pytest.raises(EngineError, match=r"at most 0\.1 allowed"):
                engine.sync_weights()


def test_a_tied_head_is_written_out(tmp_path: Path) -> None:
    model = tiny_model(dtype=torch.float32)
    write_checkpoint(model, tmp_path / "own")
    assert "lm_head.weight" in load_file(tmp_path / "own" / "model.safetensors")
    assert not (tmp_path / "own" / "head.safetensors").exists()

    model.lm_head.weight = model.model.embed_tokens.weight
    model.config.tie_word_embeddings = True
    write_checkpoint(model, tmp_path / "tied")
    body = load_file(tmp_path / "tied" / "model.safetensors")
    (head,) = load_file(tmp_path / "tied" / "head.safetensors").items()
    assert "lm_head.weight" not in body
    assert head[0] == "lm_head.weight" and torch.equal(head[1], body["model.embed_tokens.weight"])


def test_a_head_beside_an_index_is_in_the_index(tmp_path: Path) -> None:
    model = tiny_model(dtype=torch.float32)
    model.lm_head.weight = model.model.embed_tokens.weight
    model.config.tie_word_embeddings = True
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "model.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    keep = (tmp_path / "model.safetensors.index.json").read_text()
    save = model.save_pretrained

    def save_with_index(directory: Path) -> None:
        save(directory)
        (directory / "model.safetensors.index.json").write_text(keep)

    model.save_pretrained = save_with_index  # pyright: ignore[reportAttributeAccessIssue]
    write_checkpoint(model, tmp_path)
    written = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    assert written == {"model.norm.weight": "model.safetensors", "lm_head.weight": "head.safetensors"}


def test_the_configs_defaults_agree_with_each_other() -> None:
    config = VllmEngineConfig(kind="vllm", model="m", weights_directory="w")
    assert config.probe_tolerance == 0.05 and config.base_url.startswith("http://127.0.0.1")
