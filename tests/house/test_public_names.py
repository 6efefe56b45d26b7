"""The names that a user may rely on exist, are documented, and have not changed by accident."""

from __future__ import annotations

import importlib
import inspect
from typing import Protocol

import pytest

import critique_rl
from critique_rl import errors, protocols, types

PUBLIC = {
    "critique_rl.types": {
        "Completion", "CriticOutcome", "CriticRequest", "Critique", "Directive", "Evaluative", "Group", "Knobs",
        "Message", "Refinement", "Rollout", "Score", "ScoreStatus", "Task", "TeacherTargets", "TrainSample", "Turn",
        "Usage",
    },
    "critique_rl.protocols": {
        "Algorithm", "Critic", "FeedbackSource", "GroupState", "Guards", "Plateau", "Policy", "Reward", "RolloutEngine",
        "Skipped", "StepReport", "StreamingCritic", "TaskSource", "TeacherGate", "Tracker", "Trust",
    },
    "critique_rl.errors": {
        "CheckpointError", "ConfigError", "CriticBudgetError", "CriticError", "CriticMalformedError",
        "CriticRateLimitError", "CriticRefusedError", "CriticSetupError", "CriticTimeoutError", "CritiqueRLError",
        "DataError", "EngineError", "MissingExtraError", "ModelError", "PromptError",
    },
}  # fmt: skip


def classes_of(module: str) -> set[str]:
    found = vars(importlib.import_module(module)).values()
    return {value.__name__ for value in found if inspect.isclass(value) and value.__module__ == module}


@pytest.mark.parametrize("module", PUBLIC)
def test_public_classes(module: str) -> None:
    assert classes_of(module) == PUBLIC[module]


def test_the_version_is_a_release_number() -> None:
    assert [part.isdigit() for part in critique_rl.__version__.split(".")] == [True, True, True]


@pytest.mark.parametrize("name", sorted(PUBLIC["critique_rl.types"] | PUBLIC["critique_rl.protocols"]))
def test_every_contract_has_a_docstring(name: str) -> None:
    contract = getattr(types, name, None) or getattr(protocols, name)
    assert (contract.__doc__ or "").strip()
    assert not (contract.__doc__ or "").startswith(f"{name}(")  # what dataclass writes when there is none


@pytest.mark.parametrize("name", sorted(PUBLIC["critique_rl.errors"]))
def test_every_error_is_ours_and_drawn_in_the_tree(name: str) -> None:
    error = getattr(errors, name)
    assert issubclass(error, errors.CritiqueRLError)
    assert name in (errors.__doc__ or "")


@pytest.mark.parametrize("name", sorted(PUBLIC["critique_rl.protocols"] - {"Skipped", "StepReport"}))
def test_contracts_are_protocols(name: str) -> None:
    assert Protocol in getattr(protocols, name).__mro__
