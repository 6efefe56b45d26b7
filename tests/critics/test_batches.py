from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from critique_rl.config.critic import LiteLLMCriticConfig, OpenAICriticConfig
from critique_rl.critics.batches import BatchState, BatchUnsureError, ClientBatches
from critique_rl.critics.litellm_batches import LiteLLMBatchApi, litellm_batches
from critique_rl.critics.openai_batches import openai_batches
from critique_rl.critics.redaction import Redactor
from critique_rl.errors import CriticError, CriticSetupError
from critique_rl.net import CallLimits
from tests.servers.batches import BatchServer, Script

FILE = b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[]}}\n'


@pytest.fixture
def server() -> Iterator[BatchServer]:
    one = BatchServer()
    yield one
    one.close()


def config(server: BatchServer, **changes: object) -> OpenAICriticConfig:
    return OpenAICriticConfig.model_validate({"kind": "openai", "model": "m", "base_url": server.url, **changes})


@pytest.fixture
def service(server: BatchServer) -> Iterator[ClientBatches]:
    one = openai_batches(config(server))
    yield one
    one.close()


def test_the_whole_way_of_one_file(server: BatchServer, service: ClientBatches) -> None:
    server.script.polls = 2
    file_id = service.upload("ours.jsonl", FILE)
    assert server.files[file_id] == FILE
    batch_id = service.submit(file_id, {"run": "r", "shard": "s"})
    assert service.poll(batch_id).state is BatchState.RUNNING
    status = service.poll(batch_id)
    assert (status.state, status.done_lines, status.all_lines) == (BatchState.COMPLETED, 1, 1)
    assert '"custom_id": "a"' in service.fetch(status.output_file_id)[0]


def test_a_batch_is_found_by_its_metadata_on_whatever_page(server: BatchServer, service: ClientBatches) -> None:
    file_id = service.upload("f", FILE)
    made = [service.submit(file_id, {"run": "r", "shard": str(number)}) for number in range(7)]
    assert service.find({"run": "r", "shard": "0"}) == made[0]  # the oldest; a page holds two
    assert service.find({"run": "r", "shard": "9"}) is None
    assert service.find({"run": "r"}) == made[-1]


def test_nothing_is_found_where_there_are_no_batches(service: ClientBatches) -> None:
    assert service.find({"run": "r"}) is None


def test_a_submission_cut_off_is_unsure_and_made_once_only(server: BatchServer, service: ClientBatches) -> None:
    file_id = service.upload("f", FILE)
    server.script.drop_after_create = 1
    with pytest.raises(BatchUnsureError):
        service.submit(file_id, {})
    assert len(server.batches) == 1


def test_a_submission_that_is_refused_is_sure(server: BatchServer, service: ClientBatches) -> None:
    file_id = service.upload("f", FILE)
    server.script.refused_submits = 1
    with pytest.raises(CriticError, match="will not do") as caught:
        service.submit(file_id, {})
    assert not isinstance(caught.value, BatchUnsureError)


def test_cancelling_an_ended_batch_is_no_error(server: BatchServer, service: ClientBatches) -> None:
    batch_id = service.submit(service.upload("f", FILE), {})
    assert service.poll(batch_id).state is BatchState.COMPLETED
    service.cancel(batch_id)


def test_why_a_batch_failed_is_told(server: BatchServer, service: ClientBatches) -> None:
    server.script = Script(end="failed")
    status = service.poll(service.submit(service.upload("f", FILE), {}))
    assert (status.state, status.reason) == (BatchState.FAILED, "invalid_file the file is bad")


def test_the_key_goes_to_the_server_and_nowhere_else(
    server: BatchServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "very-secret-9876")
    caplog.set_level(logging.DEBUG, logger="critique_rl")
    one = openai_batches(config(server))
    file_id = one.upload("f", FILE)
    server.script = Script(end="failed", fail_reason="key very-secret-9876 has no right")
    status = one.poll(one.submit(file_id, {}))
    one.close()
    assert set(server.keys) == {"Bearer very-secret-9876"}
    assert "very-secret" not in status.reason + repr(one) + caplog.text
    assert "has no right" in status.reason


def test_a_key_is_not_sent_to_a_far_host_in_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "very-secret-9876")
    far = OpenAICriticConfig(kind="openai", model="m", base_url="http://critic.example/v1")
    with pytest.raises(CriticSetupError, match="plain text"):
        openai_batches(far)


def test_an_unknown_status_is_no_guess(server: BatchServer, service: ClientBatches) -> None:
    batch_id = service.submit(service.upload("f", FILE), {})
    server.batches[batch_id]["status"] = "paused"
    with pytest.raises(CriticError, match="unknown status 'paused'"):
        service.poll(batch_id)


class FakeLibrary:
    """LiteLLM's six functions, with what they were given."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, object]]] = []
        self.batch = SimpleNamespace(
            id="batch-1",
            status="completed",
            metadata={"run": "r"},
            output_file_id="file-2",
            error_file_id=None,
            errors=None,
            request_counts=SimpleNamespace(completed=1, failed=0, total=1),
        )

    async def acreate_file(self, **arguments: object) -> object:
        self.calls.append(("acreate_file", arguments))
        return SimpleNamespace(id="file-1")

    async def acreate_batch(self, **arguments: object) -> object:
        self.calls.append(("acreate_batch", arguments))
        return self.batch

    async def aretrieve_batch(self, **arguments: object) -> object:
        self.calls.append(("aretrieve_batch", arguments))
        return self.batch

    async def afile_content(self, **arguments: object) -> object:
        self.calls.append(("afile_content", arguments))
        return SimpleNamespace(content=b"one\ntwo\n")

    async def acancel_batch(self, **arguments: object) -> object:
        self.calls.append(("acancel_batch", arguments))
        return self.batch

    async def alist_batches(self, **arguments: object) -> object:
        self.calls.append(("alist_batches", arguments))
        return SimpleNamespace(data=[self.batch])

    async def close_litellm_async_clients(self) -> None:
        self.calls.append(("close", {}))


def test_litellm_is_given_the_same_calls_with_its_retries_off() -> None:
    library = FakeLibrary()
    api = LiteLLMBatchApi(library, {"custom_llm_provider": "azure"})
    one = ClientBatches(api, limits=CallLimits(), redact=Redactor([]), setup_hint="check")
    assert one.upload("f", FILE) == "file-1"
    assert one.submit("file-1", {"run": "r"}) == "batch-1"
    assert one.poll("batch-1").output_file_id == "file-2"
    assert one.fetch("file-2") == ["one", "two"]
    assert one.find({"run": "r"}) == "batch-1"
    one.cancel("batch-1")
    one.close()
    calls = dict(library.calls)
    assert list(calls)[-1] == "close"
    sent = [arguments for name, arguments in library.calls if name != "close"]
    assert all(arguments["custom_llm_provider"] == "azure" and arguments["max_retries"] == 0 for arguments in sent)
    assert calls["acreate_file"]["file"] == ("f", FILE, "application/jsonl")
    assert calls["acreate_batch"]["metadata"] == {"run": "r"}


# LiteLLM makes a client for each file or batch call and leaves its socket to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_litellm_over_the_wire(server: BatchServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "very-secret-9876")
    one = litellm_batches(LiteLLMCriticConfig(kind="litellm", model="openai/m", base_url=server.url))
    batch_id = one.submit(one.upload("f", FILE), {"run": "r"})
    assert one.find({"run": "r"}) == batch_id
    status = one.poll(batch_id)
    assert status.state is BatchState.COMPLETED
    assert '"custom_id": "a"' in one.fetch(status.output_file_id)[0]
    server.script.drop_after_create = 1
    with pytest.raises(BatchUnsureError):
        one.submit("file-1", {"run": "s"})
    assert len(server.batches) == 2
    one.close()
    gc.collect()


def test_a_provider_without_batches_is_refused() -> None:
    with pytest.raises(CriticSetupError, match="ollama"):
        litellm_batches(LiteLLMCriticConfig(kind="litellm", model="ollama/m", base_url="http://127.0.0.1:1"))
