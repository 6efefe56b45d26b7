"""Rules as a critic."""

from __future__ import annotations

from collections.abc import Callable

from critique_rl.config.critic import RuleConfig, RulesCriticConfig
from critique_rl.critics.rules import rules_critic
from critique_rl.types import CriticOutcome, CriticRequest

CONFIG = RulesCriticConfig(
    kind="rules",
    rules=(
        RuleConfig(
            criterion="brackets", pattern=r"\[\[.+\]\]", directive="Write the answer between [[ and ]], like [[x]]."
        ),
        RuleConfig(criterion="brief", pattern=r"\A.{0,40}\Z", directive="Say it in at most 40 characters."),
    ),
)


def test_each_broken_rule_scores_zero_and_says_its_directive(make_request: Callable[..., CriticRequest]) -> None:
    critic = rules_critic(CONFIG)
    good, bare, both = critic.review(
        [make_request(1, "[[42]]"), make_request(2, "42"), make_request(3, "well, " * 10 + "42")]
    )
    critic.close()
    assert [(item.criterion, item.value) for item in good.evaluative] == [("brackets", 1.0), ("brief", 1.0)]
    assert (good.outcome, good.directives, good.verdict) == (CriticOutcome.OK, (), None)
    assert [item.value for item in bare.evaluative] == [0.0, 1.0]
    assert bare.directive_text == "Write the answer between [[ and ]], like [[x]]."
    assert (bare.verdict, bare.directives[0].kind) == ("incorrect", "format")
    assert [item.value for item in both.evaluative] == [0.0, 0.0]
    assert len(both.directives) == 2
    assert critic.review([make_request(2, "42")])[0] == bare
