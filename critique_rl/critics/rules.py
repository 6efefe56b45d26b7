"""The critic by regular expressions: for tasks whose form can be checked, with no model.

Owns: what a passed and a failed rule say. Must not know: prompts, networks, the reference answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from critique_rl.config.critic import RuleConfig, RulesCriticConfig
from critique_rl.critics.base import ReplyContext, read_reply
from critique_rl.feedback.split import DirectiveFilter
from critique_rl.types import CriticRequest, Critique, Usage

_FREE = Usage(cost_usd=0.0)
_ANY_LENGTH = DirectiveFilter(min_chars=1, max_chars=2_000, max_directives=16)


def rules_critic(config: RulesCriticConfig) -> RegexRuleCritic:
    """The critic that a `rules` section describes."""
    return RegexRuleCritic(config.rules, name=config.name)


class RegexRuleCritic:
    """Scores 1 for each rule whose pattern occurs in the attempt and 0 for each other, whose directive it then says.

    A failed rule proves an attempt wrong; passing all of them proves nothing, so the verdict is then None.
    """

    def __init__(self, rules: Sequence[RuleConfig], *, name: str = "rules") -> None:
        self.name = name
        self._rules = tuple((rule, re.compile(rule.pattern)) for rule in rules)

    def review(self, requests: Sequence[CriticRequest]) -> list[Critique]:
        """One critique a request; equal attempts get equal words."""
        return [self._review_one(request) for request in requests]

    def close(self) -> None:
        """Nothing to release."""

    def _review_one(self, request: CriticRequest) -> Critique:
        passed = {rule.criterion: pattern.search(request.attempt) is not None for rule, pattern in self._rules}
        broken = [rule for rule, _ in self._rules if not passed[rule.criterion]]
        reply = {
            "directives": [{"quote": None, "kind": rule.kind, "text": rule.directive} for rule in broken],
            "scores": {criterion: float(ok) for criterion, ok in passed.items()},
            "verdict": "incorrect" if broken else None,
        }
        return read_reply(json.dumps(reply), request, ReplyContext(critic=self.name, bounds=_ANY_LENGTH, usage=_FREE))
