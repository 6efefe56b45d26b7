"""Finds the top-level `prompts/` and `feedback/` folders, in a checkout or in an installed wheel.

Owns: where words on disk live. Must not know: what is in them.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def prompts_dir() -> Path:
    """Folder of prompt templates. Raises FileNotFoundError if neither the wheel's nor the checkout's folder exists."""
    return _find("prompts")


def feedback_dir() -> Path:
    """Folder of the reply schema and recorded exchanges. Raises FileNotFoundError like `prompts_dir`."""
    return _find("feedback")


def _find(name: str) -> Path:
    """A wheel maps `name/` to `critique_rl/_name/`; a checkout keeps it beside the package."""
    places = (_PACKAGE / f"_{name}", _PACKAGE.parent / name)
    for place in places:
        if place.is_dir():
            return place
    raise FileNotFoundError(
        f"{name}/ is neither at {places[0]} (installed) nor at {places[1]} (checkout): reinstall critique-rl"
    )
