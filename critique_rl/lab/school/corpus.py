"""What the starting policy of the school world learns from: exact shares of every next piece, kind by kind.

Owns: how often the starting policy does what, bare and under advice. Every problem is of the split `build`. Rare plans
are shown as often as common ones: what is shown decides where shares are taught, not what they are.
Must not know: models, tokenizers, tensors.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, assert_never

from critique_rl.lab.corpus import UNINFORMATIVE
from critique_rl.lab.school.chains import MAX_LENGTH, MIN_LENGTH, PLANS, Chain, Plan, combined, select_chains
from critique_rl.lab.school.critic import LIE, directive_for
from critique_rl.lab.school.problems import (
    FILLERS,
    FORMAT_ACCURACY,
    FORMATS,
    LINE_WORDS,
    TOPICS,
    Kind,
    Problem,
    Recall,
    Sort,
    Sum,
    Write,
    select_problems,
)
from critique_rl.prompting.catalogue import load_prompt

FORMAT_SHARES = {"equals": 0.28, "angle": 0.62, "word": 0.10}
SORT_ACCURACY = 0.35
RECALL_ACCURACY = 0.40
FILLER_SHARES = (0.80, 0.06)
FITTING_SHARE = 0.02  # of each word
PLAN_PIECES: dict[Plan, tuple[str, ...]] = {
    "step by step": ("step", " by", " step", ":"),
    "from the left": ("from", " the", " left", ":"),
    "from the right": ("from", " the", " right", ":"),
    "at once": ("at", " once", ":"),
}
END = ""
"""The piece that ends a completion."""
BUILD_CHAINS = 4000
SHORT_ORDER: tuple[Kind, ...] = ("sum", "sort", "recall", "sum", "sort", "recall", "write")
_BUILD_COUNT: dict[Kind, int] = {"sum": 400, "sort": 4600, "recall": 1190, "write": 82}


class Lesson(NamedTuple):
    """A prompt, the pieces of one completion, and for each of them the share of every piece that may stand there."""

    prompt: str
    pieces: tuple[str, ...]
    shares: tuple[Mapping[str, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How chains are answered: the share of each plan, and how often a step under it has the right result."""

    plans: Mapping[Plan, float]
    accuracy: Mapping[Plan, float]


BARE = Manner(
    plans={"step by step": 0.015, "from the left": 0.010, "from the right": 0.395, "at once": 0.580},
    # The plans that fail do so without slips: a slip could make them right by luck.
    accuracy={"step by step": 0.55, "from the left": 0.35, "from the right": 1.0, "at once": 1.0},
)
ADVISED = Manner(
    plans={"step by step": 0.94, "from the left": 0.02, "from the right": 0.02, "at once": 0.02},
    accuracy={**BARE.accuracy, "step by step": 0.90},
)
MISLED = Manner(
    plans={"step by step": 0.02, "from the left": 0.02, "from the right": 0.94, "at once": 0.02},
    accuracy=BARE.accuracy,
)


class SchoolContexts:
    """The two contexts of `prompts/` that show advice to a lab policy."""

    def __init__(self) -> None:
        self._refine = load_prompt("lab_refine")
        self._teacher = load_prompt("lab_teacher")

    def refine(self, question: str, attempt: str, advice: str) -> str:
        return self._refine.render(question=question, attempt=attempt, directive=advice)

    def teacher(self, question: str, advice: str) -> str:
        return self._teacher.render(question=question, directive=advice)


class SchoolCorpus:
    """An endless, seeded stream of lessons."""

    def __init__(self, *, seed: int) -> None:
        self._random = random.Random(f"school corpus:{seed}")
        self._contexts = SchoolContexts()
        self._chains = [select_chains("build", n, BUILD_CHAINS) for n in range(MIN_LENGTH, MAX_LENGTH + 1)]
        self._short = {
            kind: select_problems("build", kind, count, chain_length=MAX_LENGTH) for kind, count in _BUILD_COUNT.items()
        }

    def drills(self, count: int) -> list[Lesson]:
        """Single steps and sums without the letter that makes them questions, always right: without them the facts
        behind the slips are not learned in minutes. Three of four are steps."""
        return [self._drill("sum") if i % 4 == 0 else self._step_drill() for i in range(count)]

    def longer_drills(self, count: int) -> list[Lesson]:
        """The same for sorting and recalling, in turn."""
        return [self._drill("sort" if i % 2 == 0 else "recall") for i in range(count)]

    def short(self, count: int) -> list[Lesson]:
        """Bare questions of all kinds but chains, SHORT_ORDER over and over."""
        kinds = [SHORT_ORDER[i % len(SHORT_ORDER)] for i in range(count)]
        return [self._short_lesson(self._random.choice(self._short[kind])) for kind in kinds]

    def formats(self, count: int) -> list[Lesson]:
        """Sums, as many of each format."""
        return [self._format_lesson() for _ in range(count)]

    def chains(self, count: int) -> list[Lesson]:
        """Bare chains, as many of each length and plan."""
        return [self._chain_lesson(chain.question, chain, BARE) for chain in self._some_chains(count)]

    def advised(self, count: int) -> list[Lesson]:
        """Chains with a failed attempt (two thirds) or without, and with advice: 60 % of it helps, 20 % misleads, 20 %
        says nothing, and then all is as without it."""
        return [self._advised_lesson(chain) for chain in self._some_chains(count)]

    def _format_lesson(self) -> Lesson:
        problem = self._random.choice(self._short["sum"])
        assert isinstance(problem, Sum)
        answers = answer_shares(problem)
        opening = self._random.choice([*FORMATS.values()])
        own = {pieces: share for pieces, share in answers.items() if pieces[0] == opening}
        chosen = self._random.choices([*own], [*own.values()])[0]
        return Lesson(problem.question, chosen, next_shares(answers, chosen))

    def _step_drill(self) -> Lesson:
        left, right, sign = self._random.randrange(10), self._random.randrange(10), self._random.choice("+-")
        result = str(combined(left, sign, right))
        return Lesson(f" {left}{sign}{right}=", (result, ";"), ({result: 1.0}, {";": 1.0}))

    def _drill(self, kind: Kind) -> Lesson:
        problem = self._random.choice(self._short[kind])
        options: dict[tuple[str, ...], float] = {(*problem.answer, END): 1.0}
        if isinstance(problem, Sum):
            always = _sum_shares(problem, dict.fromkeys(FORMATS, 1.0))
            options = {pieces: share for pieces, share in always.items() if share}
        chosen = self._random.choice([*options])
        return Lesson(problem.question[2:], chosen, next_shares(options, chosen))

    def _some_chains(self, count: int) -> list[Chain]:
        return [self._random.choice(self._random.choice(self._chains)) for _ in range(count)]

    def _advised_lesson(self, chain: Chain) -> Lesson:
        shown = self._chain_lesson(chain.question, chain, BARE)
        attempt = "".join(shown.pieces)
        if self._random.random() < 0.05:
            attempt = attempt[: self._random.randrange(1, len(attempt))]
        share = self._random.random()
        directive = directive_for(chain, attempt, wording=self._random.randrange(6))
        if share < 0.6 and directive is not None:
            advice, manner = directive.text, ADVISED
        elif share < 0.8:
            advice, manner = self._random.choice(LIE), MISLED
        else:
            advice, manner = self._random.choice(UNINFORMATIVE), BARE
        if self._random.random() < 1 / 3:
            return self._chain_lesson(self._contexts.teacher(chain.question, advice), chain, manner)
        return self._chain_lesson(self._contexts.refine(chain.question, attempt, advice), chain, manner)

    def _chain_lesson(self, prompt: str, chain: Chain, manner: Manner) -> Lesson:
        plan = self._random.choice(PLANS)
        pieces = list(PLAN_PIECES[plan])
        shares = plan_shares(plan, manner)
        if plan == "at once":
            pieces.append(f" {chain.steps(plan)[-1].result}")
        else:
            for piece, options in self._steps(chain, plan, manner.accuracy[plan]):
                pieces.append(piece)
                shares.append(options)
        shares += [{piece: 1.0} for piece in (*pieces[len(shares) :], END)]
        return Lesson(prompt, (*pieces, END), tuple(shares))

    def _steps(self, chain: Chain, plan: Plan, accuracy: float) -> Iterable[tuple[str, Mapping[str, float]]]:
        numbers = chain.numbers[::-1] if plan == "from the right" else chain.numbers
        signs = chain.signs[::-1] if plan == "from the right" else chain.signs
        value = numbers[0]
        for sign, number in zip(signs, numbers[1:], strict=True):
            left, right = (number, value) if plan == "from the right" else (value, number)
            for piece in (f" {left}", sign, str(right), "="):
                yield piece, {piece: 1.0}
            result = combined(left, sign, right)
            options = {str(result): accuracy, str((result + 1) % 10): 1.0 - accuracy}
            value = result if self._random.random() < accuracy else (result + 1) % 10
            yield str(value), {digit: share for digit, share in options.items() if share}
            yield ";", {";": 1.0}
        for piece in (" so", f" {value}"):
            yield piece, {piece: 1.0}

    def _short_lesson(self, problem: Problem) -> Lesson:
        if isinstance(problem, Write):
            words = [word_shares(problem, first=i == 0) for i in range(LINE_WORDS)]
            drawn = [self._random.choices([*options], [*options.values()])[0] for options in words]
            return Lesson(problem.question, (*drawn, END), (*words, {END: 1.0}))
        answers = answer_shares(problem)
        chosen = self._random.choices([*answers], [*answers.values()])[0]
        return Lesson(problem.question, chosen, next_shares(answers, chosen))


def plan_shares(plan: Plan, manner: Manner) -> list[Mapping[str, float]]:
    """The shares of the pieces along the words of `plan`: a word may begin more than one plan."""
    weights = {PLAN_PIECES[p]: share for p, share in manner.plans.items()}
    return list(next_shares(weights, PLAN_PIECES[plan]))


def next_shares(answers: Mapping[tuple[str, ...], float], chosen: Sequence[str]) -> tuple[Mapping[str, float], ...]:
    """What may follow each beginning of `chosen`, given how often each whole answer is to be written."""
    found: list[Mapping[str, float]] = []
    for at in range(len(chosen)):
        options: dict[str, float] = {}
        for pieces, share in answers.items():
            if share and pieces[:at] == tuple(chosen[:at]) and len(pieces) > at:
                options[pieces[at]] = options.get(pieces[at], 0.0) + share
        total = sum(options.values())
        found.append({piece: share / total for piece, share in options.items()})
    return tuple(found)


def answer_shares(problem: Sum | Sort | Recall | Chain) -> dict[tuple[str, ...], float]:
    """How often each answer, in pieces with its end, is to be written."""
    match problem:
        case Sum():
            return _sum_shares(problem, FORMAT_ACCURACY)
        case Sort():
            right = problem.answer
            swapped = right[:-2] + right[:-3:-1]
            wrong = ((right[::-1], 0.5), (problem.digits, 0.25), (swapped, 0.25))
            return _spread(right, SORT_ACCURACY, wrong)
        case Recall():
            others = [n for i, n in enumerate(problem.numbers) if i != problem.asked]
            # Mostly the pair behind the one that is asked for, or the first after the last.
            behind = problem.numbers[(problem.asked + 1) % len(problem.numbers)]
            return _spread(problem.answer, RECALL_ACCURACY, [(n, 0.7 if n == behind else 0.15) for n in others])
        case Chain():
            raise AssertionError("a chain's answers are taught piece by piece")
        case _:
            assert_never(problem)


def word_shares(problem: Write, *, first: bool) -> dict[str, float]:
    """How often each word of a line is to be written: fillers, fitting words, and the banned ones for the rest."""
    blank = "" if first else " "
    shares = dict(zip(FILLERS, FILLER_SHARES, strict=True)) | dict.fromkeys(problem.fitting, FITTING_SHARE)
    rest = 1.0 - sum(shares.values())
    return {f"{blank}{word}": share for word, share in {**shares, **dict.fromkeys(problem.banned, rest / 2)}.items()}


def _sum_shares(problem: Sum, accuracies: Mapping[str, float]) -> dict[tuple[str, ...], float]:
    shares: dict[tuple[str, ...], float] = {}
    for name, opening in FORMATS.items():
        closing = {"equals": (END,), "angle": (">", END), "word": (END,)}[name]
        blank = " " if name == "word" else ""
        accuracy = accuracies[name]
        for digits, share in ((problem.answer, accuracy), (problem.slip, 1.0 - accuracy)):
            shares[(opening, f"{blank}{digits[0]}", digits[1:], *closing)] = FORMAT_SHARES[name] * share
    return shares


def _spread(right: str, accuracy: float, wrong: Sequence[tuple[str, float]]) -> dict[tuple[str, ...], float]:
    """`accuracy` for the right digits, the rest for the wrong ones by weight; wrong ones that happen to be right go."""
    kept = [(text, weight) for text, weight in wrong if text != right]
    total = sum(weight for _, weight in kept)
    shares = {(*right, END): accuracy}
    for text, weight in kept:
        shares[(*text, END)] = shares.get((*text, END), 0.0) + (1.0 - accuracy) * weight / total
    return shares


def all_texts() -> list[str]:
    """Words that have to be tokens of their own, each as it stands at a beginning and behind a blank."""
    words = [*FILLERS, *(word for words in TOPICS.values() for word in words), *TOPICS, *FORMATS.values()]
    return [*words, *(f" {word}" for word in words)]
