"""A config's name and its join give one object; joins without targets are the method itself."""

from __future__ import annotations

import pytest

from critique_rl.algorithms.by_name import build_algorithm
from critique_rl.algorithms.critique_grpo import CritiqueGrpo
from critique_rl.algorithms.directive_distillation import DirectiveDistillation
from critique_rl.algorithms.gap_advantages import GapAdvantages
from critique_rl.algorithms.grpo import Grpo
from critique_rl.algorithms.routed import OutcomeRouting
from critique_rl.algorithms.self_imitation import SelfImitation
from critique_rl.algorithms.sequential import Sequential
from critique_rl.algorithms.signed import SignedAdvantages
from critique_rl.algorithms.two_channel import TwoChannel
from critique_rl.config import algorithm as methods
from critique_rl.config.distillation import DistillationConfig
from critique_rl.config.reads import NEEDS
from critique_rl.config.refinement import RefinementConfig
from tests.algorithms.groups import REFINE, group, refinement

JOINS = {
    "losses": TwoChannel,
    "advantages": GapAdvantages,
    "signed": SignedAdvantages,
    "routed": OutcomeRouting,
    "sequential": Sequential,
}


def options(join: str) -> DistillationConfig:
    sampled = {"support": "sampled"} if join in ("advantages", "signed") else {}
    return DistillationConfig.model_validate({"join": join, **sampled})


@pytest.mark.parametrize("join", JOINS)
def test_a_join_wraps_the_method(join: str) -> None:
    built = build_algorithm(methods.TwoChannelConfig(), distillation=options(join))
    assert type(built) is JOINS[join] and built.name == "two_channel"
    assert built.needs == {"critique", "refinement", "teacher"}


@pytest.mark.parametrize("join", JOINS)
def test_a_method_without_targets_has_nothing_to_join(join: str) -> None:
    assert type(build_algorithm(methods.GrpoConfig(), distillation=options(join))) is Grpo
    parts = methods.TwoChannelConfig(use=("scores", "refinements"))
    assert type(build_algorithm(parts, distillation=options(join))) is TwoChannel


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (methods.SelfImitationConfig(), SelfImitation),
        (methods.CritiqueGrpoConfig(), CritiqueGrpo),
        (methods.DirectiveDistillationConfig(), DirectiveDistillation),
    ],
)
def test_a_name_gives_its_class(config: methods.AlgorithmConfig, wanted: type) -> None:
    built = build_algorithm(config)
    assert type(built) is wanted and built.name == config.name
    stages = {"critic": "critique", "refinement": "refinement", "distillation": "teacher"}
    assert built.needs == {stages[section] for section in NEEDS[config.name] if section in stages}


@pytest.mark.parametrize("config", [methods.CritiqueGrpoConfig(), methods.TwoChannelConfig()])
def test_the_ratio_mode_says_under_which_prompt_refinements_are_trained(config: methods.AlgorithmConfig) -> None:
    fed = group([0, 0], [refinement(0, 1.0)])
    built = build_algorithm(config, RefinementConfig(ratio_mode="in_context"))
    assert built.assemble([fed])[-1].prompt_ids == REFINE
