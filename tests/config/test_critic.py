"""The critic section: kinds, defaults, and what is refused."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from critique_rl.config.critic import CriticConfig, LiteLLMCriticConfig, OpenAICriticConfig, RecordedCriticConfig

SECTION: TypeAdapter[CriticConfig] = TypeAdapter(CriticConfig)
RULE = {"criterion": "form", "pattern": "x", "directive": "Write x."}


@pytest.mark.parametrize(
    "section",
    [
        {"kind": "none"},
        {"kind": "lab_rules"},
        {"kind": "lab_school_rules", "lies": 0.1},
        {"kind": "rules", "rules": [RULE]},
        {"kind": "openai", "model": "m", "base_url": "http://localhost:1/v1"},
        {"kind": "litellm", "model": "anthropic/x"},
        {"kind": "recorded", "path": "x.jsonl"},
        {"kind": "scripted", "replies": ["{}"]},
        {"kind": "scripted", "fail": True},
    ],
)
def test_every_kind_survives_a_round_trip(section: dict[str, object]) -> None:
    config = SECTION.validate_python(section)
    assert SECTION.validate_python(config.model_dump()) == config


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"kind": "openai", "model": "m", "modle": 1}, "modle"),
        ({"kind": "oracle"}, "oracle"),
        ({"model": "m"}, "kind"),
        ({"kind": "openai", "model": ""}, "model"),
        ({"kind": "openai", "model": "m", "base_url": "localhost:8000"}, "is not an address"),
        ({"kind": "openai", "model": "m", "max_cost_usd": 1.0}, "max_cost_usd needs a price"),
        ({"kind": "openai", "model": "m", "usd_per_million_prompt_tokens": 1.0}, "go together: set both"),
        ({"kind": "openai", "model": "m", "temperature": float("nan")}, "temperature"),
        ({"kind": "openai", "model": "m", "criteria": ["<b>"]}, "criteria"),
        ({"kind": "scripted"}, "either replies or fail"),
        ({"kind": "scripted", "replies": ["x"], "fail": True}, "either replies or fail"),
        ({"kind": "rules", "rules": []}, "rules"),
        ({"kind": "rules", "rules": [{**RULE, "pattern": "("}]}, "not a regular expression"),
        ({"kind": "rules", "rules": [RULE, RULE]}, "'form' has more than one rule"),
    ],
)
def test_what_cannot_work_is_refused(section: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        SECTION.validate_python(section)


def test_defaults() -> None:
    for config in (OpenAICriticConfig(kind="openai", model="m"), LiteLLMCriticConfig(kind="litellm", model="m")):
        assert (config.temperature, config.max_tokens, config.timeout_s) == (0.3, 512, 60.0)
        assert (config.max_in_flight, config.max_attempts, config.prompt) == (16, 4, "critic")
        assert not config.show_reference
    assert RecordedCriticConfig(kind="recorded", path="x").criteria == ("correctness", "reasoning")
