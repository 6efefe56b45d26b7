"""The school world's rule critic: reads a chain and an attempt, and says in plain English what to do otherwise.

Owns: the wording of directives and when each is due. It works from the question alone, never from the task's answer,
and no directive states a digit that a step still has to find. Of the other kinds it knows nothing and abstains.
Must not know: models, prompts, the loop.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from critique_rl.errors import ConfigError, DataError
from critique_rl.lab.critic import abstained, with_directives
from critique_rl.lab.school.chains import RIGHT_PLANS, Attempt, Chain, Step, read_attempt
from critique_rl.types import CriticOutcome, CriticRequest, Critique, Directive, Evaluative, Usage

PLAN = (
    "Use the plan step by step.",
    "Go step by step, from the first number on.",
    "The plan is wrong: work it out step by step.",
)
STEP = (
    "Step {number} is wrong: work out {asked} again.",
    "Work out {asked} again in step {number}.",
)
ANSWER = ("The answer is what the last step comes to.", "Say so and the digit of the last step.")
FORMAT = (
    "Write the plan, then every step, then so and one digit.",
    "Say the plan first and end with so and one digit.",
)
LIE = ("Use the plan from the right.", "The plan is wrong: go from the right.")
_NUMBERS = ("one", "two", "three", "four", "five")


def directive_for(chain: Chain, attempt: str, *, wording: int) -> Directive | None:
    """What is to be done otherwise first; `wording` picks among the variants. None if all is right."""
    read = read_attempt(attempt)
    if read is None:
        return Directive(text=_say(FORMAT, wording), kind="format")
    if read.plan not in RIGHT_PLANS:
        return Directive(text=_say(PLAN, wording), quote=read.plan)
    wrong = first_wrong_step(chain, read)
    if wrong is not None:
        text = _say(STEP, wording, number=_NUMBERS[wrong], asked=_due(chain, read, wrong).asked)
        said = read.steps[wrong] if wrong < len(read.steps) else None
        return Directive(text=text, quote=None if said is None else f"{said.asked}={said.result}")
    if str(read.answer) != chain.answer:
        return Directive(text=_say(ANSWER, wording), quote=f"so {read.answer}")
    return None


def first_wrong_step(chain: Chain, attempt: Attempt) -> int | None:
    """The index of the first step that is missing, asks something else or has a wrong result; None if all are right."""
    wanted = chain.steps("step by step")
    for i, step in enumerate(wanted):
        if i >= len(attempt.steps) or attempt.steps[i] != step:
            return i
    return None if len(attempt.steps) == len(wanted) else len(wanted) - 1


def _due(chain: Chain, attempt: Attempt, index: int) -> Step:
    """The step that should stand at `index`: all before it are right."""
    assert list(attempt.steps[:index]) == list(chain.steps("step by step")[:index])
    return chain.steps("step by step")[index]


def _say(variants: Sequence[str], wording: int, **fields: str) -> str:
    return variants[wording % len(variants)].format(**fields)


class SchoolCritic:
    """Critic by rules for chains; deterministic: equal questions and attempts get equal words.

    With probability `lies`, drawn once per (seed, question, attempt), it sends the policy to the plan that is always
    wrong.
    """

    name = "lab-school-rules"

    def __init__(self, *, lies: float = 0.0, seed: int = 0) -> None:
        """Raises ConfigError for a probability outside [0, 1]."""
        if not 0.0 <= lies <= 1.0:
            raise ConfigError(f"lies: came {lies}, wanted a probability from 0 to 1")
        self._lies = lies
        self._seed = seed

    def review(self, requests: Sequence[CriticRequest]) -> list[Critique]:
        """One critique a request; a question that is no chain ends as `abstained`."""
        return [self._review_one(request) for request in requests]

    def close(self) -> None:
        """Nothing to release."""

    def _review_one(self, request: CriticRequest) -> Critique:
        try:
            chain = Chain.parse(request.task.question)
        except DataError as error:
            return abstained(request, self.name, error)
        attempt = request.attempt.strip()
        digest = hashlib.blake2b(f"{self._seed}:{chain.question}:{attempt}".encode(), digest_size=12).digest()
        wording = int.from_bytes(digest[8:], "big")
        directive = directive_for(chain, attempt, wording=wording)
        verdict = "correct" if directive is None else "incorrect"
        if int.from_bytes(digest[:8], "big") < self._lies * 2**64:
            directive = Directive(text=_say(LIE, wording))
        scores = _scores(chain, read_attempt(attempt))
        critique = Critique(
            rollout_id=request.rollout_id,
            critic=self.name,
            outcome=CriticOutcome.OK,
            evaluative=tuple(Evaluative(criterion=name, value=value) for name, value in scores.items()),
            verdict=verdict,
            usage=Usage(cost_usd=0.0),
        )
        return with_directives(critique, () if directive is None else (directive,))


def _scores(chain: Chain, attempt: Attempt | None) -> dict[str, float]:
    """Shares in [0, 1]: a plan that can be right, and the steps up to the first that is wrong."""
    if attempt is None:
        return {"plan": 0.0, "steps": 0.0, "format": 0.0}
    plan = float(attempt.plan in RIGHT_PLANS)
    wrong = first_wrong_step(chain, attempt)
    steps = plan * (1.0 if wrong is None else wrong / len(chain.signs))
    return {"plan": plan, "steps": steps, "format": 1.0}
