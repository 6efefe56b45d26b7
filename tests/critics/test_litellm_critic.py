"""The LiteLLM critic: what is refused before the import, mock replies, and a loopback server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from critique_rl.config.critic import LiteLLMCriticConfig, RecordedCriticConfig
from critique_rl.critics import litellm_critic as module
from critique_rl.critics.litellm_critic import check_version, litellm_critic
from critique_rl.critics.recorded import recorded_critic
from critique_rl.errors import CriticSetupError
from critique_rl.feedback.store import ExchangeStore
from critique_rl.types import CriticOutcome, CriticRequest, Usage

Make = Callable[..., CriticRequest]


def config(**fields: object) -> LiteLLMCriticConfig:
    return LiteLLMCriticConfig.model_validate({"kind": "litellm", "model": "gpt-4o-mini", **fields})


@pytest.mark.parametrize("version", ["1.82.7", "1.82.8", "1.107.0", "1.107.3"])
def test_bad_releases_are_refused(version: str) -> None:
    with pytest.raises(CriticSetupError, match=f"litellm {version} .*refused"):
        check_version(version)


@pytest.mark.parametrize("version", ["1.82.6", "1.82.70", "1.106.2", "1.108.0", "1.1070.0"])
def test_other_releases_are_not(version: str) -> None:
    check_version(version)


def test_a_refused_or_missing_release_is_never_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    # With None in its place, an import of the library would raise another error.
    monkeypatch.setitem(sys.modules, "litellm", None)
    monkeypatch.setattr(module.importlib.metadata, "version", lambda _: "1.82.8")
    with pytest.raises(CriticSetupError, match="rotate every key"):
        litellm_critic(config())

    def missing(_: str) -> str:
        raise module.importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(module.importlib.metadata, "version", missing)
    with pytest.raises(CriticSetupError, match="needs litellm, which is not installed: pip install"):
        litellm_critic(config())


def test_the_module_does_not_import_the_library_and_the_import_is_told_to_stay_local() -> None:
    code = (
        "import os, sys; from critique_rl.critics import litellm_critic as m; "
        "assert 'litellm' not in sys.modules; "
        "Finder = type('Finder', (), {'find_spec': lambda self, name, *_: name == 'litellm' and sys.exit("
        "os.environ['LITELLM_LOCAL_MODEL_COST_MAP'] + ' ' + os.environ['LITELLM_MODE']) or None}); "
        "sys.meta_path.insert(0, Finder()); m.load_litellm()"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LITELLM")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=clean, check=False)
    assert done.stderr.strip() == "True PRODUCTION"


def test_a_mock_reply_is_split_and_priced(good_reply: str, make_request: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-real-key")
    one = litellm_critic(config(), extra_arguments={"mock_response": good_reply})
    critique = one.review([make_request()])[0]
    one.close()
    assert critique.outcome is CriticOutcome.OK
    assert critique.directive_text == "Carry the one from the ones column."
    used = critique.usage
    assert used.prompt_tokens > 0 and used.completion_tokens > 0
    # gpt-4o-mini: 0.15 and 0.60 usd per million tokens.
    assert used.cost_usd == pytest.approx((used.prompt_tokens * 0.15 + used.completion_tokens * 0.60) / 1e6)


def test_a_mock_rate_limit_is_an_outcome(make_request: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-real-key")
    one = litellm_critic(config(max_attempts=1), extra_arguments={"mock_response": "litellm.RateLimitError"})
    assert one.review([make_request()])[0].outcome is CriticOutcome.RATE_LIMITED
    one.close()


def test_setup_faults_are_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    cases = [
        (config(model="anthropic/claude-3-5-haiku-20241022"), "ANTHROPIC_API_KEY, which is not set"),
        (config(model="anthropic/claude-3-5-haiku-20241022", api_key_env="MY_KEY"), "MY_KEY is not set"),
        (config(model="no-such-model-at-all"), "not a model that LiteLLM knows"),
        (
            config(model="hosted_vllm/mine", base_url="http://127.0.0.1:9/v1", max_cost_usd=1.0),
            "no price is known for 'hosted_vllm/mine'",
        ),
    ]
    for case, said in cases:
        with pytest.raises(CriticSetupError, match=said) as caught:
            litellm_critic(case)
        assert "\n" not in str(caught.value)


@pytest.fixture
def local(server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    monkeypatch.setenv("STUB_KEY", "topsecret-value-1234")

    def make(**fields: object) -> Any:
        settings = {"model": "openai/stub", "base_url": server.url, "api_key_env": "STUB_KEY", "timeout_s": 5.0}
        return litellm_critic(config(**{**settings, **fields}), store=ExchangeStore(tmp_path / "e.jsonl"))

    return make


def test_over_a_socket_our_retries_are_the_only_ones(local: Any, server: Any, answer: Any, make_request: Make) -> None:
    server.script = [
        answer(status=429, text="slow down", headers={"Retry-After": "0.3"}),
        answer(status=503, text="overloaded"),
        answer(drop=True),
        answer(),
    ]
    one = local()
    critique = one.review([make_request()])[0]
    one.close()
    assert critique.outcome is CriticOutcome.OK
    assert len(server.bodies) == 4
    assert server.times[1] - server.times[0] >= 0.3
    assert critique.usage.cost_usd is None
    assert (one.spent.calls, one.spent.unpriced_calls) == (4, 1)


def test_over_a_socket_faults_become_outcomes_and_hold_no_key(
    local: Any, server: Any, answer: Any, make_request: Make, tmp_path: Path
) -> None:
    key = "topsecret-value-1234"
    cases = [
        (answer(status=503, text=f"bad {key}"), CriticOutcome.FAILED),
        (answer(status=400, text="blocked by content_filter"), CriticOutcome.REFUSED),
        (answer(text="no idea"), CriticOutcome.MALFORMED),
        (answer(body=b"<html>x</html>", content_type="text/html"), CriticOutcome.FAILED),
        (answer(delay_s=2.0), CriticOutcome.TIMED_OUT),
        (answer(text=json.dumps({"scores": {"c": 0}, "directives": [{"text": key}]})), CriticOutcome.OK),
    ]
    one = local(max_attempts=1, timeout_s=0.5)
    for reply, outcome in cases:
        server.script = [reply]
        critique = one.review([make_request()])[0]
        assert critique.outcome is outcome, critique.reason
        assert key not in repr(critique)
    one.close()
    assert key not in (tmp_path / "e.jsonl").read_text()


def test_over_a_socket_a_refused_schema_steps_down(local: Any, server: Any, answer: Any, make_request: Make) -> None:
    server.script = [answer(status=400, text="json_schema is not supported"), answer()]
    one = local()
    assert one.review([make_request()])[0].outcome is CriticOutcome.OK
    one.close()
    assert [body["response_format"]["type"] for body in server.bodies] == ["json_schema", "json_object"]


def test_over_a_socket_a_refused_key_stops_the_run(local: Any, server: Any, answer: Any, make_request: Make) -> None:
    server.script = [answer(status=401, text="Incorrect API key: topsecret-value-1234")]
    one = local()
    with pytest.raises(CriticSetupError, match="STUB_KEY") as caught:
        one.review([make_request()])
    one.close()
    assert "topsecret" not in str(caught.value)


def test_a_refusal_names_the_range_to_install() -> None:
    with pytest.raises(CriticSetupError, match=re.escape("pip install 'litellm>=1.106.2,<1.107,!=1.107.*'")):
        check_version("1.107.2")


@pytest.mark.parametrize("cause", ["RateLimitError", "ContextWindowExceededError", "InternalServerError"])
def test_mock_faults_are_outcomes_and_cost_nothing(
    make_request: Make, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-real-key")
    one = litellm_critic(config(max_attempts=1), extra_arguments={"mock_response": f"litellm.{cause}"})
    critique = one.review([make_request()])[0]
    one.close()
    assert critique.outcome is (CriticOutcome.RATE_LIMITED if cause == "RateLimitError" else CriticOutcome.FAILED)
    assert critique.usage == Usage(cost_usd=0.0)


def test_a_batch_costs_what_the_table_or_the_config_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-real-key")
    prices = {"usd_per_million_prompt_tokens": 10.0, "usd_per_million_completion_tokens": 50.0}
    cases = [
        # gpt-4o-mini: half of 0.15 and 0.60 usd per million tokens.
        (config(), 0.5 * (1000 * 0.15 + 1000 * 0.60) / 1e6),
        (config(**prices, batch_price_factor=0.25), 0.25 * (1000 * 10 + 1000 * 50) / 1e6),
        (config(**prices), None),
        (config(model="openai/stub", base_url="http://127.0.0.1:9/v1"), None),
    ]
    for case, wanted in cases:
        one = litellm_critic(case)
        found = one._transport.batch_price_usd(1000, 1000)
        one.close()
        assert found == (None if wanted is None else pytest.approx(wanted))


def test_over_a_socket_a_reply_is_asked_again_kept_and_replayed(
    local: Any, server: Any, answer: Any, make_request: Make, tmp_path: Path, good_reply: str
) -> None:
    server.script = [answer(text="no idea"), answer(finish_reason="length"), answer(text=good_reply)]
    one = local(cache=str(tmp_path / "cache.sqlite"), seed=3)
    body = one.plan(make_request()).body
    said = [one.review([make_request()])[0] for _ in range(2)]
    one.close()
    assert [(sent["max_tokens"], sent["seed"]) for sent in server.bodies] == [(512, 3), (512, 4), (1024, 5)]
    # What a batch would send is what was sent.
    assert {name: server.bodies[0][name] for name in body} == body
    assert [(critique.asks, critique.cached) for critique in said] == [(3, False), (3, True)]
    assert said[0].usage.cost_usd is None and said[1].usage == Usage(cost_usd=0.0)
    replay = recorded_critic(RecordedCriticConfig(kind="recorded", path=str(tmp_path / "e.jsonl")))
    # The later answer to the same rollout is the one that counted last.
    assert replay.review([make_request()]) == said[1:]
    replay.close()
