"""`[[stage]]`: one run as a row of stages, each with sections of its own laid over the file's.

Owns: an entry's form, and which inherited sections a stage leaves out. Must not know: how a stage is run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from critique_rl.config.reads import OPTIONAL, sections_read
from critique_rl.config.run import NAME, PARTS, RunConfig
from critique_rl.config.sft import SFT, without_rollout_keys
from critique_rl.errors import ConfigError

Tree = dict[str, object]
STAGE = "stage"
OF_THE_WHOLE = ("name", "title", "seed", "output")
"""Keys that a stage cannot have of its own; its `name` is the stage's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageConfig:
    """One stage of a run, resolved as a run of its own.

    `config.policy` is the file's: where a stage really starts is known when the one before it has ended, and so is what
    the token budget of the whole leaves it.
    """

    name: str
    config: RunConfig


def stage_trees(tree: Mapping[str, object], *, source: str) -> tuple[Tree, ...]:
    """The `[[stage]]` tables of a run's tree. Errors: ConfigError for a form, a name, or a key of the whole."""
    tables = tree.get(STAGE, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in cast("list[object]", tables)):
        raise ConfigError(
            f"{source}: stage must be tables [[stage]] with a name and sections to change, got {tables!r:.80}"
        )
    stages = cast("list[Tree]", tables)
    for number, stage in enumerate(stages, start=1):
        name = stage.get("name")
        if not isinstance(name, str) or not re.fullmatch(NAME, name):
            raise ConfigError(
                f"{source}: stage {number} has name = {name!r}; wanted letters, digits, '.', '_' and '-': it names a "
                "directory"
            )
        of_whole = sorted({*OF_THE_WHOLE[1:], STAGE, "arms", "seeds", "ablation", "checks"} & set(stage))
        if of_whole:
            raise ConfigError(
                f"{source}: stage {name!r} sets {of_whole[0]}, which belongs to the whole run; move it up"
            )
    names = [cast(str, stage["name"]) for stage in stages]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"{source}: two stages are called {twice!r}; give each a name of its own")
    return tuple(stages)


def without_inert(tree: Mapping[str, object], own: Mapping[str, object]) -> Tree:
    """A tree without the sections that its algorithm does not read, but with those that `own` sets: they are errors."""
    algorithm = tree.get("algorithm", {})
    method = cast(Tree, algorithm) if isinstance(algorithm, dict) else {"name": None}
    use = method.get("use", PARTS)
    parts = cast("Sequence[str]", use) if isinstance(use, (list, tuple)) else PARTS
    name = str(method.get("name", "grpo"))
    inert = OPTIONAL - sections_read(name, parts)
    left = {key: value for key, value in tree.items() if key not in inert or key in own}
    return without_rollout_keys(left, own) if name == SFT else left
