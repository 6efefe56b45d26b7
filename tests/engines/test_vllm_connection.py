"""One line to a server: what its refusals mean, what waiting is worth, and that nothing secret is shown."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import BaseModel

from critique_rl.engines.vllm_connection import Refused, ServerGone, Unreachable, VllmConnection
from critique_rl.errors import CriticError, CritiqueRLError, EngineError
from critique_rl.net import CallFailed
from tests.servers.vllm import FakeVllm, Trouble

GENERATE = "/inference/v1/generate"
KEY = "a-key-that-must-not-show"


class Label(BaseModel):
    weight_version: str


def connection(base_url: str, model: str = "small", **options: object) -> VllmConnection:
    given: dict[str, object] = {"key": None, "timeout_s": 5.0, "max_in_flight": 2, "section": "part"}
    return VllmConnection(base_url, model, **(given | options))  # pyright: ignore[reportArgumentType]


def post(line: VllmConnection) -> CallFailed:
    """How a send ends that cannot end well."""

    async def send() -> str:
        try:
            return await line.post(GENERATE, {})
        finally:
            await line.close()

    with pytest.raises(CallFailed) as caught:
        asyncio.run(send())
    return caught.value


def test_an_engine_error_is_an_os_error_of_ours() -> None:
    assert issubclass(EngineError, CritiqueRLError) and issubclass(EngineError, OSError)


def test_the_address_shows_no_password_and_no_path() -> None:
    assert connection("http://user:secret@127.0.0.1:81/v1/").address == "127.0.0.1:81"
    assert connection("https://models.example").address == "models.example"


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        *((status, Refused, False) for status in (400, 401, 404)),
        *((status, CriticError, True) for status in (429, 500)),
        *((status, Unreachable, True) for status in (502, 503, 504)),
    ],
)
def test_what_a_status_means(status: int, kind: type[CriticError], retryable: bool) -> None:
    with FakeVllm(Trouble(refuses=(status, f"no: {KEY}\nat all"))) as fake:
        failed = post(connection(fake.base_url, key=KEY))
    assert type(failed.error) is kind and failed.retryable is retryable
    assert str(status) in str(failed.error) and "no: [redacted]" in str(failed.error)
    assert not isinstance(failed.error, Refused) or failed.error.status == status


def test_a_server_that_breaks_the_line_or_is_not_there() -> None:
    with FakeVllm(Trouble(dies_after=0)) as fake:
        failed = post(connection(fake.base_url))
        assert isinstance(failed.error, Unreachable) and failed.retryable
        line = connection(fake.base_url)
        with pytest.raises(ServerGone, match="/weight_info"):
            line.ask("GET", "/weight_info", Label)
    assert not line.is_up()


def test_control_calls_are_read_or_explained() -> None:
    with FakeVllm() as fake:
        assert connection(fake.base_url).ask("GET", "/weight_info", Label).weight_version == "default"
        with pytest.raises(EngineError, match=r"part: /v1/models of .* another form than vLLM 0\.32 does"):
            connection(fake.base_url).ask("GET", "/v1/models", Label)
        with pytest.raises(EngineError, match=r"part\.model: .* serves \['small'\], not 'large'; name one of those"):
            connection(fake.base_url, "large").check_model()
    with FakeVllm(Trouble(no_dev=True)) as fake:
        said = pytest.raises(
            EngineError, match=r"part: .* has no /weight_info: start it with --this \(docs/engines\.md"
        )
        with said:
            connection(fake.base_url, needs="--this").ask("GET", "/weight_info", Label)


def test_work_is_done_again_once_the_server_is_back() -> None:
    tries: list[int] = []

    def work() -> str:
        tries.append(len(tries))
        if len(tries) < 3:
            raise ServerGone("the line broke")
        return "done"

    with FakeVllm() as fake:
        fake.down = 3
        line = connection(fake.base_url)
        assert line.outlive(work, restarts=2, wait_s=5.0, poll_s=0.001) == "done"
        tries.clear()
        with pytest.raises(EngineError, match=r"part: .* went away 2 times within one batch \(the line broke\)"):
            line.outlive(work, restarts=1, wait_s=5.0, poll_s=0.001)
        fake.down = 10**6
        tries.clear()
        with pytest.raises(
            EngineError, match=r"part\.base_url: no healthy server at .* for 0\.01 s; start it and resume"
        ):
            line.outlive(work, restarts=2, wait_s=0.01, poll_s=0.001)
