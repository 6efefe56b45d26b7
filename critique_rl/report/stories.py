"""Turns a recorded sample into a story: which attempts to tell, and how each token is coloured.

Owns: the scale of the colours, the positions where the teacher disagreed most. Must not know:
HTML (the template lays the stories out), files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from critique_rl.report.records import Alternative, Attempt, CritiqueText, RefinementText, Sample, Token

MAX_TOKENS = 600
_SHOWN_POSITIONS = 4
_SHOWN_REFINEMENTS = 2
_FAINTEST_PULL = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenView:
    """One coloured token: `tint` is "pos", "neg", "imitate", "heard" (all that a tool said) or "", `alpha` its strength
    in [0, 1]; `pull` in [0, 1] is how far the teacher pulled away from the token; `tip` is what is shown on hover."""

    text: str
    tint: str
    alpha: float
    pull: float
    tip: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """A position where teacher and student differ: the token that was written, and what each would have written."""

    before: str
    written: str
    divergence: float
    student_prob: float | None
    teacher: tuple[Alternative, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptView:
    attempt: Attempt
    tokens: tuple[TokenView, ...]
    hidden_tokens: int
    pushes: tuple[tuple[str, str], ...]
    pulls: tuple[tuple[str, str], ...]
    disagreements: tuple[Disagreement, ...]
    critique: CritiqueText | None
    refinements: tuple[RefinementView, ...]
    unshown_refinements: int

    @property
    def right(self) -> bool:
        return self.attempt.status == "ok" and (self.attempt.reward or 0.0) >= 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RefinementView:
    refinement: RefinementText
    tokens: tuple[TokenView, ...]
    hidden_tokens: int
    channels: tuple[tuple[str, str], ...]

    @property
    def verified(self) -> bool:
        return (self.refinement.reward or 0.0) >= 1.0

    @property
    def trained(self) -> bool:
        return any(token.imitate for token in self.refinement.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """One prompt in one step: the attempts to read first, and the others."""

    arm: str
    seed: str
    sample: Sample
    told: tuple[AttemptView, ...]
    others: tuple[AttemptView, ...]


def tell(arm: str, seed: str, sample: Sample) -> Story:
    """One sample as a story: at most two critiqued attempts (or one plain one) are told, the others are listed."""
    strongest = max((abs(t.pg or 0.0) for a in sample.attempts for t in a.tokens), default=0.0)
    widest = max((_pull(t) for a in sample.attempts for t in a.tokens), default=0.0)
    views = [_attempt_view(sample, attempt, strongest, widest) for attempt in sample.attempts]
    views.sort(key=lambda v: (-(len(v.refinements) > 0), -(v.critique is not None), v.right))
    told = 2 if len(views) > 1 and views[1].refinements else 1
    return Story(arm=arm, seed=seed, sample=sample, told=tuple(views[:told]), others=tuple(views[told:]))


def _attempt_view(sample: Sample, attempt: Attempt, strongest: float, widest: float) -> AttemptView:
    tokens = tuple(_attempt_token(token, strongest, widest) for token in attempt.tokens[:MAX_TOKENS])
    refinements = [_refinement_view(r) for r in sample.refinements if _told_at(sample, r) == attempt.rollout_id]
    refinements.sort(key=lambda view: (not view.trained, not view.verified))
    return AttemptView(
        attempt=attempt,
        tokens=tokens,
        hidden_tokens=max(len(attempt.tokens) - MAX_TOKENS, 0),
        pushes=_pushes(attempt.tokens),
        pulls=_pulls(attempt.tokens),
        disagreements=_disagreements(attempt.tokens),
        critique=next((q for q in sample.critiques if q.rollout_id == attempt.rollout_id), None),
        refinements=tuple(refinements[:_SHOWN_REFINEMENTS]),
        unshown_refinements=max(len(refinements) - _SHOWN_REFINEMENTS, 0),
    )


def _told_at(sample: Sample, refinement: RefinementText) -> str:
    """The attempt to tell a refinement with. Equal attempts are recorded once, so the refined one may be the twin of a
    recorded one: such refinements go with the first critiqued attempt."""
    known = [attempt.rollout_id for attempt in sample.attempts]
    if refinement.attempt_id in known:
        return refinement.attempt_id
    critiqued = {critique.rollout_id for critique in sample.critiques}
    return next((name for name in known if name in critiqued), known[0] if known else "")


def _refinement_view(refinement: RefinementText) -> RefinementView:
    strongest = max((token.imitate or 0.0 for token in refinement.tokens), default=0.0)
    weights = [token.imitate for token in refinement.tokens if token.imitate]
    channels = [("imitate", f"imitated: {len(weights)} tokens, weight {_range(weights)}")] if weights else []
    return RefinementView(
        refinement=refinement,
        tokens=tuple(_refinement_token(token, strongest) for token in refinement.tokens[:MAX_TOKENS]),
        hidden_tokens=max(len(refinement.tokens) - MAX_TOKENS, 0),
        channels=tuple(channels),
    )


def _attempt_token(token: Token, strongest: float, widest: float) -> TokenView:
    if token.heard:
        return _heard(token)
    pg = token.pg or 0.0
    tip = [f"policy gradient {pg:+.3g}"] if token.pg is not None else []
    if token.student_prob is not None:
        tip.append(f"policy wrote it with p = {token.student_prob:.2g}")
    if token.divergence is not None and token.distill:
        tip.append(f"teacher divergence {token.divergence:.2g} nats × weight {token.distill:.2g}")
    tip += [f"teacher {a.token!r} {_prob(a.prob)} (policy {_prob(a.student_prob)})" for a in token.teacher]
    return TokenView(
        text=token.text,
        tint="pos" if pg > 0 else "neg" if pg < 0 else "",
        alpha=abs(pg) / strongest if strongest else 0.0,
        pull=(_pull(token) / widest) ** 0.5 if _pull(token) > _FAINTEST_PULL * widest else 0.0,
        tip="\n".join(tip),
    )


def _heard(token: Token) -> TokenView:
    return TokenView(text=token.text, tint="heard", alpha=0.0, pull=0.0, tip="")


def _refinement_token(token: Token, strongest: float) -> TokenView:
    if token.heard:
        return _heard(token)
    weight = token.imitate or 0.0
    tip = [f"imitation weight {weight:.3g}"]
    if token.logprob_bare is not None and token.logprob_guided is not None:
        tip.append(f"log-prob bare {token.logprob_bare:.2f}, with the critique {token.logprob_guided:.2f}")
    return TokenView(
        text=token.text,
        tint="imitate" if weight else "",
        alpha=weight / strongest if strongest else 0.0,
        pull=0.0,
        tip="\n".join(tip),
    )


def _pull(token: Token) -> float:
    return max((token.divergence or 0.0) * (token.distill or 0.0), 0.0)


def _pushes(tokens: Sequence[Token]) -> tuple[tuple[str, str], ...]:
    """What the policy gradient did to an attempt: at most one (colour, words)."""
    pushed = [token.pg for token in tokens if token.pg]
    if pushed:
        tint = "pos" if sum(pushed) > 0 else "neg"
        return ((tint, f"policy gradient: {len(pushed)} tokens, {_range(pushed, sign='+')} each"),)
    if any(token.pg is not None for token in tokens):
        return (("none", "policy gradient: 0 on every token"),)
    return ()


def _pulls(tokens: Sequence[Token]) -> tuple[tuple[str, str], ...]:
    """What distillation did to an attempt: at most one (colour, words)."""
    distilled = [token.divergence for token in tokens if token.distill and token.divergence is not None]
    if not distilled:
        return ()
    mean = sum(distilled) / len(distilled)
    return (("distill", f"distilled: {len(distilled)} tokens, mean divergence {mean:.2g} nats"),)


def _disagreements(tokens: Sequence[Token]) -> tuple[Disagreement, ...]:
    told = [i for i, token in enumerate(tokens) if token.teacher and _pull(token) > 0]
    widest = sorted(told, key=lambda i: -_pull(tokens[i]))[:_SHOWN_POSITIONS]
    widest = [i for i in widest if _pull(tokens[i]) >= 0.05 * _pull(tokens[widest[0]])]
    return tuple(
        Disagreement(
            before="".join(token.text for token in tokens[max(i - 12, 0) : i])[-24:],
            written=tokens[i].text,
            divergence=tokens[i].divergence or 0.0,
            student_prob=tokens[i].student_prob,
            teacher=tokens[i].teacher[:3],
        )
        for i in sorted(widest)
    )


def _range(values: Sequence[float], *, sign: str = "") -> str:
    low, high = f"{min(values):{sign}.3g}", f"{max(values):{sign}.3g}"
    return low if low == high else f"{low} to {high}"


def _prob(value: float | None) -> str:
    return "?" if value is None else f"{value:.2f}"
