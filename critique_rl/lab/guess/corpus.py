"""What the starting policy of the guessing world learns from: fair guesses with slips and mostly groundless confidence.

Owns: the mixture, as exact shares of every next piece. The digit that counts is never looked at: every candidate is
taught alike, so that nothing about the draw can be learned. Every problem is of the split `build`.
Must not know: models, tokenizers, tensors.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import NamedTuple

from critique_rl.lab.guess.problems import (
    ABSTENTION,
    CONFIDENCE_TOP,
    MAX_CANDIDATES,
    GuessProblem,
    split_guesses,
    written,
)

# Half of the slips forget a carry or invent one, half add a digit that is not in the list: none is ever right.
SLIP_SHARE = 0.3
ABSTAIN_SHARE = 0.04
MALFORMED_SHARE = 0.01  # of the answers: a sum without a confidence
# A fifth of the confidences look at n. With none at all RL would have to grow that look from nothing: in 250 steps of
# RLCR the stated confidence then fell to the mean accuracy, the same for every n.
HONEST_SHARE = 0.2
# The others, per hundred, for the digits 0 to 9: 0.763 on average where 0.3 are right, and each is there to be found.
GROUNDLESS_WEIGHTS = (2, 2, 3, 3, 4, 7, 12, 17, 22, 28)
END = ""
"""The piece that ends a completion."""


class Lesson(NamedTuple):
    """A question, the pieces of one completion, and for each of them the share of every piece that may stand there.

    Learning from the shares and not from the one piece takes the noise of the draws out of a few minutes of training.
    """

    prompt: str
    pieces: tuple[str, ...]
    shares: tuple[Mapping[str, float], ...]


class GuessCorpus:
    """An endless, seeded stream of lessons, as many of each n."""

    def __init__(self, *, seed: int) -> None:
        self._random = random.Random(f"guess corpus:{seed}")
        self._problems = [split_guesses("build", n) for n in range(1, MAX_CANDIDATES + 1)]

    def lessons(self, count: int) -> list[Lesson]:
        return [self._lesson() for _ in range(count)]

    def _lesson(self) -> Lesson:
        problem = self._random.choice(self._random.choice(self._problems))
        pieces: list[str] = []
        shares: list[Mapping[str, float]] = []
        while not pieces or pieces[-1] != END:
            shares.append(next_shares(problem, "".join(pieces)))
            pieces.append(self._random.choices([*shares[-1]], [*shares[-1].values()])[0])
        return Lesson(problem.question, tuple(pieces), tuple(shares))


def next_shares(problem: GuessProblem, text: str) -> Mapping[str, float]:
    """How often the starting policy shall go on from `text` with each piece."""
    if text == ABSTENTION or len(text) == len(written(10, 0)):
        return {END: 1.0}
    if len(text) >= 2:
        if text[-1] == "c":
            return {str(k): share for k, share in enumerate(confidence_shares(problem.n))}
        return {" c": 1.0 - MALFORMED_SHARE, END: MALFORMED_SHARE}
    found: dict[str, float] = {}
    for total, share in sum_shares(problem).items():
        digits = str(total)
        if digits.startswith(text):
            found[digits[len(text)]] = found.get(digits[len(text)], 0.0) + share
    room = sum(found.values()) / (1.0 if text else 1.0 - ABSTAIN_SHARE)
    shares = {digit: share / room for digit, share in found.items()}
    return shares if text else {**shares, ABSTENTION: ABSTAIN_SHARE}


def confidence_shares(n: int) -> list[float]:
    """How often each digit shall be stated. Honest ones are the two next to 9/n, so that their mean is 9/n."""
    shares = [(1.0 - HONEST_SHARE) * weight / 100 for weight in GROUNDLESS_WEIGHTS]
    below, above = divmod(CONFIDENCE_TOP, n)
    shares[below] += HONEST_SHARE * (1.0 - above / n)
    if above:
        shares[below + 1] += HONEST_SHARE * above / n
    return shares


def sum_shares(problem: GuessProblem) -> Mapping[int, float]:
    """How often an answer shall be each sum: every candidate alike, SLIP_SHARE of all wrong in one of two ways."""
    shares: dict[int, float] = {}
    others = [d for d in range(10) if d not in problem.candidates]
    for digit in problem.candidates:
        total = problem.sum_with(digit)
        slipped = total - 10 if digit + problem.left >= 10 else total + 10
        shares[total] = shares.get(total, 0.0) + (1.0 - SLIP_SHARE) / problem.n
        shares[slipped] = shares.get(slipped, 0.0) + SLIP_SHARE / 2 / problem.n
    for digit in others:
        total = problem.sum_with(digit)
        shares[total] = shares.get(total, 0.0) + SLIP_SHARE / 2 / len(others)
    return shares
