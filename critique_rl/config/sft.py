"""What `algorithm.name = "sft"` does without: whatever acts on rollouts, and how a file's sections are laid off for it.

Owns: the list of these sections and keys. Must not know: how demonstrations are made or learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from pydantic import BaseModel

from critique_rl.config.base import Strict
from critique_rl.config.loss import LossConfig

SFT = "sft"
SECTIONS = ("plateau", "objectives", "sampling", "exploration", "skills", "phases")
"""Sections that act on sampled rollouts alone."""

KEYS: Mapping[str, tuple[str, ...]] = {
    "rollout": ("group_size",),
    "loss": ("objective", "clip_low", "clip_high", "dual_clip", "tis_cap", "entropy_target"),
    "budget": ("stop_on_plateau",),
}
"""Keys of other sections that do."""


def without_rollout_keys(tree: Mapping[str, object], own: Mapping[str, object]) -> dict[str, object]:
    """A run's tree as an sft arm or stage has it: without what acts on rollouts, unless it sets that itself (`own`)."""
    left = {key: value for key, value in tree.items() if key not in SECTIONS or key in own}
    for section, keys in KEYS.items():
        table, kept = left.get(section), own.get(section, {})
        if isinstance(table, Mapping) and isinstance(kept, Mapping):
            values = cast("Mapping[str, object]", table)
            left[section] = {key: value for key, value in values.items() if key not in keys or key in kept}
    return left


def check_sft(config: BaseModel) -> None:
    """Raises ValueError for a section or key of a run that has no effect where no rollout is sampled."""
    for section in SECTIONS:
        value = getattr(config, section, None)
        if value is not None and value != type(config).model_fields[section].default:
            raise ValueError(
                f'[{section}] has no effect with algorithm.name = "sft", which samples no rollout; remove it, or '
                "choose another algorithm"
            )
    for section, keys in KEYS.items():
        table = cast(Strict, getattr(config, section))
        fields = type(table).model_fields
        for key in (key for key in keys if key in fields):
            value, default = getattr(table, key), fields[key].default
            if isinstance(table, LossConfig) and key == "objective":
                default = "reinforce"
            if value != default:
                raise ValueError(
                    f'{section}.{key} = {value!r} has no effect with algorithm.name = "sft": no rollout is sampled, '
                    "and a demonstration has no log-probs of a sampler; remove it"
                )
