"""Provider batch endpoints that speak the OpenAI files/batches protocol, through the openai client.

Owns: that client's six calls. Must not know: the journal, polling, what the lines say.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

import httpx
import openai

from critique_rl.config.critic import OpenAICriticConfig
from critique_rl.critics.batch_files import ENDPOINT
from critique_rl.critics.batches import TRANSFER_TIMEOUT_S, ClientBatches, batch_limits
from critique_rl.critics.openai_compatible import OPENAI_URL, api_key, shown_url
from critique_rl.critics.redaction import Redactor
from critique_rl.net import LoopThread

_CONNECT_TIMEOUT_S = 10.0


class OpenAIBatchApi:
    """The openai client's files and batches, its own retries off."""

    def __init__(self, client: openai.AsyncOpenAI) -> None:
        self._client = client

    async def create_file(self, name: str, content: bytes) -> object:
        return await self._client.files.create(file=(name, content, "application/jsonl"), purpose="batch")

    async def create_batch(self, file_id: str, metadata: Mapping[str, str]) -> object:
        return await self._client.batches.create(
            input_file_id=file_id, endpoint=ENDPOINT, completion_window="24h", metadata=dict(metadata)
        )

    async def retrieve_batch(self, batch_id: str) -> object:
        return await self._client.batches.retrieve(batch_id)

    async def file_content(self, file_id: str) -> bytes:
        return (await self._client.files.content(file_id)).content

    async def cancel_batch(self, batch_id: str) -> object:
        return await self._client.batches.cancel(batch_id)

    async def list_batches(self, after: str | None, limit: int) -> Sequence[object]:
        page = await self._client.batches.list(after=openai.omit if after is None else after, limit=limit)
        return page.data

    async def close(self) -> None:
        await self._client.close()


def openai_batches(config: OpenAICriticConfig, *, thread: LoopThread | None = None) -> ClientBatches:
    """The batch service beside a critic's own server. Raises CriticSetupError if the key is missing or would leak."""
    key = api_key(config)
    url = config.base_url or OPENAI_URL
    # At INFO it logs each address in full, user and password included.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    client = openai.AsyncOpenAI(
        api_key=key,
        base_url=url,
        max_retries=0,
        timeout=httpx.Timeout(TRANSFER_TIMEOUT_S, connect=min(config.timeout_s, _CONNECT_TIMEOUT_S)),
    )
    return ClientBatches(
        OpenAIBatchApi(client),
        limits=batch_limits(config.timeout_s, config.max_attempts, config.retry_after_cap_s),
        redact=Redactor([key] if os.environ.get(config.api_key_env, "").strip() == key else []),
        setup_hint=f"check that {shown_url(url)} has /files and /batches, and the variable {config.api_key_env}",
        thread=thread,
    )
