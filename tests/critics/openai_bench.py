"""What several tests of the OpenAI-compatible critic share: its section for the stub server, and a replay."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from critique_rl.config.critic import OpenAICriticConfig, RecordedCriticConfig
from critique_rl.critics.recorded import recorded_critic
from critique_rl.types import CriticRequest, Critique

Make = Callable[..., CriticRequest]
PRICES = {"usd_per_million_prompt_tokens": 10.0, "usd_per_million_completion_tokens": 50.0}
ONE_CALL_USD = 0.002
"""100 prompt tokens at 10 and 20 completion tokens at 50 dollars a million."""


def settings(server: Any, **fields: object) -> OpenAICriticConfig:
    """A critic section for the stub server."""
    base = {"kind": "openai", "model": "stub", "base_url": server.url, "timeout_s": 5.0, **PRICES}
    return OpenAICriticConfig.model_validate({**base, **fields})


def replayed(path: Path, requests: list[CriticRequest]) -> list[Critique]:
    """What a recorded critic says to the same requests."""
    with closing(recorded_critic(RecordedCriticConfig(kind="recorded", path=str(path)))) as replay:
        return replay.review(requests)
