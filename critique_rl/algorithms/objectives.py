"""A method whose rollouts learn from several objectives at once, combined into one advantage each.

Owns: which rollouts enter the statistics, which tokens an objective moves, what is reported and warned of. Must not
know: how an objective is measured, what a combiner computes. Refinements, targets and their weights stay the method's.

Deviations: 1. a rollout whose verifier failed, and one of a late group, is in no statistic; one without any value
learns nothing; 2. the statistics are of the rollouts alone, so that a refinement's advantage is still that of verified
rewards; 3. with tokens = "answer" or "confidence" an objective's part of the sum is left out on the other tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from critique_rl.config.objective_sources import CriticObjectiveConfig
from critique_rl.config.objectives import BATCH_NORM, DDOF, EPS, GAMMA, POWER, ObjectivesConfig
from critique_rl.ops.combiners import Combined, Method, combine
from critique_rl.protocols import Algorithm
from critique_rl.types import Array, Group, ScoreStatus, TrainSample


class Reads(Protocol):
    """Gives each rollout of a group one finite value an objective, or None; rows follow the group's rollouts."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def read(self, group: Group) -> list[list[float | None]]: ...


class _Row(NamedTuple):
    """Where a rollout stands in the batch's tables, and where its stated confidence begins."""

    place: int
    group: int
    confidence_token: int | None


class _Batch(NamedTuple):
    """The rollouts that count, by task and rollout id, and their values [N, K]; NaN is missing."""

    rows: dict[tuple[str, str], _Row]
    values_NK: Array
    lengths_N: list[int]


class Combiner:
    """The objectives of one run: what the latest step's came to, and what a person should be told once."""

    def __init__(self, config: ObjectivesConfig, reader: Reads) -> None:
        self.config = config
        self._reader = reader
        self._kinds = [config.of[name] for name in reader.names]
        self._weights = [kind.weight for kind in self._kinds]
        self._split = any(kind.tokens != "all" for kind in self._kinds)
        # Gradients are joined later: here each objective gets the advantage that it would have alone.
        combines = config.combine
        self._method: Method = "advantage_sum" if combines in ("pcgrad", "mgda", "mgda_normalized") else combines
        self._joins_gradients = config.gradient_method is not None
        self._figures: dict[str, float] = {}
        self._unread: list[str] = []
        self._told: set[str] = set()

    def read(self, groups: Sequence[Group]) -> _Batch:
        """The step's values; a task that an epoch's end brings twice counts once. Errors: DataError, the reader's."""
        rows: dict[tuple[str, str], _Row] = {}
        values: list[list[float]] = []
        lengths: list[int] = []
        self._watch_criteria(groups)
        for g, group in enumerate(groups):
            if group.late:
                continue
            for rollout, score, found in zip(group.rollouts, group.scores, self._reader.read(group), strict=True):
                if score.status is ScoreStatus.ERROR or (rollout.task_id, rollout.id) in rows:
                    continue
                start = group.confidence_tokens.get(rollout.id)
                rows[rollout.task_id, rollout.id] = _Row(len(values), g, start)
                values.append([np.nan if value is None else value for value in found])
                lengths.append(rollout.own_tokens)
        shape = (len(values), len(self._kinds))
        return _Batch(rows, np.asarray(values, dtype=np.float64).reshape(shape), lengths)

    def stamp(self, samples: Sequence[TrainSample], batch: _Batch) -> list[TrainSample]:
        """The samples with combined advantages wherever rollouts of the batch carry a policy-gradient weight."""
        groups = [row.group for row in batch.rows.values()]
        combined = self._combine(batch, groups)
        parts_NK, total_N = combined.objective_advantages_NK.numpy(), combined.advantages_N.numpy()
        stamped: list[TrainSample] = []
        alive: dict[int, bool] = dict.fromkeys(groups, False)
        for sample in samples:
            row = batch.rows.get((sample.task_id, sample.rollout_id))
            if row is None or not sample.pg_weight.any():
                stamped.append(sample)
                continue
            if np.isnan(batch.values_NK[row.place]).all():
                nothing = np.zeros_like(sample.pg_weight)
                stamped.append(replace(sample, advantages=nothing, pg_weight=nothing))
                continue
            moved = self._moved(sample, row, parts_NK[row.place], float(total_N[row.place]))
            each = moved.advantages if moved.objective_advantages is None else moved.objective_advantages
            alive[row.group] = alive[row.group] or bool(each.any())
            stamped.append(moved)
        self._figures = self._told_figures(combined, list(alive.values()))
        self._watch(batch, combined)
        return stamped

    def figures(self) -> Mapping[str, float]:
        """Of the latest step, by objective; what is not known is not there."""
        return self._figures

    def messages(self) -> list[str]:
        """What was noticed since the last call; each thing is said once, and once more after a resume."""
        messages, self._unread = self._unread, []
        return messages

    def _combine(self, batch: _Batch, groups: Sequence[int]) -> Combined:
        config = self.config
        values_NK = torch.as_tensor(batch.values_NK)
        return combine(
            values_NK,
            ~torch.isnan(values_NK),
            torch.tensor(groups, dtype=torch.long),
            torch.tensor(self._weights, dtype=torch.float64),
            method=self._method,
            ddof=DDOF if config.ddof is None else config.ddof,
            eps=EPS if config.eps is None else config.eps,
            power=POWER if config.power is None else config.power,
            gamma=GAMMA if config.gamma is None else config.gamma,
            batch_norm=BATCH_NORM if config.batch_norm is None else config.batch_norm,
            lengths_N=torch.tensor(batch.lengths_N, dtype=torch.float64),
        )

    def _moved(self, sample: TrainSample, row: _Row, parts_K: Array, total: float) -> TrainSample:
        length = len(sample.completion_ids)
        if not self._split and not self._joins_gradients:
            return replace(sample, advantages=np.full(length, total))
        parts_KT = parts_K[:, None] * self._masks(length, row.confidence_token)
        advantages = parts_KT.sum(axis=0) if self._split else np.full(length, total)
        return replace(sample, advantages=advantages, objective_advantages=parts_KT if self._joins_gradients else None)

    def _masks(self, length: int, confidence_token: int | None) -> NDArray[np.bool_]:
        """[K, T]; a completion that states no confidence is all answer."""
        before_T = np.arange(length) < (length if confidence_token is None else confidence_token)
        by_tokens = {"all": np.ones(length, dtype=np.bool_), "answer": before_T, "confidence": ~before_T}
        return np.stack([by_tokens[kind.tokens] for kind in self._kinds])

    def _told_figures(self, combined: Combined, alive: Sequence[bool]) -> dict[str, float]:
        found = {
            f"objectives/{name}/{figure.removesuffix('_K')}": float(values_K[k])
            for k, name in enumerate(self._reader.names)
            for figure, values_K in combined.figures._asdict().items()
        }
        found["objectives/agreement"] = float(combined.agreement_G.nanmean())
        found["objectives/live_groups"] = sum(alive) / len(alive) if alive else np.nan
        return {name: value for name, value in found.items() if not np.isnan(value)}

    # -- what a person should know -----------------------------------------------------------------------------------

    def _watch(self, batch: _Batch, combined: Combined) -> None:
        known_NK = ~np.isnan(batch.values_NK)
        for k, (name, kind) in enumerate(zip(self._reader.names, self._kinds, strict=True)):
            values = batch.values_NK[known_NK[:, k], k]
            if len(known_NK) and not len(values) and kind.source != "critic":
                self._tell(
                    f"{name} missing",
                    f"objective {name} has no value for any of {len(known_NK)} rollouts, so it moves nothing: compare "
                    f"[objectives.of.{name}] with what its source gives",
                )
            outside = bool(((values < 0) | (values > 1)).any())
            if outside and self._method in ("sum", "sum_unscaled", "dvao"):
                self._tell(
                    f"{name} range",
                    f"objective {name} has values outside of [0, 1], and combine = {self._method!r} weighs by the "
                    f"spread of each reward as it is: set low and high in [objectives.of.{name}], or use gdpo",
                )
        self._watch_incentive(combined)

    def _watch_criteria(self, groups: Sequence[Group]) -> None:
        scored = {e.criterion for group in groups for said in group.critiques.values() for e in said.evaluative}
        for name, kind in zip(self._reader.names, self._kinds, strict=True):
            wanted = kind.criterion if isinstance(kind, CriticObjectiveConfig) else None
            if wanted is not None and scored and wanted not in scored:
                self._tell(
                    f"{name} criterion",
                    f"objective {name}: no critique of this step scores {wanted!r}, but "
                    f"{' and '.join(map(repr, sorted(scored)))}; correct criterion in [objectives.of.{name}], or name "
                    "it to the critic",
                )

    def _watch_incentive(self, combined: Combined) -> None:
        """A stated confidence is honest where it pays no more than right answers do (arXiv 2507.16806)."""
        judge = "reward" if self.config.without_verifier else "verifier"
        of = {
            source: [k for k, kind in enumerate(self._kinds) if kind.source == source and kind.tokens != "confidence"]
            for source in (judge, "confidence")
        }
        if self._joins_gradients or not all(of.values()):
            return
        right_G, stated_G = (combined.scales_GK[:, columns].sum(1) for columns in of.values())
        both_G = (right_G > 0) & (stated_G > 0)
        if not bool(both_G.any()):
            return
        ratio = float((right_G[both_G] / stated_G[both_G]).median())
        if ratio < 1 - 1e-6:
            self._tell(
                "incentive",
                f"combine = {self.config.combine!r} gives a right answer {ratio:.2g} times the weight of a stated "
                "confidence here, and below 1 a deliberately wrong answer with confidence 0 can pay more than an "
                'honest attempt: use sum_unscaled or dvao, or set tokens = "confidence"',
            )

    def _tell(self, what: str, message: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self._unread.append(message)


class CombinedObjectives:
    """`method` with the advantages of its rollouts replaced; its name and needs stay."""

    def __init__(self, method: Algorithm, combiner: Combiner) -> None:
        self.method = method
        self.combiner = combiner
        self.name = method.name
        self.needs: frozenset[Literal["critique", "refinement", "teacher"]] = method.needs

    def assemble(self, groups: Sequence[Group]) -> list[TrainSample]:
        """The method's samples. Errors: DataError naming objective and rollout, before the method sees a reward."""
        batch = self.combiner.read(groups)
        return self.combiner.stamp(self.method.assemble(groups), batch)
