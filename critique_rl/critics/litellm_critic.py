"""The critic behind any model that LiteLLM reaches. The library is imported when such a critic is made, not before.

Owns: which versions are refused, what must be set before the import, and what the library is sent.
Must not know: retries (net.py has them all), prompts.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import Protocol, cast

import httpx
import openai

from critique_rl.config.critic import LiteLLMCriticConfig
from critique_rl.critics.asking import FIRST_ASK, Ask
from critique_rl.critics.completion import ChatReply, StructuredLadder, read_completion
from critique_rl.critics.limits import configured_batch_price_usd, configured_price_usd
from critique_rl.critics.openai_compatible import endpoint_of, quiet_client_logs
from critique_rl.critics.redaction import Redactor, keys_in_environment
from critique_rl.critics.remote import RemoteCritic
from critique_rl.critics.sdk_errors import call_failed
from critique_rl.errors import CriticSetupError
from critique_rl.feedback.cache import AnswerCache
from critique_rl.feedback.schema import JsonObject
from critique_rl.feedback.store import ExchangeStore
from critique_rl.net import CallFailed, LoopThread, Spent
from critique_rl.types import Message

WANTED_VERSIONS = "litellm>=1.106.2,<1.107,!=1.107.*"
REFUSED_VERSIONS = ("1.82.7", "1.82.8", "1.107.*")
"""Two releases with a stolen publishing token's payload, and a line with reports of a second one."""
_IMPORT_LOCK = threading.Lock()


class _LiteLLM(Protocol):
    suppress_debug_info: bool
    disable_aiohttp_transport: bool

    async def acompletion(self, **arguments: object) -> object: ...

    async def close_litellm_async_clients(self) -> None: ...

    def cost_per_token(self, *, model: str, prompt_tokens: int, completion_tokens: int) -> tuple[float, float]: ...

    def get_llm_provider(self, model: str, *, api_base: str | None) -> tuple[str, str, str | None, str | None]: ...

    def get_model_info(self, model: str) -> Mapping[str, object]: ...

    def validate_environment(self, model: str) -> Mapping[str, object]: ...


def litellm_critic(
    config: LiteLLMCriticConfig,
    *,
    store: ExchangeStore | None = None,
    cache: AnswerCache | None = None,
    thread: LoopThread | None = None,
    spent: Spent | None = None,
    extra_arguments: Mapping[str, object] | None = None,
) -> RemoteCritic:
    """A critic that asks through LiteLLM. `extra_arguments` go to its completion call as they are.

    Raises CriticSetupError: refused version, unknown model, missing key, a money budget for a model without a price.
    """
    library = load_litellm()
    key = _api_key(library, config)
    redact = Redactor([key] if key else keys_in_environment())
    transport = LiteLLMTransport(library, config, key=key, redact=redact, extra_arguments=extra_arguments or {})
    if config.max_cost_usd is not None and transport.price_usd(1000, 1000) is None:
        raise CriticSetupError(
            f"critic.max_cost_usd: no price is known for {config.model!r}: set usd_per_million_prompt_tokens and "
            "usd_per_million_completion_tokens, or bound the run by max_calls or max_total_tokens"
        )
    return RemoteCritic(config, transport, redact=redact, store=store, cache=cache, thread=thread, spent=spent)


class LiteLLMTransport:
    """LiteLLM's completion call with its own retries off."""

    def __init__(
        self,
        library: _LiteLLM,
        config: LiteLLMCriticConfig,
        *,
        key: str,
        redact: Redactor,
        extra_arguments: Mapping[str, object],
    ) -> None:
        self._library = library
        self._config = config
        self._key = key
        self._redact = redact
        self._extra = extra_arguments
        # Two addresses of one provider are told apart by its address; without one, the model's name says it all.
        self.endpoint = endpoint_of(config.base_url) if config.base_url else "litellm"
        self._ladder = StructuredLadder(config.structured_output, config.criteria, directives=config.max_directives > 0)
        source = f"the environment variable {config.api_key_env}" if config.api_key_env else "the provider's key"
        self._hint = f"check critic.model = {config.model!r}, critic.base_url and {source}"

    async def complete(self, messages: Sequence[Message], ask: Ask = FIRST_ASK) -> ChatReply:
        """Send one request, stepping down the structured-output ladder if the provider refuses a form."""

        async def send(response_format: JsonObject | None) -> object:
            return await self._library.acompletion(**self._arguments(messages, ask, response_format))

        try:
            formed = await self._ladder.ask(send)
            return read_completion(formed.answer, price_usd=self.price_usd, form=formed.form)
        except CallFailed:
            raise
        except (openai.OpenAIError, httpx.HTTPError, ValueError) as error:
            raise call_failed(error, redact=self._redact, setup_hint=self._hint) from None

    def price_usd(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """By the config's prices, else by LiteLLM's table; None for a model that neither knows."""
        if self._config.priced:
            return configured_price_usd(self._config, prompt_tokens, completion_tokens)
        try:
            asked, answered = self._library.cost_per_token(
                model=self._config.model, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens
            )
        except Exception:  # the table's misses come as several unrelated classes
            return None
        # A local model is listed at 0, which means "not known" to a budget.
        return asked + answered if asked + answered > 0 or prompt_tokens + completion_tokens == 0 else None

    def batch_price_usd(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """By the config's prices, else by LiteLLM's table of batch prices; None for a model that has none there."""
        if self._config.priced:
            return configured_batch_price_usd(self._config, prompt_tokens, completion_tokens)
        try:
            info = self._library.get_model_info(self._config.model)
        except Exception:  # the table's misses come as several unrelated classes
            return None
        asked, answered = info.get("input_cost_per_token_batches"), info.get("output_cost_per_token_batches")
        if not isinstance(asked, int | float) or not isinstance(answered, int | float):
            return None
        return prompt_tokens * asked + completion_tokens * answered

    def body(self, messages: Sequence[Message], ask: Ask = FIRST_ASK) -> dict[str, object]:
        """The JSON body of one request to an OpenAI-compatible batch endpoint, in the present response form."""
        local = ("api_key", "api_base", "timeout", "max_retries")
        arguments = self._arguments(messages, ask, self._ladder.response_format)
        name = self._library.get_llm_provider(self._config.model, api_base=self._config.base_url)[0]
        return {**{key: value for key, value in arguments.items() if key not in local}, "model": name}

    async def close(self) -> None:
        await self._library.close_litellm_async_clients()

    def _arguments(
        self, messages: Sequence[Message], ask: Ask, response_format: JsonObject | None
    ) -> dict[str, object]:
        config = self._config
        optional: dict[str, object | None] = {
            "api_key": self._key or None,
            "api_base": config.base_url,
            "seed": ask.seed(config.seed),
            "response_format": response_format,
        }
        return {
            "model": config.model,
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            "temperature": config.temperature,
            "max_tokens": ask.max_tokens(config.max_tokens),
            "timeout": config.timeout_s,
            "max_retries": 0,
            **{name: value for name, value in optional.items() if value is not None},
            **self._extra,
        }


def check_version(version: str) -> None:
    """Raise CriticSetupError for a release that must not be imported."""
    for refused in REFUSED_VERSIONS:
        prefix = refused.removesuffix("*")
        if version == refused or (prefix != refused and version.startswith(prefix)):
            raise CriticSetupError(
                f"litellm {version} is installed and is refused (compromised or suspect release): "
                f"pip install '{WANTED_VERSIONS}', and rotate every key this environment has held"
            )


def load_litellm() -> _LiteLLM:
    """Import LiteLLM, quietly and with nothing fetched. Raises CriticSetupError."""
    try:
        check_version(importlib.metadata.version("litellm"))
    except importlib.metadata.PackageNotFoundError:
        raise CriticSetupError(
            f"critic.kind = \"litellm\" needs litellm, which is not installed: pip install '{WANTED_VERSIONS}'"
        ) from None
    with _IMPORT_LOCK, warnings.catch_warnings():
        # Without these the import reads .env from the working directory and fetches a price table.
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        os.environ.setdefault("LITELLM_MODE", "PRODUCTION")
        warnings.simplefilter("ignore")
        import litellm

        library = cast(_LiteLLM, litellm)
        library.suppress_debug_info = True
        library.disable_aiohttp_transport = True
        logging.getLogger("LiteLLM").setLevel(logging.WARNING)
        quiet_client_logs()
    return library


def _api_key(library: _LiteLLM, config: LiteLLMCriticConfig) -> str:
    try:
        library.get_llm_provider(config.model, api_base=config.base_url)
    except openai.OpenAIError as error:
        said = Redactor(keys_in_environment()).line(str(error))
        raise CriticSetupError(
            f"critic.model = {config.model!r} is not a model that LiteLLM knows: write it as provider/model: {said}"
        ) from None
    if config.api_key_env:
        key = os.environ.get(config.api_key_env, "").strip()
        if not key:
            raise CriticSetupError(
                f"critic.api_key_env: the environment variable {config.api_key_env} is not set: set it, or name another"
            )
        return key
    if config.base_url is None:
        missing = library.validate_environment(config.model).get("missing_keys")
        if isinstance(missing, list) and missing:
            names = " or ".join(str(name) for name in cast(list[object], missing))
            raise CriticSetupError(
                f"critic.model = {config.model!r} wants the environment variable {names}, which is not set: set it, or "
                "name the variable with the key in critic.api_key_env"
            )
    return ""
