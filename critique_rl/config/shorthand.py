"""One line of text -> the tree of a [critic] section, so that a critic needs no table of its own.

Owns: the forms that such a line may take. Must not know: a section's options, or any critic.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from critique_rl.errors import ConfigError

Tree = dict[str, object]

FORMS = (
    '"none", "policy", "lab_rules", "lab_school_rules", "PROVIDER/MODEL" as LiteLLM spells it, '
    '"MODEL@http://HOST:PORT/v1", '
    '"FILE.jsonl" of recorded exchanges, "FILE.py" or "FILE.py:FUNCTION", "FILE.toml" with a [critic] table'
)
_BY_NAME = frozenset({"none", "policy", "lab_rules", "lab_school_rules"})
_SERVED = re.compile(r"(?:(?P<model>.+?)@)?(?P<url>https?://.*)")
_USER_IN_URL = re.compile(r"https?://[^/?#]*@")
_PYTHON = re.compile(r"(?P<path>.+\.py)(?::(?P<function>.*))?")
_PROVIDER = re.compile(r"[A-Za-z][A-Za-z0-9_-]*/[^\s/]\S*")


def critic_tree(value: object) -> object:
    """What stands under `critic` as a table: a line is expanded, a table without `kind` gets the one that its keys
    imply, anything else is left for the config to judge. Raises ConfigError for a line of no known form."""
    if isinstance(value, str):
        return critic_from_text(value)
    if not isinstance(value, Mapping):
        return value
    tree = dict(cast(Mapping[str, object], value))
    if "kind" not in tree:
        implied = {"members": "panel", "base_url": "openai", "model": "litellm"}
        kind = next((kind for key, kind in implied.items() if key in tree), None)
        if kind is None:
            return tree
        tree = {"kind": kind, **tree}
    members = tree.get("members")
    if tree["kind"] == "panel" and isinstance(members, list | tuple):
        tree["members"] = [critic_tree(member) for member in cast("list[object]", members)]
    return tree


def critic_from_text(text: str) -> Tree:
    """The [critic] section that one line stands for. Raises ConfigError that lists the forms, or names the bad file."""
    line = text.strip()
    if line in _BY_NAME:
        return {"kind": line}
    # The line itself stays out of this message: it may hold a password.
    if _USER_IN_URL.search(line):
        raise ConfigError("critic: the address holds a user or a key before '@': take it out and set api_key_env")
    if served := _SERVED.fullmatch(line):
        return _served(line, served["model"], served["url"])
    if line.endswith(".jsonl"):
        return {"kind": "recorded", "path": line}
    if line.endswith(".toml"):
        return _from_file(line)
    if python := _PYTHON.fullmatch(line):
        return _python(line, python["path"], python["function"])
    if _PROVIDER.fullmatch(line):
        return {"kind": "litellm", "model": line}
    raise ConfigError(f"critic = {text!r} is no critic: write one of {FORMS}")


def _served(line: str, model: str | None, url: str) -> Tree:
    if model is None or re.search(r"\s", line):
        raise ConfigError(
            f'critic = {line!r}: an address needs a model before it and no spaces: write "MODEL@http://HOST:PORT/v1"'
        )
    return {"kind": "openai", "model": model, "base_url": url}


def _python(line: str, path: str, function: str | None) -> Tree:
    if function is None:
        return {"kind": "python", "path": path}
    if not function.isidentifier():
        raise ConfigError(f'critic = {line!r}: {function!r} cannot name a function: write "FILE.py:FUNCTION"')
    return {"kind": "python", "path": path, "function": function}


def _from_file(name: str) -> Tree:
    path = Path(name).expanduser()
    try:
        tree: Tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"critic = {name!r}: the file does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"critic = {name!r}: the file cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"critic = {name!r}: the file is not valid TOML: {error}") from None
    if "critic" not in tree:
        raise ConfigError(f"critic = {name!r}: the file has no [critic] table: give it one")
    critic = tree["critic"]
    if isinstance(critic, str) and critic.strip().endswith(".toml"):
        raise ConfigError(f"critic = {name!r}: its critic is {critic!r}, another file: give that file itself")
    found = critic_tree(critic)
    if not isinstance(found, dict):
        raise ConfigError(f"critic = {name!r}: its critic is {critic!r}: a [critic] table was wanted")
    return cast(Tree, found)
