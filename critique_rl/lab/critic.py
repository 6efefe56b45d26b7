"""The rule critic: reads a sum and an attempt, scores its columns, and says in plain English which step is wrong.

Owns: the wording of directives and when each is due. It works from the question alone, never from the task's answer,
and no directive states a digit that the attempt still has to find.
Must not know: models, prompts, the loop.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from critique_rl.errors import ConfigError, DataError
from critique_rl.lab.problems import COLUMN_NAMES, Kind, Problem, select_problems
from critique_rl.types import CriticOutcome, CriticRequest, Critique, Directive, Evaluative, Usage

_DONORS = 64
# Numbers in words: no directive can be mistaken for an answer, and "fifteen" is one token of the lab's tokenizer.
TOTALS = {
    total: word
    for total, word in enumerate(
        ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
        start=10,
    )
}
CARRY = (
    "The {column} column adds to {total}, so carry one into the {next}.",
    "You dropped a carry: the {column} add to {total}, so one goes over to the {next}.",
    "Carry one into the {next} column, because the {column} add to {total}.",
    "Look at the {column}: {total} is more than nine, so the {next} get one more.",
    "The {next} column is missing the carry from the {column}, which add to {total}.",
    "Since the {column} make {total}, add the carried one to the {next}.",
)
CARRY_UNSTATED = (
    "The {column} column goes over nine, so carry one into the {next}.",
    "You dropped a carry: the {column} go over nine, so one goes over to the {next}.",
    "Carry one into the {next} column, because the {column} go over nine.",
)
NO_CARRY = (
    "The {column} column stays under ten, so carry nothing into the {next}.",
    "Carry nothing into the {next}: the {column} stay under ten.",
)
ADD_AGAIN = (
    "The {column} column is wrong: add {parts} again.",
    "Add {parts} in the {column} column again.",
)
WRONG_END = (
    "You wrote the digits from the wrong end: start with the ones.",
    "Turn the digits round: the ones come first.",
)
FORMAT = (
    "Write exactly {length} digits, the ones first, and nothing else.",
    "Answer with {length} digits only, starting with the ones.",
)


def is_readable(problem: Problem, attempt: str) -> bool:
    """Whether `attempt` is as many ASCII digits as an answer has."""
    return len(attempt) == problem.digits + 1 and attempt.isascii() and attempt.isdigit()


def directives_for(problem: Problem, attempt: str, *, wording: int) -> tuple[Directive, ...]:
    """One directive for each wrong column, ones first; `wording` picks among the variants. None if all is right.

    An attempt written from the wrong end is told so, and then judged as if it had been written from the right one.
    """
    if not is_readable(problem, attempt):
        return (Directive(text=_say(FORMAT, wording, length=str(problem.digits + 1)), kind="format"),)
    known = (problem.answer, problem.dropped_answer)
    if attempt not in known and attempt[::-1] in known:
        turned = Directive(text=_say(WRONG_END, wording), kind="format", quote=attempt)
        faults = _column_directives(problem, attempt[::-1], wording)
        return (turned, *(Directive(text=fault.text) for fault in faults))
    return _column_directives(problem, attempt, wording)


def _column_directives(problem: Problem, attempt: str, wording: int) -> tuple[Directive, ...]:
    wrong = [i for i in range(problem.digits + 1) if attempt[i] != problem.answer[i]]
    return tuple(
        # The quote is the attempt up to the wrong digit: a lone digit could be found in the wrong place.
        Directive(text=_directive_text(problem, attempt, i, wording), quote=attempt[: i + 1])
        for i in wrong
    )


def _directive_text(problem: Problem, attempt: str, wrong: int, wording: int) -> str:
    digit = int(attempt[wrong])
    below = wrong - 1
    carried = problem.totals[below] // 10 if wrong else 0
    own = sum(problem.columns[wrong]) if wrong < problem.digits else 0
    names = {"column": COLUMN_NAMES[max(below, 0)], "next": COLUMN_NAMES[wrong]}
    if carried and digit == own % 10:
        stated = attempt[below] == problem.answer[below]
        variants = CARRY if stated else CARRY_UNSTATED
        return _say(variants, wording, total=TOTALS[problem.totals[below]], **names)
    if wrong == problem.digits and carried:
        return _say(CARRY_UNSTATED, wording, **names)
    if wrong and not carried and (wrong == problem.digits or digit == (own + 1) % 10):
        return _say(NO_CARRY, wording, **names)
    a, b = problem.columns[wrong]
    parts = f"{a}, {b} and the carried one" if carried else f"{a} and {b}"
    return _say(ADD_AGAIN, wording, column=COLUMN_NAMES[wrong], parts=parts)


def _say(variants: Sequence[str], wording: int, **fields: str) -> str:
    return variants[wording % len(variants)].format(**fields)


def abstained(request: CriticRequest, critic: str, error: DataError) -> Critique:
    """What a critic by rules says of a question that it cannot read."""
    return Critique(rollout_id=request.rollout_id, critic=critic, outcome=CriticOutcome.ABSTAINED, reason=str(error))


def with_directives(critique: Critique, directives: tuple[Directive, ...]) -> Critique:
    """The critique with these directives and the reply that a model would have written it in."""
    said = [{"text": d.text, "kind": d.kind, "quote": d.quote} for d in directives]
    scores = {e.criterion: e.value for e in critique.evaluative}
    reply = json.dumps({"directives": said, "scores": scores, "verdict": critique.verdict})
    return replace(critique, directives=directives, reply=reply)


class LabCritic:
    """Critic by rules; deterministic: equal questions and attempts get equal words.

    With probability `lies`, drawn once per (seed, question, attempt), it says what is true of another problem: one
    whose ones column carries where this one's does not, or the reverse. That reads well, and it is wrong advice here.
    With `reveals` it states the digits instead of the step: what critics must never do, for measuring what it costs.
    """

    name = "lab-rules"

    def __init__(self, *, lies: float = 0.0, reveals: bool = False, seed: int = 0) -> None:
        """Raises ConfigError for a probability outside [0, 1]."""
        if not 0.0 <= lies <= 1.0:
            raise ConfigError(f"lies: came {lies}, wanted a probability from 0 to 1")
        self._lies = lies
        self._reveals = reveals
        self._seed = seed

    def review(self, requests: Sequence[CriticRequest]) -> list[Critique]:
        """One critique a request; a question that is no lab problem ends as `abstained`."""
        return [self._review_one(request) for request in requests]

    def close(self) -> None:
        """Nothing to release."""

    def _review_one(self, request: CriticRequest) -> Critique:
        try:
            problem = Problem.parse(request.task.question)
        except DataError as error:
            return abstained(request, self.name, error)
        digest = hashlib.blake2b(f"{self._seed}:{problem.question}:{request.attempt}".encode(), digest_size=12).digest()
        if int.from_bytes(digest[:8], "big") < self._lies * 2**64:
            donor, attempt = _donor(problem, int.from_bytes(digest[8:], "big"))
            lie = self._judge(request.rollout_id, donor, attempt)
            # Its first directive is about the ones column; a later one could happen to be right here too.
            return with_directives(lie, lie.directives[:1])
        truth = self._judge(request.rollout_id, problem, request.attempt.strip())
        if self._reveals and truth.directives:
            digits = ", ".join(problem.answer)
            return with_directives(truth, (Directive(text=f"The right digits are {digits}, in this order."),))
        return truth

    def _judge(self, rollout_id: str, problem: Problem, attempt: str) -> Critique:
        readable = is_readable(problem, attempt)
        right = sum(a == b for a, b in zip(attempt, problem.answer, strict=True)) if readable else 0
        scores = {"columns": right / len(problem.answer), "format": float(readable)}
        directives = directives_for(problem, attempt, wording=_wording(problem, attempt))
        verdict = "incorrect" if directives else "correct"
        critique = Critique(
            rollout_id=rollout_id,
            critic=self.name,
            outcome=CriticOutcome.OK,
            evaluative=tuple(Evaluative(criterion=name, value=value) for name, value in scores.items()),
            verdict=verdict,
            usage=Usage(cost_usd=0.0),
        )
        return with_directives(critique, directives)


def _donor(problem: Problem, draw: int) -> tuple[Problem, str]:
    """Another problem and an attempt at it, such that what is wrong there is right here."""
    carries = problem.totals[0] >= 10
    donor = _donors("easy" if carries else "hard", problem.digits)[draw % _DONORS]
    return donor, _carried_at_will(donor) if carries else donor.dropped_answer


@cache
def _donors(kind: Kind, digits: int) -> tuple[Problem, ...]:
    return select_problems("build", kind, _DONORS, digits=digits)


def _carried_at_will(problem: Problem) -> str:
    """The answer with one more in the tens than there is: what someone who carries without need writes."""
    answer = problem.answer
    return f"{answer[0]}{(int(answer[1]) + 1) % 10}{answer[2:]}"


def _wording(problem: Problem, attempt: str) -> int:
    digest = hashlib.blake2b(f"{problem.question}{attempt}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")
