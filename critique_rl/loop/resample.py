"""Which of a step's sampled groups are trained on, and which prompts are sampled in place of the others.

    drawn -> with recycled prompts -> sampled, verified, watched -> sifted -> further prompts -> ... -> kept

Owns: what counts as nothing to learn, rounds, and what the recycle pool gets. Must not know: how groups are sampled,
advantages. Monitors, plateau tracker and trip wires see every group before it is sifted.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from critique_rl.config.algorithm import PassAtKConfig
from critique_rl.config.run import RunConfig
from critique_rl.errors import ConfigError
from critique_rl.loop.copies import Prompt, prompt_of
from critique_rl.loop.metrics import generated_tokens, group_metrics
from critique_rl.loop.parts import Parts
from critique_rl.loop.seeds import derive_seed
from critique_rl.protocols import GroupState
from critique_rl.stats.group_rewards import overlong_penalty, reward_spread
from critique_rl.types import Group, Message, Score, ScoreStatus, Task

Watched = tuple[Group, GroupState]

BARREN_DRAWS = 20
"""Batches in a row without a prompt that is new to the step, after which a task source is taken for used up."""

_BEFORE_SIFTING = ("reward/", "policy/", "rollout/")


class Dropped:
    """Why a group is not trained on, as figures name it."""

    ALL_RIGHT = "all_right"
    ALL_WRONG = "all_wrong"
    FLAT = "flat"
    UNJUDGED = "unjudged"
    REASONS = (ALL_RIGHT, ALL_WRONG, FLAT, UNJUDGED)


@dataclass(slots=True)
class _Step:
    """What has happened in the step so far."""

    wanted: int = 0
    asked: dict[str, Task] = field(default_factory=dict[str, Task])
    shown: set[tuple[Message, ...]] = field(default_factory=set[tuple[Message, ...]])
    recycled: set[str] = field(default_factory=set[str])
    revived: int = 0
    draws: int = 0
    rounds: int = 0
    kept: int = 0
    missing: int = 0
    groups: list[Group] = field(default_factory=list[Group])
    dropped: Counter[str] = field(default_factory=Counter[str])
    dropped_tokens: int = 0


class Resampler:
    """One run's choice among its groups; without [sampling] every method leaves things as they are."""

    def __init__(self, config: RunConfig, parts: Parts) -> None:
        self._config = config
        self._parts = parts
        self._options = config.sampling
        self._pool = parts.recycle
        self._step = _Step()

    def start(self, step: int, tasks: Sequence[Task]) -> list[Task]:
        """A step's prompts, of which the first ones have given way to prompts of the pool."""
        chosen = list(tasks)
        now = self._step = _Step(wanted=len(chosen))
        if self._pool is not None and self._options is not None:
            known = {task.id for task in tasks}
            # 0.1 * 30 is a little less than 3 in floating point.
            places = int(self._options.recycle_share * len(tasks) + 1e-9)
            back = self._pool.waiting(step=step, apart_from=known)[:places]
            now.recycled = {task.id for task in back}
            chosen = [*back, *chosen[len(back) :]]
        self._note_asked(chosen)
        return chosen

    def sift(self, step: int, found: Sequence[Watched]) -> list[Watched]:
        """The groups of one round that something can be learned from; the pool gets the prompts of the others.

        Copies of one prompt are judged together, since they share a baseline. A plateaued group stays: what its critic
        says, or a remembered refinement, is a signal where rewards are none.
        """
        now, options = self._step, self._options
        now.rounds += 1
        now.groups += [group for group, _ in found]
        if options is None or not options.sorts_groups:
            return list(found)
        together: dict[Prompt, list[Score]] = {}
        for group, _ in found:
            together.setdefault(prompt_of(group.task), []).extend(group.scores)
        kept: list[Watched] = []
        for group, state in found:
            scores = together[prompt_of(group.task)]
            differ = self._differ(scores, least=options.min_std)
            now.revived += differ and group.task.id in now.recycled
            if differ or group.plateaued or self._remembered(step, group):
                kept.append((group, state))
                self._forget(group.task)
            else:
                self._set_aside(step, group, scores)
        if not options.dynamic:
            return list(found)
        now.kept += len(kept)
        return kept

    def more(self, step: int) -> list[Task]:
        """The prompts of a further round, as many as groups are missing; [] where the step is over.

        Errors: ConfigError if groups are missing after the last round and the run is not to train on what there is.
        """
        now, options = self._step, self._options
        if options is None or not options.dynamic:
            return []
        now.missing = max(0, now.wanted - now.kept)
        if not now.missing:
            return []
        fresh = self._fresh(step, now.missing) if now.rounds < options.max_rounds else []
        if not fresh and options.when_short == "error":
            raise ConfigError(
                f"sampling.when_short: after {now.rounds} rounds of step {step + 1} there are {now.kept} groups with "
                f"rewards that differ, and rollout.prompts_per_step = {now.wanted} are wanted (dropped: "
                f"{', '.join(f'{now.dropped[why]} {why}' for why in Dropped.REASONS if now.dropped[why])}); raise "
                'sampling.max_rounds, take other tasks, or set when_short = "train"'
            )
        self._note_asked(fresh)
        return fresh

    @property
    def rounds(self) -> int:
        """Rounds of the present step that are over."""
        return self._step.rounds

    def figures(self) -> Mapping[str, float]:
        """Of the latest step; rewards, entropy and lengths are those of all groups that were sampled."""
        now, options = self._step, self._options
        if options is None:
            return {}
        found: dict[str, float] = {}
        if options.dynamic:
            found |= {k: v for k, v in group_metrics(now.groups).items() if k.startswith(_BEFORE_SIFTING)}
            found |= {
                "sampling/rounds": float(now.rounds),
                "sampling/kept": float(now.kept),
                "sampling/missing": float(now.missing),
                "sampling/extra_tokens": float(now.dropped_tokens),
                **{f"sampling/dropped_{why}": float(now.dropped[why]) for why in Dropped.REASONS},
            }
        if self._pool is not None:
            found |= {
                "sampling/pool": float(len(self._pool)),
                "sampling/recycled": float(len(now.recycled)),
                "sampling/recycled_differ": float(now.revived),
            }
        return found | self._masked()

    def _masked(self) -> dict[str, float]:
        options = self._options
        rollouts = [rollout for group in self._step.groups for rollout in group.rollouts]
        found: dict[str, float] = {}
        if options is not None and options.overlong_filter:
            found["sampling/truncated"] = float(sum(not rollout.finished for rollout in rollouts))
        if options is not None and options.drop_void_turns:
            void = [any(not turn.action for turn in rollout.turns) for rollout in rollouts]
            found["sampling/void_episodes"] = float(sum(void))
        if options is not None and options.overlong_buffer and rollouts:
            limit, buffer = self._config.rollout.max_tokens, options.overlong_buffer
            lost = [overlong_penalty(len(r.completion_ids), limit=limit, buffer=buffer) for r in rollouts]
            found["sampling/overlong_penalty"] = sum(lost) / len(lost)
        return found

    def _differ(self, scores: Sequence[Score], *, least: float) -> bool:
        method = self._config.algorithm
        if reward_spread(self._counted(scores)) <= least:
            return False
        if not isinstance(method, PassAtKConfig):
            return True
        # With fewer than k wrong ones every draw of k holds a right one, and no draw is better than another.
        right_from = 1.0 if method.threshold is None else method.threshold
        judged = [score for score in scores if score.status is not ScoreStatus.ERROR]
        return sum(score.status is not ScoreStatus.OK or score.reward < right_from for score in judged) >= method.k

    def _counted(self, scores: Sequence[Score]) -> list[float]:
        valid_only = self._options is not None and self._options.std_over == "valid"
        counts = (ScoreStatus.OK,) if valid_only else (ScoreStatus.OK, ScoreStatus.UNPARSED)
        return [score.reward for score in scores if score.status in counts]

    def _remembered(self, step: int, group: Group) -> bool:
        """Whether [replay] will inject an earlier refinement into this group, in which every rollout failed."""
        memory = self._parts.replay
        judged = [score for score in group.scores if score.status is not ScoreStatus.ERROR]
        if memory is None or not judged or any(score.correct for score in judged):
            return False
        return memory.recall(group.task.id, step=step) is not None

    def _set_aside(self, step: int, group: Group, scores: Sequence[Score]) -> None:
        why = _reason(scores)
        self._step.dropped[why] += 1
        self._step.dropped_tokens += generated_tokens([group])
        options = self._options
        if self._pool is None or options is None or why == Dropped.UNJUDGED:
            return
        if options.recycle_from == "all" or not any(score.correct for score in scores):
            # As it was drawn: the group's may have been dressed for this step.
            self._pool.put(self._step.asked.get(group.task.id, group.task), step=step)
        else:
            self._pool.forget(group.task.id)

    def _forget(self, task: Task) -> None:
        if self._pool is not None:
            self._pool.forget(task.id)

    def _fresh(self, step: int, count: int) -> list[Task]:
        """Prompts that this step has not asked yet, from the batches that other seeds would have drawn for it.

        The step stays the same, so that a source that changes with it gives what it gives now; fewer than `count` where
        it has no more.
        """
        now, seed = self._step, self._config.seed
        found: dict[tuple[Message, ...], Task] = {}
        barren = 0
        while len(found) < count and barren < BARREN_DRAWS:
            now.draws += 1
            drawn = self._parts.tasks.batch(step, now.wanted, seed=derive_seed(seed, now.draws, "tasks"))
            before = len(found)
            known = {task.id for task in found.values()}
            # A source may sort its batches, hard tasks first: then their head is no sample of them.
            for task in random.Random(derive_seed(seed, step, f"tasks/{now.draws}")).sample(drawn, len(drawn)):
                if (
                    len(found) < count
                    and task.id not in now.asked
                    and task.id not in known
                    and task.messages not in now.shown
                ):
                    found.setdefault(task.messages, task)
            barren = 0 if len(found) > before else barren + 1
        return list(found.values())

    def _note_asked(self, tasks: Sequence[Task]) -> None:
        self._step.asked |= {task.id: task for task in tasks}
        self._step.shown |= {task.messages for task in tasks}


def _reason(scores: Sequence[Score]) -> str:
    judged = [score for score in scores if score.status is not ScoreStatus.ERROR]
    if not judged:
        return Dropped.UNJUDGED
    if all(score.correct for score in judged):
        return Dropped.ALL_RIGHT
    return Dropped.ALL_WRONG if max(score.reward for score in judged) <= 0 else Dropped.FLAT
