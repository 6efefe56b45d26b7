"""FEEDBACK.run.json: what a batch run was asked to do and how far it came; no key, no password, no query of an address.

Owns: the record's fields, and which changes between two runs into one output are refused.
Must not know: how rows are asked about.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, cast
from urllib.parse import urlsplit

from pydantic import BaseModel, TypeAdapter, ValidationError

from critique_rl.errors import ConfigError, DataError
from critique_rl.feedback.journal import replace_text

FORMAT = 1
State = Literal["running", "interrupted", "stopped", "complete"]
FREE_KEYS = frozenset(
    {
        *("timeout_s", "stage_deadline_s", "late_steps", "max_in_flight", "requests_per_minute", "tokens_per_minute"),
        *("hedge_after_s", "parse_retries", "length_retries", "reasks", "cache", "max_attempts", "retry_after_cap_s"),
        *("max_calls", "max_total_tokens", "max_cost_usd", "api_key_env", "allow_insecure"),
        *("usd_per_million_prompt_tokens", "usd_per_million_completion_tokens", "batch_price_factor"),
    }
)
"""Keys of a critic that shape no reply: they may change when a run goes on."""
_PACKAGES = ("critique-rl", "openai", "litellm", "pydantic")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpentRecord:
    """Calls that were answered, their tokens, their known price; `unpriced` counts answers without one."""

    calls: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    unpriced: int = 0

    def plus(self, other: SpentRecord) -> SpentRecord:
        return SpentRecord(
            calls=self.calls + other.calls,
            tokens=self.tokens + other.tokens,
            cost_usd=self.cost_usd + other.cost_usd,
            unpriced=self.unpriced + other.unpriced,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One batch run. `set_aside` is what replies that are no longer in the output have used, per critic."""

    critic: Mapping[str, object]
    prompt_hashes: tuple[str, ...]
    source: str
    sha256: str
    input_rows: int
    shard: str | None = None
    limit: int | None = None
    state: State = "running"
    rows: int = 0
    pending: int = 0
    outcomes: Mapping[str, int] = field(default_factory=dict[str, int])
    spent: Mapping[str, SpentRecord] = field(default_factory=dict[str, SpentRecord])
    set_aside: Mapping[str, SpentRecord] = field(default_factory=dict[str, SpentRecord])
    started: str = ""
    updated: str = ""
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    format: int = FORMAT

    def save(self, path: Path) -> None:
        """Replace the file at once. Raises OSError."""
        replace_text(path, json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


_RECORD = TypeAdapter(RunRecord)


def load_record(path: Path) -> RunRecord | None:
    """The record of an earlier run, or None if there is none. Raises DataError."""
    try:
        record = _RECORD.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise DataError(
            f"{path}: not the record of a batch run ({type(error).__name__}); choose another --out"
        ) from None
    if record.format != FORMAT:
        raise DataError(f"{path}: format {record.format}; this program writes {FORMAT}: choose another --out")
    return record


def check_same_run(earlier: RunRecord, now: RunRecord, *, out: Path) -> None:
    """Refuse to go on with another critic, prompt, input or shard. Raises ConfigError naming what differs."""
    way_out = "use the earlier one, or choose another --out (answers paid for can be kept: --critic.cache FILE)"
    if earlier.sha256 != now.sha256:
        raise ConfigError(
            f"{out}: it was begun from other content of {earlier.source!r} (now {now.source!r}): give back that file, "
            "or choose another --out"
        )
    if earlier.shard != now.shard:
        raise ConfigError(
            f"{out}: it was begun with shard {earlier.shard}, not {now.shard}: each shard has its own --out"
        )
    before, after = _shaping(earlier.critic), _shaping(now.critic)
    if before != after:
        key = next(key for key in [*before, *after] if before.get(key) != after.get(key))
        raise ConfigError(
            f"{out}: it was begun with critic.{key} = {before.get(key)!r}, not {after.get(key)!r}: {way_out}"
        )
    if earlier.prompt_hashes != now.prompt_hashes:
        raise ConfigError(f"{out}: the critic's prompt or Python file has changed since it was begun: {way_out}")


def public_config(config: BaseModel) -> dict[str, object]:
    """A critic section without what an address may hold beside host, port and path."""
    return cast("dict[str, object]", _public(config.model_dump(mode="json")))


def versions() -> dict[str, str]:
    """Versions of what shapes a run, by package."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _shaping(critic: Mapping[str, object]) -> dict[str, object]:
    members = critic.get("members")
    shaping = {key: value for key, value in critic.items() if key not in FREE_KEYS}
    if isinstance(members, (list, tuple)):
        shaping["members"] = [_shaping(member) for member in cast("list[Mapping[str, object]]", members)]
    return shaping


def _public(value: object) -> object:
    if isinstance(value, dict):
        tree = cast("dict[str, object]", value)
        return {key: _address(item) if key == "base_url" else _public(item) for key, item in tree.items()}
    if isinstance(value, list):
        return [_public(item) for item in cast("list[object]", value)]
    return value


def _address(value: object) -> object:
    if not isinstance(value, str):
        return value
    parts = urlsplit(value)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"
