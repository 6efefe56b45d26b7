"""Takes secrets out of text that came from outside, before it is logged, recorded or shown.

Owns: what counts as a secret in text. Must not know: where the text goes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

_HIDDEN = "[redacted]"
_KEY_LIKE = re.compile(
    r"\b(?:sk|pk|rk|gsk|xai|hf|r8|fw|tgp|nvapi|pplx|csk)[-_][A-Za-z0-9_\-]{12,}"
    r"|\bgh[opusr]_[A-Za-z0-9]{12,}|\bgithub_pat_\w{12,}|\bxox[abeoprs]-[A-Za-z0-9-]{8,}"
    r"|\bAIza[A-Za-z0-9_\-]{12,}|\b(?:AKIA|ASIA)[A-Z0-9]{12,}"
    r"|\beyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}(?:\.[A-Za-z0-9_\-]*)?"
    # A run of forty or more with capitals, small letters and digits is a key; a lower-case hash is a record's name.
    r"|(?<![A-Za-z0-9])(?=[a-z0-9]*[A-Z])(?=[A-Z0-9]*[a-z])(?=[A-Za-z]*[0-9])[A-Za-z0-9]{40,}",
)
_AFTER_NAME = re.compile(
    r"\b(Bearer|Basic)\s+[^\s\"',;]{8,}"
    r"|\b((?:x-)?api[-_ ]?key|access[-_]?token|auth[-_]?token|client[-_]?secret|password)"
    r"([\"']?\s{0,2}[:=]\s{0,2}[\"']?)[^\s\"',;]{6,}",
    re.IGNORECASE,
)
_USER_INFO = re.compile(r"(?<=://)[^\s/@\"']{1,200}@")
_MAX_ERROR_CHARS = 300


class Redactor:
    """Replaces the given secrets, and anything shaped like a key. Its repr shows none of them."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._secrets = tuple(sorted((secret for secret in secrets if len(secret) >= 4), key=len, reverse=True))

    def __repr__(self) -> str:
        return f"Redactor({len(self._secrets)} secrets)"

    def text(self, text: str) -> str:
        """The whole text without secrets."""
        for secret in self._secrets:
            text = text.replace(secret, _HIDDEN)
        text = _USER_INFO.sub(f"{_HIDDEN}@", _KEY_LIKE.sub(_HIDDEN, text))
        return _AFTER_NAME.sub(_hide_value, text)

    def line(self, text: str) -> str:
        """One line of at most 300 characters without secrets: for reasons and messages."""
        line = " ".join(self.text(text).split())
        return line if len(line) <= _MAX_ERROR_CHARS else line[: _MAX_ERROR_CHARS - 3] + "..."


def keys_in_environment() -> list[str]:
    """LiteLLM picks keys from the environment by itself, so all that look like keys are taken out of what it says."""
    return [value for name, value in os.environ.items() if name.endswith(("_API_KEY", "_TOKEN", "_SECRET")) and value]


def _hide_value(match: re.Match[str]) -> str:
    return f"{match[1]} {_HIDDEN}" if match[1] else f"{match[2]}{match[3]}{_HIDDEN}"
