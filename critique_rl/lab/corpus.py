"""What the starting policy learns from: plain questions answered without carries, and critiques that are followed.

Owns: the mixture of training examples and the words of uninformative feedback. Every problem is of the split `build`.
Must not know: models, tokenizers, tensors.
"""

from __future__ import annotations

import random
from itertools import islice
from typing import NamedTuple

from critique_rl.lab.critic import directives_for
from critique_rl.lab.problems import Problem, all_problems
from critique_rl.prompting.catalogue import load_prompt

UNINFORMATIVE = (
    "Wrong.",
    "Check your work.",
    "Try again.",
    "That is not right.",
    "The answer is wrong.",
    "Look at it again.",
    "Incorrect. Be more careful.",
    "Score: 0.",
    "Not quite.",
    "",
)
# Share of the bare answers that are written from the wrong end, which would leave scalar RL something to learn on the
# easy class. Each such lesson also moves the answers to hard problems a little, until a carry turns up by chance: with
# 0.2 the stall leaked within the demo's budget in some seeds.
WRONG_END_SHARE = 0.0
MAX_BUILD_PROBLEMS = 20_000


class Example(NamedTuple):
    """Text the policy sees and text it is taught to write after it."""

    prompt: str
    answer: str


class ContextRenderer:
    """Renders the two contexts of `prompts/` that show a directive to the lab policy."""

    def __init__(self) -> None:
        self._refine = load_prompt("lab_refine")
        self._teacher = load_prompt("lab_teacher")

    def refine(self, problem: Problem, attempt: str, directive: str) -> str:
        """The context of a second attempt: question, attempt, directive, question."""
        return self._refine.render(question=problem.question, attempt=attempt, directive=directive)

    def teacher(self, problem: Problem, directive: str) -> str:
        """The context that re-scores an attempt: as above, without the attempt."""
        return self._teacher.render(question=problem.question, directive=directive)


def directive_text(problem: Problem, attempt: str, *, wording: int) -> str:
    """The rule critic's directives for `attempt` as one text, joined as `Critique.directive_text` joins them."""
    return " ".join(d.text for d in directives_for(problem, attempt, wording=wording))


class Corpus:
    """An endless, seeded stream of training examples.

    `contexts` are, by share: 46 % a dropped carry, 6 % an answer from the wrong end, 10 % one with a digit spoilt or a
    carry too many, each with the critic's directives; 38 % feedback that cannot help (10 % uninformative words, 28 %
    another problem's directive), whose answer stays the plain one. A third of all but the spoilt ones leave the
    attempt out, as the teacher's context does.
    """

    def __init__(self, *, digits: int, seed: int) -> None:
        self._random = random.Random(f"corpus:{seed}")
        self._render = ContextRenderer()
        problems = list(islice((p for p in all_problems(digits) if p.split == "build"), MAX_BUILD_PROBLEMS))
        self._hard = [p for p in problems if p.kind == "hard"]
        self._easy = [p for p in problems if p.kind == "easy"]
        self._rest = [p for p in problems if p.kind is None]

    def plain(self, count: int) -> list[Example]:
        """Bare questions, 45 % of them hard, every carry dropped, WRONG_END_SHARE of the answers reversed."""
        problems = [self._problem(hard=0.45, easy=0.45) for _ in range(count)]
        turned = [self._random.random() < WRONG_END_SHARE for _ in range(count)]
        return [
            Example(prompt=p.question, answer=p.dropped_answer[::-1] if t else p.dropped_answer)
            for p, t in zip(problems, turned, strict=True)
        ]

    def contexts(self, count: int) -> list[Example]:
        """Questions that come with feedback."""
        return [self._context() for _ in range(count)]

    def _context(self) -> Example:
        share = self._random.random()
        if share < 0.52:
            problem = self._random.choice(self._hard)
            attempt = problem.dropped_answer if share < 0.46 else problem.dropped_answer[::-1]
            return self._followed(problem, attempt, teacher_share=1 / 3)
        if share < 0.62:
            problem = self._problem(hard=0.3, easy=0.6)
            return self._followed(problem, self._spoilt(problem), teacher_share=0.0)
        problem = self._problem(hard=0.7, easy=0.2)
        text = self._random.choice(UNINFORMATIVE) if share < 0.72 else self._foreign_directive(problem)
        return self._example(problem, problem.dropped_answer, text, problem.dropped_answer, teacher_share=1 / 3)

    def _followed(self, problem: Problem, attempt: str, *, teacher_share: float) -> Example:
        text = directive_text(problem, attempt, wording=self._random.randrange(60))
        return self._example(problem, attempt, text, problem.answer, teacher_share=teacher_share)

    def _example(self, problem: Problem, attempt: str, text: str, answer: str, *, teacher_share: float) -> Example:
        if self._random.random() < teacher_share:
            return Example(prompt=self._render.teacher(problem, text), answer=answer)
        return Example(prompt=self._render.refine(problem, attempt, text), answer=answer)

    def _problem(self, *, hard: float, easy: float) -> Problem:
        share = self._random.random()
        pool = self._hard if share < hard else self._easy if share < hard + easy or not self._rest else self._rest
        return self._random.choice(pool)

    def _spoilt(self, problem: Problem) -> str:
        """The right answer with one digit replaced; where nothing is to be carried, half the time one is carried."""
        column = self._random.randrange(problem.digits + 1)
        digit = self._random.choice([d for d in "0123456789" if d != problem.answer[column]])
        if problem.kind != "hard" and self._random.random() < 0.5:
            column, digit = 1, str((int(problem.answer[1]) + 1) % 10)
        return problem.answer[:column] + digit + problem.answer[column + 1 :]

    def _foreign_directive(self, problem: Problem) -> str:
        """The critic's words about another dropped carry, whose ones add to something else."""
        while True:
            other = self._random.choice(self._hard)
            if other.totals[0] != problem.totals[0]:
                return directive_text(other, other.dropped_answer, wording=self._random.randrange(60))
