"""Which format an answer is written in: ordered rules, the first that holds, and `other` for the rest.

Owns: the default rules and why each is anchored: a bare substring such as "def" would find code in "definitely". Must
not know: shares, rewards, alerts. Formats exclude each other, and every text has one.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from critique_rl.config.monitors import OTHER


class Classifier(Protocol):
    """Names the format of texts; what it has learned from the first ones is plain JSON."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every format it can name, in order, `other` last."""
        ...

    def fit(self, texts: Sequence[str]) -> None:
        """Learn what formats there are, once; later calls change nothing."""
        ...

    def label(self, texts: Sequence[str]) -> list[str]: ...

    def state_dict(self) -> dict[str, object]: ...

    def load_state_dict(self, state: Mapping[str, object]) -> None: ...


class Detector(NamedTuple):
    """A format's name, and whether a text is in it."""

    name: str
    matches: Callable[[str], bool]


class Rules:
    """The first detector that holds names the format."""

    def __init__(self, detectors: Sequence[Detector]) -> None:
        self._detectors = tuple(detectors)
        self.names = (*(detector.name for detector in detectors), OTHER)

    def fit(self, texts: Sequence[str]) -> None:
        """Nothing: rules are known before any text."""

    def label(self, texts: Sequence[str]) -> list[str]:
        known = {text: self._of(text) for text in set(texts)}
        return [known[text] for text in texts]

    def _of(self, text: str) -> str:
        return next((detector.name for detector in self._detectors if detector.matches(text)), OTHER)

    def state_dict(self) -> dict[str, object]:
        return {}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Nothing to restore."""


def by_patterns(patterns: Mapping[str, str]) -> list[Detector]:
    """A detector for each regular expression, searched for with ^ and $ at every line."""
    return [Detector(name, _found(pattern)) for name, pattern in patterns.items()]


_TOOL_TAG = r"^[ \t]*<(?:tool_call|function_call|tool|search|python|llm-code|execute)\b[^>\n]*>"


def default_detectors() -> list[Detector]:
    """The formats that models are seen to drift between, the most specific first."""
    return [
        Detector("empty", _is_empty),
        Detector("degenerate", _repeats),
        Detector("tool_tag", _found(_TOOL_TAG)),
        Detector("think_tag", _found(r"^[ \t]*<(?:think|thinking|thought|reasoning|scratchpad)>")),
        Detector("fenced_code", _found(r"^[ \t]*(?:```|~~~)[\w+-]*[ \t]*$")),
        Detector("python_function", _found(r"^[ \t]*(?:async[ \t]+)?def[ \t]+[A-Za-z_]\w*[ \t]*\([^\n]*$")),
        Detector("mixed_scripts", _mixes_scripts),
        Detector("boxed", _found(r"\\(?:boxed|fbox)[ \t]*\{")),
        Detector("table", _found(r"^[ \t]*\|[^\n]*\|[ \t]*\n[ \t]*\|[ \t:|-]*-[ \t:|-]*\|[ \t]*$")),
        Detector("numbered_steps", _lines(r"^[ \t]*(?:\*\*)?(?:step[ \t]*)?\d{1,3}[.):][ \t]+\S", least=2)),
        Detector("list", _lines(r"^[ \t]*[-*\u2022+][ \t]+\S", least=2)),
    ]


def _is_empty(text: str) -> bool:
    return not text.strip()


def _found(pattern: str) -> Callable[[str], bool]:
    search = re.compile(pattern, re.MULTILINE).search
    return lambda text: search(text) is not None


def _lines(pattern: str, *, least: int) -> Callable[[str], bool]:
    """Whether at least so many lines begin like this: one alone may be "3. of May" or a minus sign."""
    expression = re.compile(pattern, re.MULTILINE | re.IGNORECASE)
    return lambda text: sum(1 for _ in expression.finditer(text)) >= least


_REPEATING = 200
"""Characters below which a text is too short to be called repetitive."""
_COMPRESSED = 0.12
"""zlib makes prose about 0.4 of its size and one phrase over and over less than 0.1 (ours, no published evidence)."""


def _repeats(text: str) -> bool:
    if len(text) < _REPEATING:
        return False
    raw = text.encode("utf-8", "surrogatepass")
    return len(zlib.compress(raw)) / len(raw) < _COMPRESSED


_SCRIPTS = (
    ("latin", re.compile(r"[A-Za-z\u00c0-\u024f]")),
    ("cyrillic", re.compile(r"[\u0400-\u052f]")),
    ("arabic", re.compile(r"[\u0600-\u06ff]")),
    ("devanagari", re.compile(r"[\u0900-\u097f]")),
    ("east_asian", re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]")),
)
_SECOND_SCRIPT = 0.05
_SECOND_LETTERS = 5


def _mixes_scripts(text: str) -> bool:
    """Whether a second script has a share of the letters that a name or a symbol does not explain."""
    if text.isascii():
        return False
    counts = sorted((len(pattern.findall(text)) for _, pattern in _SCRIPTS), reverse=True)
    return counts[1] >= _SECOND_LETTERS and counts[1] >= _SECOND_SCRIPT * sum(counts)
