"""Reads one JSON object key by key; a wrong value is one line: the place, the key, what came, what was wanted.

Owns: those checks and their wording. Must not know: which record the object describes. A key that is null counts as
left out, so that a column of a table may have gaps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn, TypeGuard, TypeVar, cast

from critique_rl.errors import DataError

Item = TypeVar("Item")


class Fields:
    """The keys of one object. `where` opens each message; `prefix` is the path of the object inside its row."""

    def __init__(self, value: Mapping[str, object], where: str, *, known: Sequence[str], prefix: str = "") -> None:
        """Raises DataError for a key that is not in `known`."""
        self._value = {key: item for key, item in value.items() if item is not None}
        self.where = where
        self._prefix = prefix
        unknown = next((key for key in value if key not in known), None)
        if unknown is not None:
            raise DataError(f"{where}: unknown key {prefix + unknown!r}; wanted only {', '.join(known)}")

    def __contains__(self, key: str) -> bool:
        return key in self._value

    def text(self, key: str, default: str | None = None, *, empty: bool = True) -> str:
        """A text; a whole number is taken as its digits. Without `default` it must be there."""
        value = self._value.get(key, default)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or (key in self and not empty and not value.strip()):
            self.refuse(key, "a text" if empty else "a text that is not empty")
        return value

    def optional_text(self, key: str) -> str | None:
        return self.text(key) if key in self else None

    def one_of(self, key: str, choices: Sequence[str], default: str) -> str:
        value = self.text(key, default)
        return value if value in choices else self.refuse(key, f"one of {', '.join(choices)}")

    def flag(self, key: str, default: bool) -> bool:
        value = self._value.get(key, default)
        return value if isinstance(value, bool) else self.refuse(key, "true or false")

    def integer(self, key: str, default: int) -> int:
        value = self._value.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            self.refuse(key, "a whole number >= 0")
        return value

    def optional_integer(self, key: str) -> int | None:
        return self.integer(key, 0) if key in self else None

    def number(self, key: str, default: float | None = None, *, low: float = 0.0, high: float = math.inf) -> float:
        """A finite number in [low, high]. Without `default` it must be there."""
        value = self._value.get(key, default)
        if not _is_number(value) or not low <= value <= high:
            self.refuse(key, f"a number from {low:g} to {high:g}" if high < math.inf else f"a number >= {low:g}")
        return float(value)

    def optional_number(self, key: str, *, low: float = 0.0, high: float = math.inf) -> float | None:
        return self.number(key, low=low, high=high) if key in self else None

    def integers(self, key: str) -> tuple[int, ...]:
        wanted = "a list of whole numbers >= 0"
        items = self._list(key, wanted)
        if not all(type(item) is int and item >= 0 for item in items):
            self.refuse(key, wanted)
        return tuple(cast("list[int]", items))

    def numbers(self, key: str) -> tuple[float, ...]:
        items = self._list(key, "a list of finite numbers")
        if not all(_is_number(item) for item in items):
            self.refuse(key, "a list of finite numbers")
        return tuple(float(item) for item in cast("list[float]", items))

    def objects(self, key: str, read: Callable[[Mapping[str, object], str], Item]) -> tuple[Item, ...]:
        """A list of objects, each read by `read(object, its path in the row)`."""
        items = self._list(key, "a list of objects")
        if not all(isinstance(item, Mapping) for item in items):
            self.refuse(key, "a list of objects")
        objects = cast("list[Mapping[str, object]]", items)
        return tuple(read(item, f"{self._prefix}{key}[{index}]") for index, item in enumerate(objects))

    def pairs(self, key: str) -> tuple[tuple[str, str], ...]:
        wanted = 'a list of pairs ["text", "reason"]'
        found: list[tuple[str, str]] = []
        for item in self._list(key, wanted):
            pair = cast("list[object]", item) if isinstance(item, (list, tuple)) else []
            if len(pair) != 2 or not all(isinstance(part, str) for part in pair):
                self.refuse(key, wanted)
            found.append((str(pair[0]), str(pair[1])))
        return tuple(found)

    def object(self, key: str) -> Mapping[str, object]:
        value = self._value.get(key, {})
        return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else self.refuse(key, "an object")

    def texts(self, key: str) -> dict[str, str]:
        """An object of texts; null entries, which tables make of missing ones, are left out."""
        found = {name: item for name, item in self.object(key).items() if item is not None}
        if not all(isinstance(item, str) for item in found.values()):
            self.refuse(key, "an object of texts")
        return {name: str(item) for name, item in found.items()}

    def refuse(self, key: str, wanted: str) -> NoReturn:
        """Raises DataError about `key`."""
        came = shown(self._value[key]) if key in self else "missing or null"
        raise DataError(f"{self.where}: {self._prefix}{key} is {came}; wanted {wanted}")

    def _list(self, key: str, wanted: str) -> list[object]:
        value = self._value.get(key, [])
        return cast("list[object]", value) if isinstance(value, list) else self.refuse(key, wanted)


def shown(value: object) -> str:
    """A value as JSON, cut to a length that fits a message."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def without_defaults(values: Mapping[str, object], defaults: tuple[object, ...]) -> dict[str, object]:
    """The entries whose value is none of `defaults`; 0 and False are values, not gaps."""
    return {
        key: value
        for key, value in values.items()
        if not any(type(value) is type(default) and value == default for default in defaults)
    }


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
