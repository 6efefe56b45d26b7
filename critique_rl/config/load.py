"""TOML and `--section.key value` overrides -> `RunConfig`, and back.

Owns: reading, merging arms and overrides, and turning pydantic's report into one clear line per fault.
Must not know: how anything is built.
"""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from pydantic import ValidationError

from critique_rl.config.ablation import AblationConfig
from critique_rl.config.check import CheckConfig
from critique_rl.config.reads import OPTIONAL
from critique_rl.config.run import NAME, RunConfig
from critique_rl.config.shorthand import critic_tree
from critique_rl.config.stages import STAGE, StageConfig, stage_trees, without_inert
from critique_rl.errors import ConfigError

Tree = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFile:
    """A parsed run file: the base tree, named arms (partial trees laid over it), the seeds to run each at,
    and `[[checks]]`: bounds on an arm's held-out success that the summary reports on. `overrides` are in `base`, and
    are laid over each arm and stage again: what is asked for on the command line holds in all of them. `stage` in a
    tree are the `[[stage]]` tables of the file, or of an arm, whose list takes the place of it. `ablation` is how
    `critique-rl ablate` compares the arms, if the file says so."""

    base: Tree
    arms: Mapping[str, Tree]
    seeds: tuple[int, ...]
    checks: tuple[Tree, ...]
    source: str
    overrides: tuple[tuple[str, str], ...] = ()
    ablation: AblationConfig | None = None


def read_run_file(path: Path, overrides: Sequence[tuple[str, str]] = ()) -> RunFile:
    """Read a run file; `[arms.NAME]` tables and `seeds` are split off. Errors: ConfigError with file and position."""
    try:
        tree: Tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"run file {str(path)!r} does not exist; give the path of a TOML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"run file {str(path)!r} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"run file {str(path)!r} is not valid TOML: {error}") from None
    arms = tree.pop("arms", {})
    checks = tree.pop("checks", [])
    ablation = tree.pop("ablation", None)
    seeds = tree.pop("seeds", [])
    if not isinstance(arms, dict) or not all(isinstance(arm, dict) for arm in cast(Tree, arms).values()):
        raise ConfigError(f"{path}: arms must be tables [arms.NAME] of sections to change, got {arms!r}")
    for arm in cast(Tree, arms):
        if not re.fullmatch(NAME, arm):
            raise ConfigError(f"{path}: arms: {arm!r} cannot name a directory; use letters, digits, '.', '_' and '-'")
    if not isinstance(seeds, list) or not all(type(s) is int and s >= 0 for s in cast(list[object], seeds)):
        raise ConfigError(f"{path}: seeds must be a list of whole numbers >= 0, got {seeds!r}")
    if not isinstance(checks, list):
        raise ConfigError(f"{path}: checks must be tables [[checks]] with name, arm, class and a bound, got {checks!r}")
    known = [*cast(Tree, arms)] or [str(tree.get("name", "run"))]
    for number, check in enumerate(cast(list[object], checks), start=1):
        _check_check(check, known, source=f"{path}: checks, entry {number}")
    compared = None if ablation is None else _read_ablation(ablation, known, source=f"{path}: ablation")
    for section in (tree, *cast("dict[str, Tree]", arms).values()):
        _spell_out_critic(section)
        for stage in stage_trees(section, source=str(path)):
            _spell_out_critic(stage)
    _put_all(tree, overrides)
    return RunFile(
        base=tree,
        arms=cast("dict[str, Tree]", arms),
        seeds=tuple(cast(list[int], seeds)),
        checks=tuple(cast(list[Tree], checks)),
        source=str(path),
        overrides=tuple(overrides),
        ablation=compared,
    )


def with_feedback(run_file: RunFile, path: str) -> RunFile:
    """The same run, learning from a file of feedback instead of asking a critic. Errors: ConfigError if it has stages,
    each of which would need rows of its own."""
    if any(STAGE in tree for tree in (run_file.base, *run_file.arms.values())):
        raise ConfigError(f"--feedback: {run_file.source} has stages; give the stage that is meant a [stage.feedback]")
    feedback = cast(Tree, run_file.base.get("feedback", {}))
    base: Tree = {**_without_critic(run_file.base), "feedback": {**feedback, "path": path}}
    arms = {name: _without_critic(arm) for name, arm in run_file.arms.items()}
    overrides = tuple((key, value) for key, value in run_file.overrides if key.split(".")[0] != "critic")
    return replace(run_file, base=base, arms=arms, overrides=overrides)


def _without_critic(tree: Mapping[str, object]) -> Tree:
    return {key: value for key, value in tree.items() if key != "critic"}


def resolve(run_file: RunFile, *, arm: str | None = None, seed: int | None = None) -> RunConfig:
    """The config of one arm at one seed. An arm that changes the algorithm also drops the sections it makes inert, but
    not those that it sets itself: they are refused.

    Of an arm with stages it is the last one's, which is what the others are for, with the token budget of them all.
    """
    tree = _tree_of(run_file, arm, seed)
    stages = resolve_stages(run_file, arm=arm, seed=seed)
    if not stages:
        tree.pop(STAGE, None)
        own = run_file.arms[arm] if arm is not None else None
        return validate(tree if own is None else without_inert(tree, own), source=_source_of(run_file, arm))
    last, whole = stages[-1].config, tree.get("budget", {})
    tokens = cast(Tree, whole).get("max_generated_tokens") if isinstance(whole, dict) else None
    return last.model_copy(update={"budget": last.budget.model_copy(update={"max_generated_tokens": tokens})})


def resolve_stages(run_file: RunFile, *, arm: str | None = None, seed: int | None = None) -> tuple[StageConfig, ...]:
    """The stages of one arm at one seed, each as a run of its own; none of an arm without `[[stage]]`.

    A stage drops the sections that its algorithm makes inert, as an arm does. Overrides hold in every stage.
    """
    tree, source = _tree_of(run_file, arm, seed), _source_of(run_file, arm)
    found: list[StageConfig] = []
    for stage in stage_trees(tree, source=source):
        name, own = str(stage["name"]), {key: value for key, value in stage.items() if key != "name"}
        placed = own.get("policy")
        if found and isinstance(placed, dict) and {"model", "gguf_file"} & set(cast(Tree, placed)):
            raise ConfigError(
                f"{source} [[stage]] {name}: policy.model has no effect, since a stage begins with the "
                "policy of the one before; set it for the whole run"
            )
        whole = copy.deepcopy(merge({key: value for key, value in tree.items() if key != STAGE}, own))
        _put_all(whole, run_file.overrides)
        config = validate(without_inert(whole, own), source=f"{source} [[stage]] {name}")
        found.append(StageConfig(name=name, config=config))
    return tuple(found)


def _tree_of(run_file: RunFile, arm: str | None, seed: int | None) -> Tree:
    tree = run_file.base
    if arm is not None:
        if arm not in run_file.arms:
            raise ConfigError(f"{run_file.source}: there is no arm {arm!r}; it has {sorted(run_file.arms) or 'none'}")
        tree = copy.deepcopy(merge(tree, run_file.arms[arm]))
        _put_all(tree, run_file.overrides)
    return {**tree} if seed is None else {**tree, "seed": seed}


def _source_of(run_file: RunFile, arm: str | None) -> str:
    return run_file.source if arm is None else f"{run_file.source} [arms.{arm}]"


def load_run(path: Path, overrides: Sequence[tuple[str, str]] = ()) -> RunConfig:
    """Read, override and validate a run file without arms (with arms: its first arm)."""
    run_file = read_run_file(path, overrides)
    configs = [resolve(run_file, arm=arm) for arm in run_file.arms] or [resolve(run_file)]
    return configs[0]


def validate(tree: Mapping[str, object], *, source: str) -> RunConfig:
    """Validate a tree; every fault becomes one line naming the key, what came and what was wanted."""
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{source}: " + "; ".join(_fault(e) for e in error.errors())) from None


def merge(base: Mapping[str, object], over: Mapping[str, object]) -> Tree:
    """Lay one tree over another. A table whose `kind` or `name` changes replaces the old table whole."""
    merged: Tree = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            old_tree, new_tree = cast(Tree, old), cast(Tree, value)
            switches = any(tag in new_tree and new_tree[tag] != old_tree.get(tag) for tag in ("kind", "name", "source"))
            merged[key] = dict(new_tree) if switches else merge(old_tree, new_tree)
        else:
            merged[key] = value
    return merged


def dump(config: RunConfig) -> str:
    """Every value of every section that the run reads, as JSON text; `load_resolved` reads it back."""
    inert = OPTIONAL - config.reads
    return json.dumps(config.model_dump(mode="json", exclude=set(inert)), indent=2) + "\n"


def load_resolved(path: Path) -> RunConfig:
    """Read back what `dump` wrote."""
    try:
        return validate(cast(Tree, json.loads(path.read_text(encoding="utf-8"))), source=str(path))
    except (OSError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as a resolved run: {error}") from None


def _fault(error: Mapping[str, object]) -> str:
    where = ".".join(str(part) for part in cast("tuple[object, ...]", error["loc"]))
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return f"{where} is not a known key; `critique-rl keys` lists them all"
    return f"{where}: {message} (got {error['input']!r:.80})" if where else message


def _check_check(check: object, arms: Sequence[str], *, source: str) -> None:
    try:
        arm = CheckConfig.model_validate(check).arm
    except ValidationError as error:
        raise ConfigError(f"{source}: " + "; ".join(_fault(e) for e in error.errors())) from None
    if arm not in arms:
        raise ConfigError(f"{source}: there is no arm {arm!r}; the file has {', '.join(arms)}")


def _read_ablation(section: object, arms: Sequence[str], *, source: str) -> AblationConfig:
    try:
        ablation = AblationConfig.model_validate(section)
    except ValidationError as error:
        raise ConfigError("; ".join(f"{source}: {_fault(e)}" for e in error.errors())) from None
    unknown = [arm for arm in ablation.arms() if arm not in arms]
    if unknown:
        raise ConfigError(f"{source}: there is no arm {unknown[0]!r}; the file has {', '.join(arms)}")
    return ablation


def _put_all(tree: Tree, overrides: Sequence[tuple[str, str]]) -> None:
    for key, value in overrides:
        _put(tree, key, value)


def _put(tree: Tree, key: str, text: str) -> None:
    parts = key.split(".")
    node = tree
    for part in parts[:-1]:
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--{key}: {part!r} is a value, not a section")
        node = cast(Tree, child)
    try:
        node[parts[-1]] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        node[parts[-1]] = text
    if parts == ["critic"]:
        _spell_out_critic(tree)


def _spell_out_critic(tree: Tree) -> None:
    """A critic that is named in one line becomes a section, so that an override can change one key of it."""
    if isinstance(tree.get("critic"), str):
        tree["critic"] = critic_tree(tree["critic"])
