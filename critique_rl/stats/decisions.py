"""What to do with a calibrated probability: answer or abstain, or the action of the smallest expected cost.

Owns: utilities, cost matrices, the thresholds that follow from them, the undoing of class weights, and pooling several
answers to one question. Must not know: where probabilities come from, or whether the decisions turned out well.
Every rule here is the best one only for calibrated probabilities (C. Elkan, IJCAI 2001).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from critique_rl.stats.voting import vote

Array = NDArray[np.float64]
Numbers = Sequence[float] | Array
Pooling = Literal["mean", "vote"]

LARGEST = 1e100  # differences of larger numbers are not finite
SLACK = 1e-12  # two sides that are equal on paper may differ in the last digit


@dataclass(frozen=True, slots=True, kw_only=True)
class Utilities:
    """What a right answer, a wrong answer and no answer are worth, in any unit.

    A threshold outside (0, 1] is allowed: at 0 or below every record is answered, above 1 none is.
    Raises ValueError for a value that is not finite, or a right answer that is worth no more than a wrong one.
    """

    correct: float
    wrong: float
    abstain: float

    def __post_init__(self) -> None:
        for name, value in (("correct", self.correct), ("wrong", self.wrong), ("abstain", self.abstain)):
            if not abs(value) <= LARGEST:
                raise ValueError(f"the utility of {name} is {value}; wanted a finite number of at most {LARGEST:g}")
        if self.correct <= self.wrong:
            raise ValueError(
                f"a right answer is worth {self.correct:g} and a wrong one {self.wrong:g}; wanted more for the right "
                "one: otherwise no confidence is a reason to answer"
            )

    @classmethod
    def of_penalty(cls, penalty: float) -> Utilities:
        """1 for a right answer, -L for a wrong one, 0 for none. Raises ValueError unless L is finite and >= 0."""
        if not 0 <= penalty <= LARGEST:
            raise ValueError(f"the penalty is {penalty}; wanted a finite number >= 0, the loss on a wrong answer")
        return cls(correct=1.0, wrong=-penalty, abstain=0.0)

    @property
    def threshold(self) -> float:
        """t = (u_a - u_w) / (u_c - u_w): answering pays from this probability on; L / (1 + L) for (1, -L, 0)."""
        return (self.abstain - self.wrong) / (self.correct - self.wrong)

    def expected(self, probability: float) -> float:
        """What answering is worth on average: p u_c + (1 - p) u_w."""
        return probability * self.correct + (1 - probability) * self.wrong


def penalty_of(threshold: float) -> float:
    """The penalty L = t / (1 - t) under which answering pays from t on. Raises ValueError unless 0 <= t < 1."""
    if not 0 <= threshold < 1:
        raise ValueError(f"the threshold is {threshold}; wanted at least 0 and less than 1")
    return threshold / (1 - threshold)


def answers(probabilities: Numbers, threshold: float) -> NDArray[np.bool_]:
    """Which records are answered: p >= t, the last digit aside; at t itself both choices are worth the same."""
    return np.asarray(probabilities, dtype=np.float64) >= threshold - SLACK


class CostMatrix:
    """C[a, j]: the cost of action a where class j is true; any row may be a way to abstain.

    Raises ValueError for what is no matrix of finite numbers with at least two rows and two columns, for names that
    do not fit, and for rows that are all equal: then every action is as good as any other.
    """

    def __init__(self, costs: Sequence[Sequence[float]] | Array, actions: Sequence[str] = ()) -> None:
        widths = {len(row) for row in costs}
        if len(costs) < 2 or len(widths) != 1 or min(widths) < 2:
            raise ValueError(
                f"costs have {len(costs)} rows of {sorted(widths)} numbers; wanted at least two rows (one per action), "
                "each with one number per class, at least two"
            )
        self.costs: Array = np.array(costs, dtype=np.float64)
        if self.costs.ndim != 2 or not bool((np.abs(self.costs) <= LARGEST).all()):
            raise ValueError(f"costs hold a number that is not finite; wanted finite numbers of at most {LARGEST:g}")
        if bool((self.costs == self.costs[0]).all()):
            raise ValueError("all rows of the costs are equal, so every action costs the same; wanted rows that differ")
        self.actions = tuple(actions) or tuple(str(row) for row in range(len(self.costs)))
        if len(self.actions) != len(self.costs) or len(set(self.actions)) != len(self.actions):
            raise ValueError(
                f"{len(self.actions)} actions ({', '.join(self.actions)}) came with {len(self.costs)} rows of costs; "
                "wanted one name per row, all different"
            )

    @property
    def classes(self) -> int:
        """How many columns there are."""
        return self.costs.shape[1]

    def expected(self, probabilities: Sequence[Numbers] | Array) -> Array:
        """[N, classes] probabilities -> [N, actions], sum_j p_j C[a, j]. Raises ValueError as `class_probabilities`."""
        return class_probabilities(probabilities, self.classes) @ self.costs.T

    def choose(self, probabilities: Sequence[Numbers] | Array) -> NDArray[np.int64]:
        """a* = argmin_a sum_j p_j C[a, j], one row number per record; of equally good actions the first row."""
        expected = self.expected(probabilities)
        scale = max(1.0, float(np.abs(self.costs).max()))
        best = expected.min(axis=1, keepdims=True)
        return np.argmax(expected <= best + SLACK * scale, axis=1).astype(np.int64)

    def idle(self) -> tuple[str, ...]:
        """Actions that another one beats or equals whatever is true, so that they are never chosen."""
        rows = range(len(self.costs))

        def beaten(a: int) -> bool:
            return any(
                bool((self.costs[b] <= self.costs[a]).all()) and (bool((self.costs[b] < self.costs[a]).any()) or b < a)
                for b in rows
                if b != a
            )

        return tuple(self.actions[a] for a in rows if beaten(a))


def binary_threshold(costs: Sequence[Sequence[float]] | Array) -> float:
    """t* = (C10 - C00) / ((C10 - C00) + (C01 - C11)): predict class 1 from this probability of class 1 on.

    C[i, j] is the cost of predicting i where j is true; without costs of right predictions, C_FP / (C_FP + C_FN).
    Raises ValueError as `CostMatrix` does, for another shape than 2 x 2, and where being right does not cost less
    than being wrong for both classes.
    """
    matrix = CostMatrix(costs).costs
    if matrix.shape != (2, 2):
        raise ValueError(f"costs have the shape {matrix.shape}; wanted 2 x 2 for a threshold")
    false_alarm, miss = float(matrix[1, 0] - matrix[0, 0]), float(matrix[0, 1] - matrix[1, 1])
    if false_alarm <= 0 or miss <= 0:
        raise ValueError(
            f"being wrong costs {false_alarm:g} (truth 0) and {miss:g} (truth 1) more than being right; wanted both "
            "above 0: otherwise one action is always best"
        )
    return false_alarm / (false_alarm + miss)


def class_probabilities(probabilities: Sequence[Numbers] | Array, classes: int) -> Array:
    """Checked rows of class probabilities. Raises ValueError for another width, a value outside [0, 1], a sum not 1."""
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] != classes:
        raise ValueError(f"probabilities have the shape {p.shape}; wanted one row per record of {classes} classes")
    if not bool(((p >= 0) & (p <= 1)).all()) or not bool((np.abs(p.sum(axis=1) - 1) <= 1e-3).all()):
        raise ValueError("probabilities hold a row that is not from 0 to 1 with sum 1; wanted one share per class")
    return p


def unweight(probability: Numbers, weight: float) -> Array:
    """p = q / (q + b (1 - q)): what q would have been without the weight b on the positive class in the training loss.

    The minimiser of a loss with that weight is q = b p / (b p + 1 - p) (idea: arXiv 2205.04613, known to us by its
    abstract only). Raises ValueError for a weight that is not finite and above 0, or q outside [0, 1].
    """
    q = np.asarray(probability, dtype=np.float64)
    if not bool(((q >= 0) & (q <= 1)).all()):
        raise ValueError("a probability is outside [0, 1]; wanted numbers from 0 to 1")
    return unweight_classes(np.stack([1 - q, q], axis=1), (1.0, weight))[:, 1]


def unweight_classes(probabilities: Sequence[Numbers] | Array, weights: Sequence[float]) -> Array:
    """p_j = (q_j / w_j) / sum_i (q_i / w_i), [N, classes]: the training loss's class weights undone.

    Raises ValueError as `class_probabilities` does, and for weights that are not finite and above 0.
    """
    if not all(math.isfinite(w) and w > 0 for w in weights):
        raise ValueError(f"class weights are {list(weights)}; wanted finite numbers above 0, one per class")
    shares = class_probabilities(probabilities, len(weights)) / np.asarray(weights, dtype=np.float64)
    return shares / shares.sum(axis=1, keepdims=True)


class Pooled(NamedTuple):
    """The answer that a question gets, the first record that gave it, and how probable it is after pooling."""

    answer: str
    first: int
    probability: float


def pool_answers(given: Sequence[str], probabilities: Numbers, how: Pooling = "mean") -> Pooled:
    """One answer out of several to one question: the distinct answer of the largest pooled probability.

    `mean`: the mean of its own calibrated probabilities, however often it came. `vote`: its share of the sum over all
    answers (the winner of `voting.vote` by weight); a share is not calibrated, and one lone answer has share 1.
    Of equally probable answers the one that came first. Raises ValueError for no answers, unequal lists, or a value
    outside [0, 1].
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if not given or p.shape != (len(given),) or not bool(((p >= 0) & (p <= 1)).all()):
        raise ValueError(f"{len(given)} answers came with probabilities {probabilities!r:.80}; wanted one each, 0 to 1")
    if how == "vote":
        won = vote(given, p.tolist(), rule="weighted")
        assert won is not None
        own, total = p[[answer == won.answer for answer in given]], float(p.sum())
        return Pooled(won.answer, won.first, min(1.0, float(own.sum()) / total) if total else own.size / p.size)
    held: dict[str, list[float]] = {}
    for answer, probability in zip(given, p.tolist(), strict=True):
        held.setdefault(answer, []).append(probability)
    means = {answer: math.fsum(own) / len(own) for answer, own in held.items()}
    best = max(means.values())
    chosen = next(answer for answer, mean in means.items() if mean >= best - SLACK)
    return Pooled(chosen, given.index(chosen), means[chosen])
