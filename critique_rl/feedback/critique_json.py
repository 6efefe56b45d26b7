"""A critique as a JSON object, as it stands under "feedback" in a row.

Owns: the keys and their defaults. Must not know: rollouts, files, where feedback is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast, get_args

from critique_rl.feedback.fields import Fields, without_defaults
from critique_rl.feedback.schema import DirectiveKind
from critique_rl.types import CriticOutcome, Critique, Directive, Evaluative, Usage

FEEDBACK_KEYS = (
    *("critic", "outcome", "scores", "directives", "verdict", "dropped", "reply", "reason", "prompt_hash", "usage"),
    *("latency_s", "parse_form", "asks", "cached", "members"),
)


def critique_from_json(value: Mapping[str, object], where: str, *, path: str, rollout_id: str) -> Critique:
    """One object as a critique; `path` is where it stands in its row. Raises DataError."""
    fields = Fields(value, where, known=FEEDBACK_KEYS, prefix=f"{path}.")
    critic = fields.text("critic", empty=False)
    outcome = CriticOutcome(fields.one_of("outcome", [outcome.value for outcome in CriticOutcome], "ok"))
    if outcome is CriticOutcome.OK and "directives" not in fields and "scores" not in fields:
        fields.refuse("directives", 'directives or scores, such as [{"text": "Carry the one."}]')
    verdict = fields.one_of("verdict", ("correct", "incorrect"), "") if "verdict" in fields else None
    usage = Fields(
        fields.object("usage"), where, known=("prompt_tokens", "completion_tokens", "cost_usd"), prefix=f"{path}.usage."
    )
    return Critique(
        rollout_id=rollout_id,
        critic=critic,
        outcome=outcome,
        evaluative=fields.objects("scores", lambda item, at: _evaluative(item, where, at)),
        directives=fields.objects("directives", lambda item, at: _directive(item, where, at, critic)),
        verdict=cast('Literal["correct", "incorrect"] | None', verdict),
        dropped=fields.pairs("dropped"),
        reply=fields.text("reply", ""),
        reason=fields.text("reason", ""),
        prompt_hash=fields.text("prompt_hash", ""),
        usage=Usage(
            prompt_tokens=usage.integer("prompt_tokens", 0),
            completion_tokens=usage.integer("completion_tokens", 0),
            cost_usd=usage.optional_number("cost_usd"),
        ),
        latency_s=fields.number("latency_s", 0.0),
        parse_form=fields.text("parse_form", ""),
        asks=fields.integer("asks", 1),
        cached=fields.flag("cached", False),
        members=fields.objects(
            "members", lambda item, at: critique_from_json(item, where, path=at, rollout_id=rollout_id)
        ),
    )


def _evaluative(value: Mapping[str, object], where: str, path: str) -> Evaluative:
    fields = Fields(value, where, known=("criterion", "value", "confidence"), prefix=f"{path}.")
    return Evaluative(
        criterion=fields.text("criterion", empty=False),
        value=fields.number("value", high=1.0),
        confidence=fields.optional_number("confidence", high=1.0),
    )


def _directive(value: Mapping[str, object], where: str, path: str, critic: str) -> Directive:
    fields = Fields(value, where, known=("text", "kind", "quote", "turn", "span", "critic"), prefix=f"{path}.")
    span = fields.integers("span")
    if span and (len(span) != 2 or span[0] > span[1]):
        fields.refuse("span", "two character offsets [start, end)")
    return Directive(
        text=fields.text("text", empty=False),
        kind=fields.one_of("kind", get_args(DirectiveKind), "procedure"),
        quote=fields.optional_text("quote"),
        span=(span[0], span[1]) if span else None,
        turn=fields.optional_integer("turn"),
        critic=fields.text("critic", critic),
    )


def critique_to_json(critique: Critique) -> dict[str, object]:
    """The object that `critique_from_json` reads back; defaults are left out."""
    usage = critique.usage
    optional: dict[str, object] = {
        "verdict": critique.verdict,
        "dropped": [list(pair) for pair in critique.dropped],
        "reply": critique.reply,
        "reason": critique.reason,
        "prompt_hash": critique.prompt_hash,
        "usage": {} if usage == Usage() else without_defaults(_usage_to_json(usage), (None,)),
        "parse_form": critique.parse_form,
        "members": [critique_to_json(member) for member in critique.members],
    }
    if critique.cached:
        optional["cached"] = True
    return {
        "critic": critique.critic,
        "outcome": critique.outcome.value,
        "scores": [
            without_defaults({"criterion": one.criterion, "value": one.value, "confidence": one.confidence}, (None,))
            for one in critique.evaluative
        ],
        "directives": [_directive_to_json(one, critique.critic) for one in critique.directives],
        **without_defaults(optional, ("", None, [], {})),
        "latency_s": critique.latency_s,
        "asks": critique.asks,
    }


def _usage_to_json(usage: Usage) -> dict[str, object]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cost_usd": usage.cost_usd,
    }


def _directive_to_json(directive: Directive, critic: str) -> dict[str, object]:
    return {"text": directive.text, "kind": directive.kind} | without_defaults(
        {
            "quote": directive.quote,
            "turn": directive.turn,
            "span": list(directive.span) if directive.span is not None else None,
            "critic": None if directive.critic == critic else directive.critic,
        },
        (None,),
    )
