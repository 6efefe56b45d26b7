"""What training on one task does to the others, and what that predicts of training on them one after another.

Owns: the transfer matrix, predictions of an order with their standard errors, how stable the best order is, and
backward transfer as it is reported. Must not know: runs, files, how an accuracy was measured.

Predictions rest on two assumptions, as reviewers of arXiv 2507.14783 paraphrase them (its full text was not read): A1,
what task k adds to task j is the same from every checkpoint; A2, a pass over a task brings it to the same accuracy from
every checkpoint. The paper's own predictions are said to correlate little with what was realised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from critique_rl.stats.ordering import Order, best_order, check_order, greedy_mean_order, net_gain_order

Matrix = NDArray[np.float64]
Normaliser = Literal["none", "base", "own_gain"]
Method = Literal["exact", "net_gain", "greedy_acc"]
METHODS: tuple[Method, ...] = ("exact", "net_gain", "greedy_acc")
NORMALISERS: tuple[Normaliser, ...] = ("none", "base", "own_gain")


class Forecast(NamedTuple):
    """What an order is predicted to end at, task by task in the metric's own units. `mean` and `worst` are over tasks;
    `se` and `mean_se` are standard errors from those of the measurements (0 where none were given)."""

    order: Order
    final: Matrix
    se: Matrix
    mean: float
    mean_se: float
    worst: int


class Stability(NamedTuple):
    """Over `draws` of the matrix within its standard errors: the share in which another order is best, `before[i, j]`
    the share in which i comes before j, and the mean loss of the original order against the best of each draw."""

    changed: float
    before: Matrix
    regret: float
    draws: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TransferMatrix:
    """`base[j]`: the metric of task j before training; `acc[i, j]`: after training on task i alone. `se` and `base_se`
    are their standard errors. `normaliser` divides what a task gains or loses, where orders are compared, by its base
    or by its own gain. Raises ValueError for shapes, numbers and names that cannot be used."""

    tasks: tuple[str, ...]
    base: Matrix
    acc: Matrix
    se: Matrix | None = None
    base_se: Matrix | None = None
    normaliser: Normaliser = "none"

    def __post_init__(self) -> None:
        count = len(self.tasks)
        if count == 0 or len(set(self.tasks)) < count:
            raise ValueError(f"tasks = {list(self.tasks)}; wanted one name or more, each once")
        wanted = {"base": (count,), "acc": (count, count), "se": (count, count), "base_se": (count,)}
        for name, shape in wanted.items():
            values: Matrix | None = getattr(self, name)
            if values is None:
                continue
            values = np.asarray(values, dtype=np.float64)
            if values.shape != shape or not np.isfinite(values).all():
                raise ValueError(
                    f"{name} has shape {values.shape}; wanted {shape} of finite numbers, for {count} tasks"
                )
            if name.endswith("se") and (values < 0).any():
                raise ValueError(f"{name} holds {values.min():g}; a standard error is 0 or more")
            object.__setattr__(self, name, values)
        if self.normaliser not in NORMALISERS:
            raise ValueError(f"normaliser = {self.normaliser!r}; wanted one of {', '.join(NORMALISERS)}")
        scale = self._scale()
        if (scale <= 0).any():
            task = self.tasks[int(np.argmin(scale))]
            raise ValueError(
                f"normaliser = {self.normaliser!r} divides by {scale.min():g} for task {task!r}; wanted above 0: "
                "use normaliser = 'none'"
            )

    @property
    def effect(self) -> Matrix:
        """D[i, j] = acc[i, j] - base[j]: what training on i adds to j; the diagonal is each task's own gain."""
        return self.acc - self.base

    @property
    def worth(self) -> Matrix:
        """`effect` in the units that orders are compared in: divided column by column by the normaliser."""
        return self.effect / self._scale()

    def order(self, method: Method = "exact", *, structured: Sequence[str] = (), tolerance: float = 0.0) -> Order:
        """The order that a method chooses; exact is exact up to 15 tasks and a local search beyond.

        With `structured` tasks (exact only) orders within `tolerance` of the best mean are taken for ties, broken in
        favour of those tasks first. Without A2 every order is worth the same, see `predict`. Raises ValueError.
        """
        if method not in METHODS:
            raise ValueError(f"method = {method!r}; wanted one of {', '.join(METHODS)}")
        if (structured or tolerance) and method != "exact":
            raise ValueError(f"structured and tolerance have no effect with method = {method!r}, only with exact")
        unknown = sorted(set(structured) - set(self.tasks))
        if unknown:
            raise ValueError(f"structured names {unknown[0]!r}; the tasks are {', '.join(self.tasks)}")
        if method == "net_gain":
            return net_gain_order(self.worth)
        if method == "greedy_acc":
            return greedy_mean_order(self.acc / self._scale())
        first = [task in structured for task in self.tasks] if structured else ()
        return best_order(self.worth, first=first, tolerance=tolerance * len(self.tasks))

    def worst_order(self) -> Order:
        """The order that collects the least: what a curriculum has to be compared with."""
        return best_order(-self.worth)

    def named(self, names: Sequence[str]) -> Order:
        """A manual order by the tasks' names. Raises ValueError."""
        unknown = sorted(set(names) - set(self.tasks))
        if unknown or len(names) != len(self.tasks) or len(set(names)) < len(names):
            raise ValueError(f"order {','.join(names)}; wanted each of {','.join(self.tasks)} exactly once")
        return tuple(self.tasks.index(name) for name in names)

    def predict(self, order: Sequence[int], *, saturation: bool = True) -> Forecast:
        """F_j = acc[j, j] + sum of D[k, j] over tasks k trained after j (A1 and A2).

        saturation=False leaves A2 out: F_j = base_j + sum of all D[k, j], the same for every order.
        """
        chosen = check_order(order, len(self.tasks))
        final, variance = np.empty(len(chosen)), np.empty(len(chosen))
        se = self._se()
        for at, j in enumerate(chosen):
            terms = list(chosen[at:] if saturation else chosen)  # j itself among them: acc[j, j] = base_j + D[j, j]
            final[j] = self.base[j] + self.effect[terms, j].sum()
            # base_j is in every D[k, j]: what is left of it is 1 - the number of terms.
            variance[j] = (se.acc[terms, j] ** 2).sum() + ((len(terms) - 1) * se.base[j]) ** 2
        errors = np.sqrt(variance)
        mean_se = float(np.sqrt(variance.sum())) / len(chosen)
        return Forecast(chosen, final, errors, float(final.mean()), mean_se, int(np.argmin(final)))

    def stability(
        self, order: Sequence[int], *, draws: int = 300, seed: int = 0, method: Method = "exact"
    ) -> Stability:
        """How often noise of the size of the standard errors makes another order best. Raises ValueError without any
        standard error, or for fewer than one draw."""
        if self.se is None:
            raise ValueError("without standard errors nothing can be said of stability; give se")
        if draws < 1:
            raise ValueError(f"draws = {draws}; wanted 1 or more")
        chosen, se, rng = check_order(order, len(self.tasks)), self._se(), np.random.default_rng(seed)
        scale, own = self._scale(), self._collected(self.worth, chosen)
        before = np.zeros_like(self.acc)
        changed, regret = 0, 0.0
        for _ in range(draws):
            base = self.base + se.base * rng.standard_normal(self.base.shape)
            acc = self.acc + se.acc * rng.standard_normal(self.acc.shape)
            # The scale stays as measured: dividing by a noisy own gain near 0 would swamp everything else.
            drawn = (acc - base) / scale
            if method == "greedy_acc":
                best = greedy_mean_order(acc / scale)
            else:
                best = net_gain_order(drawn) if method == "net_gain" else best_order(drawn)
            own = self._collected(drawn, chosen)
            better = self._collected(drawn, best)
            # Equal worth is no change: ties between orders are broken by index alone.
            changed += best != chosen if method != "exact" else better > own + 1e-12
            regret += max(0.0, better - own) / len(chosen)
            for at, j in enumerate(best):
                before[j, list(best[at + 1 :])] += 1
        return Stability(changed / draws, before / draws, regret / draws, draws)

    def _collected(self, worth: Matrix, order: Order) -> float:
        return float(sum(worth[list(order[at + 1 :]), j].sum() for at, j in enumerate(order)))

    def _scale(self) -> Matrix:
        if self.normaliser == "base":
            return self.base
        return np.diag(self.effect).copy() if self.normaliser == "own_gain" else np.ones(len(self.tasks))

    def _se(self) -> _Errors:
        count = len(self.tasks)
        acc = np.zeros((count, count)) if self.se is None else self.se
        return _Errors(acc, np.zeros(count) if self.base_se is None else self.base_se)


class _Errors(NamedTuple):
    acc: Matrix
    base: Matrix


def backward_transfer(results: Matrix) -> float:
    """BWT = 1 / (T - 1) sum over i < T of R[T, i] - R[i, i], of R[t, i]: task i after the t-th task was trained;
    negative is forgetting (arXiv 1706.08840). Raises ValueError for fewer than two tasks or a matrix not square."""
    values = np.asarray(results, dtype=np.float64)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or len(values) < 2:
        raise ValueError(f"came results of shape {values.shape}; wanted T x T with T of 2 or more")
    if not np.isfinite(values[np.tril_indices(len(values))]).all():
        raise ValueError("results hold numbers that are not finite on or below the diagonal")
    return float(np.mean(values[-1, :-1] - np.diag(values)[:-1]))
