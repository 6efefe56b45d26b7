"""The critic behind any OpenAI-compatible chat server, through the openai client.

Owns: keys and addresses for that client, and what it is sent. Must not know: retries (net.py has them all), prompts.
"""

from __future__ import annotations

import ipaddress
import logging
import os
from collections.abc import Sequence
from urllib.parse import urlsplit

import httpx
import openai
from openai.types.chat import ChatCompletion

from critique_rl.config.critic import OpenAICriticConfig
from critique_rl.critics.asking import FIRST_ASK, Ask
from critique_rl.critics.completion import ChatReply, StructuredLadder, read_completion
from critique_rl.critics.limits import configured_batch_price_usd, configured_price_usd
from critique_rl.critics.redaction import Redactor
from critique_rl.critics.remote import RemoteCritic
from critique_rl.critics.sdk_errors import call_failed
from critique_rl.errors import CriticSetupError
from critique_rl.feedback.cache import AnswerCache
from critique_rl.feedback.schema import JsonObject
from critique_rl.feedback.store import ExchangeStore
from critique_rl.net import CallFailed, LoopThread, Spent
from critique_rl.types import Message

OPENAI_URL = "https://api.openai.com/v1"
_NO_KEY = "none"
_CONNECT_TIMEOUT_S = 10.0


def openai_critic(
    config: OpenAICriticConfig,
    *,
    store: ExchangeStore | None = None,
    cache: AnswerCache | None = None,
    thread: LoopThread | None = None,
    spent: Spent | None = None,
) -> RemoteCritic:
    """A critic that asks an OpenAI-compatible server. Raises CriticSetupError if the key is missing or would leak."""
    key = api_key(config)
    redact = Redactor([] if key == _NO_KEY else [key])
    transport = OpenAITransport(config, key=key, redact=redact)
    return RemoteCritic(config, transport, redact=redact, store=store, cache=cache, thread=thread, spent=spent)


class OpenAITransport:
    """One AsyncOpenAI client with its own retries off."""

    def __init__(self, config: OpenAICriticConfig, *, key: str, redact: Redactor) -> None:
        quiet_client_logs()
        self._config = config
        self._redact = redact
        self._ladder = StructuredLadder(config.structured_output, config.criteria, directives=config.max_directives > 0)
        self._client = openai.AsyncOpenAI(
            api_key=key,
            base_url=config.base_url or OPENAI_URL,
            max_retries=0,
            timeout=httpx.Timeout(config.timeout_s, connect=min(config.timeout_s, _CONNECT_TIMEOUT_S)),
        )
        self.endpoint = endpoint_of(config.base_url or OPENAI_URL)
        self._hint = (
            f"check critic.model = {config.model!r}, critic.base_url = {shown_url(config.base_url or OPENAI_URL)} "
            f"and the environment variable {config.api_key_env}"
        )

    async def complete(self, messages: Sequence[Message], ask: Ask = FIRST_ASK) -> ChatReply:
        """Send one request, stepping down the structured-output ladder if the server refuses a form."""

        async def send(response_format: JsonObject | None) -> object:
            body = self._body(messages, ask, response_format)
            return await self._client.post("/chat/completions", body=body, cast_to=ChatCompletion)

        try:
            formed = await self._ladder.ask(send)
            return read_completion(formed.answer, price_usd=self.price_usd, form=formed.form)
        except CallFailed:
            raise
        except (openai.OpenAIError, httpx.HTTPError, ValueError) as error:
            raise call_failed(error, redact=self._redact, setup_hint=self._hint) from None

    def price_usd(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        return configured_price_usd(self._config, prompt_tokens, completion_tokens)

    def batch_price_usd(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        return configured_batch_price_usd(self._config, prompt_tokens, completion_tokens)

    def body(self, messages: Sequence[Message], ask: Ask = FIRST_ASK) -> dict[str, object]:
        """The JSON body of one request, in the present response form."""
        return self._body(messages, ask, self._ladder.response_format)

    async def close(self) -> None:
        await self._client.close()

    def _body(self, messages: Sequence[Message], ask: Ask, response_format: JsonObject | None) -> dict[str, object]:
        config = self._config
        body: dict[str, object] = {
            "model": config.model,
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            "temperature": config.temperature,
            # OpenAI's newer models refuse the old name; other servers may not know the new one.
            "max_tokens" if config.base_url else "max_completion_tokens": ask.max_tokens(config.max_tokens),
        }
        seed = ask.seed(config.seed)
        if seed is not None:
            body["seed"] = seed
        if response_format is not None:
            body["response_format"] = response_format
        return body


def api_key(config: OpenAICriticConfig) -> str:
    """The key from the environment; a server on this machine needs none. Raises CriticSetupError."""
    url = urlsplit(config.base_url or OPENAI_URL)
    loopback = is_loopback(url.hostname or "")
    key = os.environ.get(config.api_key_env, "").strip()
    if not key and loopback:
        return _NO_KEY
    if not key:
        raise CriticSetupError(
            f"critic.api_key_env: the environment variable {config.api_key_env} is not set, and {url.hostname} wants a "
            f"key: set {config.api_key_env}, or name another variable"
        )
    if url.scheme == "http" and not loopback and not config.allow_insecure:
        raise CriticSetupError(
            f"critic.base_url: {shown_url(config.base_url or OPENAI_URL)} would get the key in plain text: use https, "
            "or set critic.allow_insecure = true"
        )
    return key


def is_loopback(host: str) -> bool:
    """True for this machine's own names and addresses."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def endpoint_of(url: str) -> str:
    """Host, port and path of an address: what of it belongs in a request's key."""
    return shown_url(url).split("://", 1)[-1].rstrip("/")


def quiet_client_logs() -> None:
    """Client libraries log addresses at INFO, and headers and bodies at DEBUG: keys among them."""
    for name in ("httpx", "httpcore", "openai"):
        logging.getLogger(name).setLevel(logging.WARNING)


def shown_url(url: str) -> str:
    """An address without user, password and query: fit for messages."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"
