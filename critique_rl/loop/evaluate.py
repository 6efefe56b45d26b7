"""Held-out success per kind of task, asked without any hint: with intervals, over several samples, and as votes.

Owns: which tasks are asked how often, and the names of what is measured. Must not know: who reads it, training.
A verifier that fails on an answer counts as a wrong answer everywhere, so that pass@1 is the success rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from critique_rl.config.evaluation import EvaluationConfig
from critique_rl.protocols import Policy, Reward, RolloutEngine
from critique_rl.stats.calibration import batch_figures
from critique_rl.stats.intervals import wilson_interval
from critique_rl.stats.pass_at_k import ProblemMean, mean_pass_at_k, mean_pass_hat_k
from critique_rl.stats.voting import VoteRule, vote
from critique_rl.types import Score, ScoreStatus, Task

CONFIDENCE = "confidence"
"""The objective that a verifier of stated confidences leaves in a score, also where none could be read."""
VOTES: Mapping[str, VoteRule] = {
    "majority_vote": "majority",
    "weighted_vote": "weighted",
    "most_confident": "most_confident",
}


class Answer(NamedTuple):
    """One answer of the bare policy to one held-out task."""

    task: Task
    text: str
    score: Score


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A rate over tasks; `low` and `high` bound it at 95 %."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Success:
    """Verified successes of one kind of task; `low` and `high` bound the rate over such tasks at 95 %: Wilson's bounds,
    or with several samples of a task the bounds of pass@1, to which samples of one task are no independent evidence.

    `rates` are further rates over tasks by name: "pass@4", "pass^4", "majority_vote". `calibration` says how far stated
    confidences can be believed, by figure of `stats.calibration.batch_figures`; empty where none are asked for.
    """

    kind: str
    successes: int
    trials: int
    success: float
    low: float
    high: float
    rates: Mapping[str, Rate] = field(default_factory=dict[str, Rate])
    calibration: Mapping[str, float] = field(default_factory=dict[str, float])


def evaluate(
    tasks: Sequence[Task],
    *,
    policy: Policy,
    engine: RolloutEngine,
    reward: Reward,
    config: EvaluationConfig,
    max_tokens: int,
    seed: int,
) -> Mapping[str, Success]:
    """Success of the bare policy on `tasks` (on `max_tasks` of them, evenly spread), by kind as they first appear."""
    answers = ask(tasks, policy=policy, engine=engine, reward=reward, config=config, max_tokens=max_tokens, seed=seed)
    judged: dict[str, list[list[Score]]] = {}
    for i in range(0, len(answers), config.samples_per_task):
        own = answers[i : i + config.samples_per_task]
        judged.setdefault(own[0].task.kind or "all", []).append([answer.score for answer in own])
    return {kind: _success(kind, scores, config.pass_at) for kind, scores in judged.items()}


def ask(
    tasks: Sequence[Task],
    *,
    policy: Policy,
    engine: RolloutEngine,
    reward: Reward,
    config: EvaluationConfig,
    max_tokens: int,
    seed: int,
) -> list[Answer]:
    """`samples_per_task` verified answers of each task that is asked, those of one task in a row."""
    count = min(config.max_tasks or len(tasks), len(tasks))
    chosen = [tasks[i * len(tasks) // count] for i in range(count)]
    prompts = [policy.encode(task.messages) for task in chosen]
    completions = engine.generate(
        [prompt for prompt in prompts for _ in range(config.samples_per_task)],
        max_tokens=max_tokens,
        temperature=config.temperature,
        seed=seed,
    )
    asked = [task for task in chosen for _ in range(config.samples_per_task)]
    return [Answer(t, c.text, reward.score(t, c.text)) for t, c in zip(asked, completions, strict=True)]


def figures(found: Mapping[str, Success]) -> dict[str, float]:
    """What trackers get: eval/KIND, its bounds, and eval/KIND/NAME for whatever else was measured."""
    values: dict[str, float] = {}
    for kind, success in found.items():
        rates = {f"eval/{kind}": Rate(value=success.success, low=success.low, high=success.high)}
        rates |= {f"eval/{kind}/{name}": rate for name, rate in success.rates.items()}
        for key, rate in rates.items():
            values |= {key: rate.value, f"{key}/low": rate.low, f"{key}/high": rate.high}
        values |= {f"eval/{kind}/{CONFIDENCE}/{name}": value for name, value in success.calibration.items()}
    return values


def in_words(found: Mapping[str, Success]) -> str:
    """Success, its interval and the largest pass@k of each kind as one sentence for a person."""
    return "held-out success: " + "; ".join(_told(success) for success in found.values())


def _told(s: Success) -> str:
    reached = [f", {name} {rate.value:.1%}" for name, rate in s.rates.items() if name.startswith("pass@")]
    return f"{s.kind} {s.success:.1%} [{s.low:.1%}, {s.high:.1%}] of {s.trials}{''.join(reached[-1:])}"


def _success(kind: str, scores: Sequence[Sequence[Score]], ks: Sequence[int]) -> Success:
    right = [sum(score.correct for score in of_task) for of_task in scores]
    samples = [len(of_task) for of_task in scores]
    once = max(samples) == 1
    interval = wilson_interval(sum(right), len(right)) if once else _rate(mean_pass_at_k(samples, right, 1))
    return Success(
        kind=kind,
        successes=sum(right),
        trials=sum(samples),
        success=sum(right) / sum(samples),
        low=interval.low,
        high=interval.high,
        rates=_pass_rates(samples, right, ks) | _vote_rates(scores),
        calibration=_calibration([score for of_task in scores for score in of_task]),
    )


def _pass_rates(samples: Sequence[int], right: Sequence[int], ks: Sequence[int]) -> dict[str, Rate]:
    rates: dict[str, Rate] = {}
    for k in sorted(ks):
        rates[f"pass@{k}"] = _rate(mean_pass_at_k(samples, right, k))
        if k > 1:
            rates[f"pass^{k}"] = _rate(mean_pass_hat_k(samples, right, k))
    return rates


def _rate(mean: ProblemMean) -> Rate:
    return Rate(value=mean.value, low=mean.low, high=mean.high)


def _vote_rates(scores: Sequence[Sequence[Score]]) -> dict[str, Rate]:
    """How often the answer that a task's samples elect is right; nothing where no sample has an answer to vote for."""
    everything = [score for of_task in scores for score in of_task]
    if len(everything) == len(scores) or all(score.extracted is None for score in everything):
        return {}
    stated = any(score.confidence is not None for score in everything)
    rates: dict[str, Rate] = {}
    for name, rule in VOTES.items():
        if rule == "majority" or stated:
            right = sum(_elects_a_right_one(of_task, rule) for of_task in scores)
            interval = wilson_interval(right, len(scores))
            rates[name] = Rate(value=right / len(scores), low=interval.low, high=interval.high)
    return rates


def _elects_a_right_one(of_task: Sequence[Score], rule: VoteRule) -> bool:
    elected = vote([score.extracted for score in of_task], [score.confidence for score in of_task], rule=rule)
    return elected is not None and of_task[elected.first].correct


def _calibration(scores: Sequence[Score]) -> dict[str, float]:
    known = [score for score in scores if score.status is not ScoreStatus.ERROR]
    if not any(score.confidence is not None or CONFIDENCE in score.objectives for score in known):
        return {}
    return batch_figures([score.confidence for score in known], [score.correct for score in known])
