"""A teacher behind a server: every combination that could not work is an error with its way out."""

from __future__ import annotations

import pytest

from critique_rl.config.load import validate
from critique_rl.config.run import RunConfig
from critique_rl.errors import ConfigError

SERVED: dict[str, object] = {"teacher": "served", "server": {"model": "big"}}


def run_of(distillation: dict[str, object], **sections: object) -> RunConfig:
    critic = {"kind": "scripted", "replies": ["{}"]}
    tree = {"algorithm": {"name": "directive_distillation"}, "critic": critic, "distillation": distillation}
    return validate(tree | sections, source="test")


@pytest.mark.parametrize(
    "options",
    [
        {"support": "teacher"},
        {"support": "sampled"},
        {"support": "teacher", "divergence": "topk_surrogate"},
        {"support": "overlap", "divergence": "topk_surrogate"},
        {"support": "teacher", "join": "advantages", "centred_gap": True},
    ],
)
def test_what_a_server_can_say(options: dict[str, object]) -> None:
    config = run_of(SERVED | options).distillation
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


def test_a_choice_of_hints_wants_several() -> None:
    critic: dict[str, object] = {"kind": "scripted", "replies": ["{}"], "max_directives": 1}
    with pytest.raises(
        ConfigError, match=r"hint_choice = 'shortest' has no effect with critic\.max_directives = 1, wh"
    ):
        run_of({"hint_choice": "shortest"}, critic=critic)
    assert run_of({"hint_choice": "shortest"}).distillation.hint_choice == "shortest"
    assert run_of({}, critic=critic).distillation.hint_choice == "joined"


def test_a_server_knows_no_temperature() -> None:
    with pytest.raises(ConfigError, match=r"rollout\.temperature = 0\.7 .*set rollout\.temperature = 1, or choose"):
        run_of(SERVED, rollout={"temperature": 0.7})
    assert run_of({"teacher": "frozen"}, rollout={"temperature": 0.7}).rollout.temperature == 0.7
