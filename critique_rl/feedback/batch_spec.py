"""What `critique-rl critique` is asked to do: a TOML file in `feedback/runs/`, or the same keys as flags.

Owns: the keys of a batch run and how overrides are laid over them. Must not know: rows, critics at work.
"""

from __future__ import annotations

import copy
import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, cast

from pydantic import Field, ValidationError, field_validator

from critique_rl.config.base import Strict
from critique_rl.config.critic import CriticConfig, NoCriticConfig
from critique_rl.errors import ConfigError

Tree = dict[str, object]
Shard = Annotated[str, Field(pattern=r"^[1-9]\d{0,4}/[1-9]\d{0,4}$")]


class BatchSpec(Strict):
    """One batch run over a file of rollouts."""

    rollouts: str = Field(min_length=1, description="a .jsonl or .parquet file, or hub:owner/name:split")
    out: str = Field(pattern=r"[^/\\]\.jsonl$", description="the feedback file; the run's other files lie beside it")
    critic: CriticConfig
    run: str = Field(default="", description='the run file whose policy answers, for critic.kind = "policy"')
    limit: int | None = Field(default=None, ge=1, description="only the first so many rows; may be raised later")
    shard: Shard | None = Field(default=None, description='"2/4": the second of four parts, by a hash of the row ids')
    retry_failed: bool = Field(default=False, description="ask again about malformed and refused rows, too")

    @field_validator("shard")
    @classmethod
    def _is_a_part(cls, value: str | None) -> str | None:
        if value is not None and int(value.split("/")[0]) > int(value.split("/")[1]):
            raise ValueError(f'{value!r} is no part of a whole: write the second of four as "2/4"')
        return value

    @field_validator("critic")
    @classmethod
    def _there_is_one(cls, value: CriticConfig) -> CriticConfig:
        if isinstance(value, NoCriticConfig):
            raise ValueError('kind = "none" gives no feedback: name a critic')
        return value

    @property
    def out_path(self) -> Path:
        return Path(self.out)

    def beside(self, ending: str) -> Path:
        """A file of the run beside its output: "failed.jsonl" -> FEEDBACK.failed.jsonl."""
        return self.out_path.with_suffix(f".{ending}")

    def takes(self, row_id: str) -> bool:
        """True if a row belongs to this run's shard; equal ids go to equal shards on every machine."""
        if self.shard is None:
            return True
        part, parts = (int(number) for number in self.shard.split("/"))
        return int.from_bytes(hashlib.sha256(row_id.encode()).digest()[:8], "big") % parts == part - 1


def read_batch_file(path: Path) -> Tree:
    """The tree of a batch spec. Raises ConfigError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"batch spec {str(path)!r} does not exist; give the path of a TOML file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"batch spec {str(path)!r} cannot be read: {error}") from None


def with_overrides(tree: Mapping[str, object], pairs: Sequence[tuple[str, str]]) -> Tree:
    """A tree with `--critic.KEY VALUE` pairs laid over it. Raises ConfigError for any other key."""
    result = copy.deepcopy(dict(tree))
    for key, text in pairs:
        section, _, name = key.partition(".")
        if section != "critic" or not name or "." in name:
            raise ConfigError(f"--{key}: only keys of the critic can be set this way, as --critic.KEY VALUE")
        critic = result.setdefault("critic", {})
        if not isinstance(critic, dict):
            raise ConfigError(f"--{key}: critic is {critic!r}; wanted a [critic] table")
        try:
            cast(Tree, critic)[name] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            cast(Tree, critic)[name] = text
    return result


def batch_spec(tree: Mapping[str, object], *, source: str) -> BatchSpec:
    """Validate a tree; every fault is named with its key. Raises ConfigError."""
    try:
        return BatchSpec.model_validate(tree)
    except ValidationError as error:
        faults = (_fault(found) for found in error.errors(include_url=False))
        raise ConfigError(f"{source}: " + "; ".join(faults)) from None


def _fault(error: Mapping[str, object]) -> str:
    where = ".".join(str(part) for part in cast("tuple[object, ...]", error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"{where} is not a known key; the keys are {', '.join(BatchSpec.model_fields)} and those of [critic]"
    if error["type"] == "missing":
        return f"{where} is missing"
    return f"{where}: {str(error['msg']).removeprefix('Value error, ')} (got {error['input']!r:.80})"
