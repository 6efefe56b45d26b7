"""How an answer is read out of a completion: the whole text, or the last match of a pattern's one group.

Owns: reading. Must not know: whether what was read is right.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from critique_rl.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerForm:
    """`regex` is None for "the whole text"; `shown` is how the form is named to critics and readers."""

    regex: re.Pattern[str] | None
    shown: str

    @classmethod
    def of(cls, pattern: str | None, form: str = "") -> AnswerForm:
        """Compile `pattern`; `form` is what it looks like to a reader. Errors: ConfigError."""
        if pattern is None:
            return cls(regex=None, shown="")
        regex = compile_pattern(pattern)
        if regex.groups != 1:
            raise ConfigError(f"pattern {pattern!r} has {regex.groups} groups; wanted exactly one, round the answer")
        return cls(regex=regex, shown=form or pattern)

    def read(self, text: str) -> str | None:
        """The answer without white space at its ends, or None if there is none."""
        if self.regex is None:
            return text.strip() or None
        found: str | None = None
        for match in self.regex.finditer(text):
            group: str | None = match.group(1)
            found = found if group is None else group.strip()
        return found or None

    @property
    def missing(self) -> str:
        """What to tell a critic when nothing could be read."""
        return "the answer is empty" if self.regex is None else f"no answer in the form {self.shown} found"


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """`re.compile` with an error for users. Errors: ConfigError."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"pattern {pattern!r} is not a regular expression: {error}") from None
