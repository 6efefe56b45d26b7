"""Several critiques of one attempt -> one: median scores, the majority's verdict, the directives that fit it.

Owns: the voting rules, and the reason for each directive that is left out. Must not know: how members are asked.
Only members that ended `ok` vote; an abstention is an answer, but no vote.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal, NamedTuple

from critique_rl.types import CriticOutcome, CriticRequest, Critique, Directive, Evaluative, Usage

ANSWERS = frozenset({CriticOutcome.OK, CriticOutcome.ABSTAINED})
OUTVOTED = "its critic's verdict disagrees with the panel's"
NEAR_DUPLICATE_JACCARD = 0.8
_REASON_CHARS = 160
_WORD = re.compile(r"\w+(?:'\w+)?")
_NEGATIONS = frozenset({"not", "no", "never", "none", "nothing", "without", "cannot"})
Verdict = Literal["correct", "incorrect"]


class Chosen(NamedTuple):
    """The panel's directives, and what was left out as (text, reason)."""

    directives: tuple[Directive, ...]
    dropped: tuple[tuple[str, str], ...]


def combine(
    request: CriticRequest, members: Sequence[Critique], *, critic: str, quorum: int, max_directives: int
) -> Critique:
    """The panel's critique. `quorum` members must have answered (ok or abstained); else it ends as the failure that
    most of the others ended as, and no score, verdict or directive of any member is passed on."""
    panel = Critique(
        rollout_id=request.rollout_id,
        critic=critic,
        outcome=CriticOutcome.ABSTAINED,
        usage=_total([member.usage for member in members]),
        latency_s=max(member.latency_s for member in members),
        asks=sum(member.asks for member in members),
        cached=all(member.cached for member in members),
        members=tuple(members),
    )
    answered = sum(member.outcome in ANSWERS for member in members)
    if answered < quorum:
        return replace(panel, outcome=_usual_failure(members), reason=_no_quorum(members, answered, quorum))
    voters = [member for member in members if member.outcome is CriticOutcome.OK]
    if not voters:
        return replace(panel, reason="no member had anything to say")
    verdict = majority([voter.verdict for voter in voters])
    chosen = choose(voters, verdict, max_directives=max_directives)
    refused = tuple(item for member in members for item in member.dropped)
    return replace(
        panel,
        outcome=CriticOutcome.OK,
        evaluative=medians(voters),
        directives=chosen.directives,
        verdict=verdict,
        dropped=refused + chosen.dropped,
    )


def medians(voters: Sequence[Critique]) -> tuple[Evaluative, ...]:
    """Per criterion the median value; its confidence is the share of voters that scored it, times the median of the
    confidences that they stated (None if none did)."""
    scores: dict[str, list[Evaluative]] = {}
    for voter in voters:
        for score in voter.evaluative:
            scores.setdefault(score.criterion, []).append(score)
    return tuple(
        Evaluative(
            criterion=criterion,
            value=median(score.value for score in given),
            confidence=_confidence(given, share=len(given) / len(voters)),
        )
        for criterion, given in scores.items()
    )


def majority(verdicts: Sequence[Verdict | None]) -> Verdict | None:
    """The verdict that more voters state than state the other; None for a tie."""
    lead = verdicts.count("correct") - verdicts.count("incorrect")
    if lead == 0:
        return None
    return "correct" if lead > 0 else "incorrect"


def choose(voters: Sequence[Critique], verdict: Verdict | None, *, max_directives: int) -> Chosen:
    """Directives of the voters whose verdict does not contradict `verdict`, said once each, the most supported first,
    then in the voters' order. Of directives that say the same, or nearly, the one that more voters say stays."""
    dropped: list[tuple[str, str]] = []
    said: dict[tuple[str, ...], _Said] = {}
    for voter in voters:
        outvoted = verdict is not None and voter.verdict is not None and voter.verdict != verdict
        for directive in voter.directives:
            if outvoted:
                dropped.append((directive.text, OUTVOTED))
                continue
            words = tuple(_WORD.findall(directive.text.casefold()))
            known = said.setdefault(words, _Said(directive=replace(directive, critic=voter.critic), supporters={}))
            if known.supporters:
                dropped.append((directive.text, f"repeats a directive of {known.directive.critic}"))
            known.supporters[voter.critic] = None
    kept: dict[tuple[str, ...], _Said] = {}
    # The sort is stable: equal support keeps the voters' order.
    for words, one in sorted(said.items(), key=lambda item: -len(item[1].supporters)):
        near = next((other for known, other in kept.items() if nearly_equal(words, known)), None)
        if near is None:
            kept[words] = one
            continue
        near.supporters.update(one.supporters)
        dropped.append((one.directive.text, f"nearly repeats a directive of {near.directive.critic}"))
    ranked = sorted((words for words in said if words in kept), key=lambda words: -len(kept[words].supporters))
    directives = [kept[words].directive for words in ranked]
    beyond = f"is beyond the first {max_directives} directives"
    dropped.extend((directive.text, beyond) for directive in directives[max_directives:])
    return Chosen(directives=tuple(directives[:max_directives]), dropped=tuple(dropped))


def nearly_equal(first: Sequence[str], second: Sequence[str]) -> bool:
    """True if two directives share 0.8 of their words (Jaccard) and differ in no number and no negation: those few
    letters turn what a directive says round."""
    a, b = set(first), set(second)
    if any(word in _NEGATIONS or word.endswith("n't") or any(c.isdigit() for c in word) for word in a ^ b):
        return False
    return len(a & b) >= NEAR_DUPLICATE_JACCARD * len(a | b)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """A directive as its first voter worded it; the keys of `supporters` are all who said it."""

    directive: Directive
    supporters: dict[str, None]


def _confidence(given: Sequence[Evaluative], *, share: float) -> float | None:
    stated = [score.confidence for score in given if score.confidence is not None]
    return share * median(stated) if stated else None


def _total(usages: Sequence[Usage]) -> Usage:
    costs = [usage.cost_usd for usage in usages if usage.cost_usd is not None]
    return Usage(
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        cost_usd=sum(costs) if len(costs) == len(usages) else None,
    )


def _usual_failure(members: Sequence[Critique]) -> CriticOutcome:
    """The most frequent failure; among equally frequent ones the first in the order of CriticOutcome."""
    ends = Counter(member.outcome for member in members if member.outcome not in ANSWERS)
    return max((outcome for outcome in CriticOutcome if outcome in ends), key=lambda outcome: ends[outcome])


def _no_quorum(members: Sequence[Critique], answered: int, quorum: int) -> str:
    ends = "; ".join(
        f"{member.critic}: {member.outcome}" + (f" ({member.reason[:_REASON_CHARS]})" if member.reason else "")
        for member in members
    )
    return f"{quorum} of {len(members)} members had to answer and {answered} did: {ends}"
