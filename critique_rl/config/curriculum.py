"""A run file with one stage a task: the order of a curriculum as text.

Owns: the `[[stage]]` tables that are written behind a file. Must not know: how the order was found.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from typing import cast

from critique_rl.config.stages import STAGE
from critique_rl.errors import ConfigError

Json = dict[str, object]


def with_stages(text: str, order: Sequence[str], *, replay_fraction: float = 0.0, note: str = "") -> str:
    """A run file's text with one `[[stage]]` a task behind it, in this order.

    `replay_fraction` of each batch goes, in equal parts, to the tasks of earlier stages. A token budget of the file is
    that of all stages; each gets an equal part. Errors: ConfigError for a file that cannot have them.
    """
    if not 0 <= replay_fraction < 1:
        raise ConfigError(f"replay_fraction = {replay_fraction:g}; wanted a share from 0 to below 1")
    tree = cast(Json, tomllib.loads(text))
    tasks = tree.get("tasks", {})
    section = cast(Json, tasks) if isinstance(tasks, dict) else {}
    of = section.get("of", {})
    parts = set(cast(Json, of)) if section.get("kind") == "mixture" and isinstance(of, dict) else set[str]()
    if STAGE in tree:
        raise ConfigError("the run file has stages already; take the [[stage]] tables out, or give another file")
    if parts != set(order):
        raise ConfigError(
            f"the order has {', '.join(order)}, and the run file's mixture {', '.join(sorted(parts)) or 'none'}"
        )
    whole = cast(Json, tree.get("budget", {})).get("max_generated_tokens")
    where = "shares" if "shares" in section else "of"
    lines = [text.rstrip("\n"), *([f"\n# {note}"] if note else [])]
    for at, name in enumerate(order):
        earlier = order[:at] if replay_fraction else ()
        lines += ["\n[[stage]]", f"name = {json.dumps(name)}", "\n[stage.tasks]"]
        lines.append(f"only = {json.dumps([name, *earlier])}")
        shares = {name: 1.0 - replay_fraction, **dict.fromkeys(earlier, replay_fraction / max(1, at))}
        for other, share in shares.items() if earlier else ():
            key = f"shares.{json.dumps(other)}" if where == "shares" else f"of.{json.dumps(other)}.share"
            lines.append(f"{key} = {share:.6g}")
        if isinstance(whole, int):
            lines += ["\n[stage.budget]", f"max_generated_tokens = {whole // len(order)}"]
    return "\n".join(lines) + "\n"
