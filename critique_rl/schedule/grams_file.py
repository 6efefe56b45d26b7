"""Phrases as a JSON file: written by `critique-rl phases mine`, by hand, or the words of a published list.

    {"grams": ["let me try", "wait, but"]}

Owns: that form; further keys are left alone. Must not know: how phrases are found, runs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from critique_rl.errors import DataError
from critique_rl.stats.grams import Gram, gram_of

_FORM = 'wanted {"grams": ["a phrase", "another one"]}; `critique-rl phases mine` writes one'


def read_grams(path: Path) -> tuple[Gram, ...]:
    """The phrases of a file. Errors: DataError naming the file and the place."""
    try:
        tree: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}; {_FORM}") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON ({error.msg} on line {error.lineno}); {_FORM}") from None
    phrases = cast("dict[str, object]", tree).get("grams") if isinstance(tree, dict) else None
    if not isinstance(phrases, list) or not phrases:
        raise DataError(f"{path}: grams is {phrases!r:.80}; {_FORM}")
    return grams_of(cast("list[object]", phrases), where=str(path))


def grams_of(phrases: Sequence[object], *, where: str) -> tuple[Gram, ...]:
    """Phrases as words. Errors: DataError naming the place."""
    found: list[Gram] = []
    for place, phrase in enumerate(phrases):
        if not isinstance(phrase, str):
            raise DataError(f"{where}: grams[{place}] is {phrase!r:.80}; wanted a phrase in quotes")
        try:
            found.append(gram_of(phrase))
        except ValueError as error:
            raise DataError(f"{where}: grams[{place}]: {error}") from None
    return tuple(dict.fromkeys(found))
