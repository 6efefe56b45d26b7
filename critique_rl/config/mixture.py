"""How several task sources are named and weighed in one run.

Owns: how a part's name stands before its tasks' ids and kinds, and where `share` is written. Must not know: any source.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

PART = ":"
"""Between a part's name and its tasks' own ids and kinds."""

PART_NAME = r"^[A-Za-z0-9._-]{1,40}$"


def in_part(name: str, own: str) -> str:
    """What an id or a kind is called in a mixture: NAME:OWN, or NAME alone where there is nothing to add."""
    return name if own in ("", name) else f"{name}{PART}{own}"


def part_of(kind: str) -> str:
    """The part that a kind of task belongs to."""
    return kind.partition(PART)[0]


def shares_apart(tree: object) -> object:
    """`of.NAME.share` moved to `shares.NAME`: a part is then a task section like any other. Raises ValueError if both
    are set to different numbers."""
    if not isinstance(tree, Mapping):
        return tree
    section = dict(cast("Mapping[str, object]", tree))
    parts, shares = section.get("of"), section.get("shares", {})
    if not isinstance(parts, Mapping) or not isinstance(shares, Mapping):
        return section
    found, left = dict(cast("Mapping[str, object]", shares)), dict[str, object]()
    for name, part in cast("Mapping[str, object]", parts).items():
        own = dict(cast("Mapping[str, object]", part)) if isinstance(part, Mapping) else part
        if isinstance(own, dict) and "share" in own:
            share = own.pop("share")
            if found.setdefault(name, share) != share:
                raise ValueError(f"of.{name}.share = {share!r} and shares.{name} = {found[name]!r}; set one of them")
        left[name] = own
    return {**section, "of": left, "shares": found}
