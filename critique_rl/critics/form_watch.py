"""Whether a server keeps to the reply form that it accepted.

Owns: the counts of the parse ladder's rungs and the one warning. Must not know: how replies are asked for.
"""

from __future__ import annotations

import logging
from collections import Counter

from critique_rl.critics.completion import ChatReply
from critique_rl.types import CriticOutcome, Critique

_LOG = logging.getLogger(__name__)
_REPLIES_UNTIL_WARNING = 8


class FormWatch:
    """Counts the rungs that replies were found on, and warns once of a server that takes a schema and ignores it."""

    def __init__(self, name: str) -> None:
        self.counts: Counter[str] = Counter()
        self._name = name
        self._constrained = 0

    def note(self, critique: Critique, answer: ChatReply) -> None:
        self.counts[critique.parse_form or "none"] += 1
        if answer.form != "json_schema" or self._constrained < 0:
            return
        # A reply that was cut off while it kept to the schema begins like one.
        cut_json = answer.finish_reason == "length" and answer.text.lstrip().startswith("{")
        if critique.parse_form == "json" or cut_json or critique.outcome is CriticOutcome.REFUSED:
            self._constrained = -1
            return
        self._constrained += 1
        if self._constrained == _REPLIES_UNTIL_WARNING:
            self._constrained = -1
            _LOG.warning(
                "%s: the server took a JSON schema, but none of its first %d replies was JSON alone: it may ignore "
                'structured_output; set it to "text" to ask for tags instead',
                self._name,
                _REPLIES_UNTIL_WARNING,
            )
