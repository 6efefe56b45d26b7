"""Provider batch endpoints through LiteLLM, for providers whose batches it can create.

Owns: which providers those are, and what LiteLLM's file and batch calls are given. Must not know: the journal, polling.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Protocol, cast

from critique_rl.config.critic import LiteLLMCriticConfig
from critique_rl.critics.batch_files import ENDPOINT
from critique_rl.critics.batches import ClientBatches, batch_limits
from critique_rl.critics.litellm_critic import load_litellm
from critique_rl.critics.redaction import Redactor, keys_in_environment
from critique_rl.errors import CriticSetupError
from critique_rl.net import LoopThread

PROVIDERS = ("openai", "azure", "vertex_ai", "hosted_vllm")
"""Those whose batches LiteLLM 1.106 creates, retrieves and also lists: a lost submission has to be findable."""


class _Content(Protocol):
    @property
    def content(self) -> bytes: ...


class _BatchLibrary(Protocol):
    async def acreate_file(self, **arguments: object) -> object: ...

    async def acreate_batch(self, **arguments: object) -> object: ...

    async def aretrieve_batch(self, **arguments: object) -> object: ...

    async def afile_content(self, **arguments: object) -> _Content: ...

    async def acancel_batch(self, **arguments: object) -> object: ...

    async def alist_batches(self, **arguments: object) -> object: ...

    async def close_litellm_async_clients(self) -> None: ...


class LiteLLMBatchApi:
    """LiteLLM's six calls, its own retries off."""

    def __init__(self, library: object, arguments: Mapping[str, object]) -> None:
        """`library`: the module; `arguments` go with every call (provider, key, address)."""
        self._library = cast(_BatchLibrary, library)
        self._arguments = {**arguments, "max_retries": 0}

    async def create_file(self, name: str, content: bytes) -> object:
        return await self._library.acreate_file(
            file=(name, content, "application/jsonl"), purpose="batch", **self._arguments
        )

    async def create_batch(self, file_id: str, metadata: Mapping[str, str]) -> object:
        return await self._library.acreate_batch(
            completion_window="24h",
            endpoint=ENDPOINT,
            input_file_id=file_id,
            metadata=dict(metadata),
            **self._arguments,
        )

    async def retrieve_batch(self, batch_id: str) -> object:
        return await self._library.aretrieve_batch(batch_id=batch_id, **self._arguments)

    async def file_content(self, file_id: str) -> bytes:
        return (await self._library.afile_content(file_id=file_id, **self._arguments)).content

    async def cancel_batch(self, batch_id: str) -> object:
        return await self._library.acancel_batch(batch_id=batch_id, **self._arguments)

    async def list_batches(self, after: str | None, limit: int) -> Sequence[object]:
        page = await self._library.alist_batches(after=after, limit=limit, **self._arguments)
        data: object = getattr(page, "data", None)
        return cast("list[object]", data) if isinstance(data, list) else []

    async def close(self) -> None:
        await self._library.close_litellm_async_clients()


def litellm_batches(config: LiteLLMCriticConfig, *, thread: LoopThread | None = None) -> ClientBatches:
    """The batch service of a model's provider. Raises CriticSetupError for a provider without one."""
    library = load_litellm()
    provider = library.get_llm_provider(config.model, api_base=config.base_url)[1]
    if provider not in PROVIDERS:
        raise CriticSetupError(
            f"critic.model = {config.model!r}: LiteLLM makes and lists no batches for {provider}, only for "
            f"{', '.join(PROVIDERS)}: leave --mode batch out"
        )
    key = os.environ.get(config.api_key_env, "").strip() if config.api_key_env else ""
    arguments = {"custom_llm_provider": provider, "api_key": key or None, "api_base": config.base_url}
    return ClientBatches(
        LiteLLMBatchApi(library, {name: value for name, value in arguments.items() if value is not None}),
        limits=batch_limits(config.timeout_s, config.max_attempts, config.retry_after_cap_s),
        redact=Redactor([key] if key else keys_in_environment()),
        setup_hint=f"check critic.model = {config.model!r} and the provider's key",
        thread=thread,
    )
