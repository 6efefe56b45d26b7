"""What a policy of the guessing world does, as exact probabilities: every completion that it may write is followed.

Owns: the tree of completions and the figures made of it. It compares decoded text with the answer.
Must not know: how the policy was trained, the loop, engines.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

from critique_rl.lab.guess.problems import (
    ABSTENTION,
    CONFIDENCE_PATTERN,
    CONFIDENCE_TOP,
    GuessProblem,
)
from critique_rl.lab.measure import LabPolicy, next_logprobs
from critique_rl.types import Array

FLOOR = 1e-4
MAX_TOKENS = 8
PASS_AT = 64


class Outcomes(NamedTuple):
    """The completions of one prompt with their probabilities; `lost` is what all that were not followed have."""

    probabilities: Mapping[str, float]
    lost: float


def outcomes(policy: LabPolicy, prompts: Sequence[str], *, floor: float = FLOOR) -> list[Outcomes]:
    """Every finished completion at temperature 1 whose beginnings are all at least as probable as `floor`."""
    sequences = [policy.encode(prompt) for prompt in prompts]
    starts = [len(s) for s in sequences]
    found: list[dict[str, float]] = [{} for _ in prompts]
    open_ends = [(i, s, 1.0) for i, s in enumerate(sequences)]
    for _ in range(MAX_TOKENS):
        if not open_ends:
            break
        probs_NV = next_logprobs(policy, [s for _, s, _ in open_ends]).exp().double().numpy()
        longer: list[tuple[int, tuple[int, ...], float]] = []
        for (i, ids, reached), probs_V in zip(open_ends, probs_NV, strict=True):
            joint_V: Array = reached * probs_V
            for token in np.flatnonzero(joint_V >= floor).tolist():
                share = float(joint_V[token])
                if token == policy.eos_id:
                    text = policy.decode(ids[starts[i] :])
                    found[i][text] = found[i].get(text, 0.0) + share
                else:
                    longer.append((i, (*ids, token), share))
        open_ends = longer
    return [Outcomes(texts, max(0.0, 1.0 - sum(texts.values()))) for texts in found]


@dataclass(frozen=True, slots=True, kw_only=True)
class GuessFigures:
    """Probabilities, as means over problems; `confidence`, `ece` and `auroc` are of the answers in the right form.

    `accuracy` counts right answers among all completions, `pass_at_64` that one of 64 is right. `ece` has ten bins,
    one for each digit that can be stated; `auroc` is None where every answer is right or every one is wrong.
    """

    accuracy: float
    well_formed: float
    abstained: float
    confidence: float
    ece: float
    auroc: float | None
    pass_at_64: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GuessMeasurement:
    """A policy's figures, all problems together and by kind; `ideal` is what a fair and honest guesser would have.

    `lost` is the largest probability that was not followed for a problem: `accuracy`, `well_formed` and `abstained` are
    too low by no more.
    """

    all: GuessFigures
    by_kind: Mapping[str, GuessFigures]
    ideal: GuessFigures
    lost: float

    def to_dict(self) -> dict[str, object]:
        """Plain JSON."""
        return asdict(self)


class _Table(NamedTuple):
    """One problem's probabilities: `stated[k, c]` of a right (c=1) or wrong (c=0) answer with confidence k/9."""

    stated: Array
    abstained: float


def measure_guesses(policy: LabPolicy, problems: Sequence[GuessProblem], *, floor: float = FLOOR) -> GuessMeasurement:
    """The exact figures of `policy` on `problems`; completions rarer than `floor` are not followed."""
    return figures_of(problems, outcomes(policy, [p.question for p in problems], floor=floor))


def figures_of(problems: Sequence[GuessProblem], trees: Sequence[Outcomes]) -> GuessMeasurement:
    """The figures of completions: the i-th tree answers the i-th problem."""
    tables = [_table(p, t.probabilities) for p, t in zip(problems, trees, strict=True)]
    kinds = sorted({p.kind for p in problems})
    return GuessMeasurement(
        all=_figures(tables),
        by_kind={k: _figures([t for p, t in zip(problems, tables, strict=True) if p.kind == k]) for k in kinds},
        ideal=ideal_figures([p.n for p in problems]),
        lost=max(t.lost for t in trees),
    )


def ideal_figures(numbers: Sequence[int]) -> GuessFigures:
    """What a guesser has that never slips, guesses each of n candidates alike and states the digit nearest to 9/n."""
    tables: list[_Table] = []
    for n in numbers:
        stated = np.zeros((CONFIDENCE_TOP + 1, 2))
        stated[int(CONFIDENCE_TOP / n + 0.5)] = (1 - 1 / n, 1 / n)
        tables.append(_Table(stated, 0.0))
    return _figures(tables)


def _table(problem: GuessProblem, probabilities: Mapping[str, float]) -> _Table:
    stated = np.zeros((CONFIDENCE_TOP + 1, 2))
    for text, probability in probabilities.items():
        if match := re.fullmatch(CONFIDENCE_PATTERN, text):
            stated[int(match["confidence"]), int(match["answer"] == problem.answer)] += probability
    return _Table(stated, probabilities.get(ABSTENTION, 0.0))


def _figures(tables: Sequence[_Table]) -> GuessFigures:
    stated = np.mean([t.stated for t in tables], axis=0)
    wrong, right = stated[:, 0], stated[:, 1]
    formed = float(stated.sum())
    levels = np.arange(CONFIDENCE_TOP + 1) / CONFIDENCE_TOP
    below = np.concatenate([[0.0], np.cumsum(wrong)[:-1]])  # wrong answers with less confidence; ties count half
    pairs = float(right.sum() * wrong.sum())
    solved = [float(t.stated[:, 1].sum()) for t in tables]
    return GuessFigures(
        accuracy=float(right.sum()),
        well_formed=formed,
        abstained=float(np.mean([t.abstained for t in tables])),
        confidence=float(stated.sum(axis=1) @ levels) / formed if formed else 0.0,
        ece=float(np.abs(right - levels * stated.sum(axis=1)).sum()) / formed if formed else 0.0,
        auroc=float(right @ (below + wrong / 2)) / pairs if pairs else None,
        pass_at_64=float(np.mean([1.0 - (1.0 - min(p, 1.0)) ** PASS_AT for p in solved])),
    )
