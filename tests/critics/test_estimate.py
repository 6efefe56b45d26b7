"""What a batch would use at most, by hand; a price that nobody knows is never 0."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from critique_rl.config.critic import LiteLLMCriticConfig, OpenAICriticConfig, PanelCriticConfig, RulesCriticConfig
from critique_rl.critics.base import asker_from
from critique_rl.critics.estimate import Estimator
from critique_rl.types import CriticRequest

Make = Callable[..., CriticRequest]
OPENAI = OpenAICriticConfig(kind="openai", model="m", max_tokens=100, max_calls=7)


def test_tokens_are_those_of_the_rendered_prompts(make_request: Make) -> None:
    estimator = Estimator(OPENAI)
    requests = [make_request(1), make_request(2, attempt="a much longer attempt " * 20)]
    for request in requests:
        estimator.add(request)
    (one,) = estimator.estimate(source="r", rows=5, asked=2).critics
    asker = asker_from(OPENAI)
    # Three characters a token and four more a message.
    wanted = sum(math.ceil(len(m.content) / 3) + 4 for request in requests for m in asker.messages(request))
    assert (one.critic, one.prompt_tokens, one.max_completion_tokens) == ("openai:m", wanted, 200)
    assert one.max_cost_usd is None
    assert one.budget == "budget 7 calls"


def test_prices_of_the_config_and_of_the_table(make_request: Make) -> None:
    prices = {"usd_per_million_prompt_tokens": 2.0, "usd_per_million_completion_tokens": 10.0}
    priced = OPENAI.model_copy(update=prices)
    known = LiteLLMCriticConfig(kind="litellm", model="openai/gpt-4o-mini", max_tokens=1000)
    unknown = LiteLLMCriticConfig(kind="litellm", model="openai/nobody-knows-me")
    found = {}
    for config in (priced, known, unknown):
        estimator = Estimator(config)
        estimator.add(make_request())
        (found[config.model],) = estimator.estimate(source="r", rows=1, asked=1).critics
    one = found["m"]
    assert one.max_cost_usd == pytest.approx(one.prompt_tokens * 2e-6 + 100 * 1e-5)
    # 1000 tokens to receive at 0.6 dollars a million, and something to send.
    cost_usd = found["openai/gpt-4o-mini"].max_cost_usd
    assert cost_usd is not None
    assert cost_usd > 0.0006
    assert found["openai/nobody-knows-me"].max_cost_usd is None


def test_each_remote_member_of_a_panel_is_estimated(make_request: Make) -> None:
    rules = RulesCriticConfig.model_validate(
        {"kind": "rules", "rules": [{"criterion": "box", "pattern": "x", "directive": "Write a box."}]}
    )
    panel = PanelCriticConfig(kind="panel", members=(OPENAI, rules, OPENAI.model_copy(update={"name": "b"})))
    estimator = Estimator(panel)
    estimator.add(make_request())
    estimate = estimator.estimate(source="r.jsonl", rows=4, asked=1)
    assert [one.critic for one in estimate.critics] == ["openai:m", "b"]
    assert estimate.lines()[0] == "r.jsonl: 4 rows, 3 of them answered before; 1 to ask about"
    assert Estimator(rules).estimate(source="r", rows=1, asked=1).lines()[1] == "this critic costs nothing"
