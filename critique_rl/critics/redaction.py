"""Takes secrets out of text that came from outside, before it is logged, recorded or shown.

Owns: what counts as a secret in text. Must not know: where the text goes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_HIDDEN = "[redacted]"
_KEY_LIKE = re.compile(
    r"\b(?:sk|pk|rk|gsk|xai|hf|ghp|AIza)[-_][A-Za-z0-9_\-]{12,}|(?<=Bearer )[^\s\"']{8,}", re.IGNORECASE
)
_MAX_ERROR_CHARS = 300


class Redactor:
    """Replaces the given secrets, and anything shaped like a key. Its repr shows none of them."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._secrets = tuple(sorted((secret for secret in secrets if len(secret) >= 4), key=len, reverse=True))

    def text(self, text: str) -> str:
        """The whole text without secrets."""
        for secret in self._secrets:
            text = text.replace(secret, _HIDDEN)
        return _KEY_LIKE.sub(_HIDDEN, text)

    def line(self, text: str) -> str:
        """One line of at most 300 characters without secrets: for reasons and messages."""
        line = " ".join(self.text(text).split())
        return line if len(line) <= _MAX_ERROR_CHARS else line[: _MAX_ERROR_CHARS - 3] + "..."
