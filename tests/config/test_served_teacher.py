"""A teacher behind a server: every combination that could not work is an error with its way out."""

from __future__ import annotations

import pytest

from critique_rl.config.load import validate
from critique_rl.config.run import RunConfig
from critique_rl.errors import ConfigError

SERVED = {"teacher": "served", "server": {"model": "big"}}


def run_of(distillation: dict[str, object], **sections: object) -> RunConfig:
    critic = {"kind": "scripted", "replies": ["{}"]}
    tree = {"algorithm": {"name": "directive_distillation"}, "critic": critic, "distillation": distillation}
    return validate(tree | sections, source="test")


@pytest.mark.parametrize("support", ["teacher", "sampled"])
def test_what_a_server_can_say(support: str) -> None:
    config = run_of(SERVED | {"support": support}).distillation
    assert config.server is not None
    assert (config.server.model, config.server.base_url) == ("big", "http://127.0.0.1:8000")


@pytest.mark.parametrize(
    ("distillation", "said"),
    [
        ({"teacher": "served"}, r"needs the section \[distillation\.server\]"),
        ({"server": {"model": "big"}}, r"\[distillation\.server\] has no effect with teacher = 'frozen'; remove it"),
        (SERVED | {"support": "student"}, 'set support to "teacher" or "sampled"'),
        (SERVED | {"server": {"base_url": "http://127.0.0.1:1"}}, "model"),
        (SERVED | {"server": {"model": "big", "base_url": "127.0.0.1:1"}}, "base_url"),
        (SERVED | {"ema_rate": 0.1}, "ema_rate = 0.1 has no effect with teacher = 'served'"),
    ],
)
def test_what_it_cannot(distillation: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        run_of(distillation)


def test_a_server_knows_no_temperature() -> None:
    with pytest.raises(ConfigError, match=r"rollout\.temperature = 0\.7 .*set rollout\.temperature = 1, or choose"):
        run_of(SERVED, rollout={"temperature": 0.7})
    assert run_of({"teacher": "frozen"}, rollout={"temperature": 0.7}).rollout.temperature == 0.7
