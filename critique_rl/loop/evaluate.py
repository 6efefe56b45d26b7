"""Held-out success per kind of task, asked without any hint: with intervals, over several samples, and as votes.

Owns: which tasks are asked how often, and the names of what is measured. Must not know: who reads it, training.
A verifier that fails on an answer counts as a wrong answer everywhere, so that pass@1 is the success rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import NamedTuple

from critique_rl.config.evaluation import EvaluationConfig
from critique_rl.loop.episodes import Episode, sample_answers
from critique_rl.loop.parts import Environment
from critique_rl.loop.queries import query_shares
from critique_rl.protocols import Policy, Reward, RolloutEngine
from critique_rl.stats.calibration_error import batch_figures
from critique_rl.stats.intervals import mean_interval, wilson_interval
from critique_rl.stats.pass_at_k import ProblemMean, mean_pass_at_k, mean_pass_hat_k
from critique_rl.stats.voting import VoteRule, vote
from critique_rl.types import Completion, Score, ScoreStatus, Task, Turn

CONFIDENCE = "confidence"
"""The objective that a verifier of stated confidences leaves in a score, also where none could be read."""
REWARD = "reward"
"""The rate that is the mean reward: there in every kind as soon as one answer is neither right nor worth nothing."""
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
    turns: tuple[Turn, ...] = ()


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
    `measured` are figures that are no rates, such as the tokens of a prompt.
    """

    kind: str
    successes: int
    trials: int
    success: float
    low: float
    high: float
    rates: Mapping[str, Rate] = field(default_factory=dict[str, Rate])
    calibration: Mapping[str, float] = field(default_factory=dict[str, float])
    measured: Mapping[str, float] = field(default_factory=dict[str, float])

    def to_json(self) -> dict[str, object]:
        """As a run's record holds it."""
        told = asdict(self)
        return told if self.measured else {key: value for key, value in told.items() if key != "measured"}


def evaluate(
    tasks: Sequence[Task],
    *,
    policy: Policy,
    engine: RolloutEngine,
    reward: Reward,
    config: EvaluationConfig,
    max_tokens: int,
    seed: int,
    environment: Environment | None = None,
) -> Mapping[str, Success]:
    """Success of the bare policy on `tasks` (on `max_tasks` of them, evenly spread), by kind as they first appear."""
    answers = ask(
        tasks,
        policy=policy,
        engine=engine,
        reward=reward,
        config=config,
        max_tokens=max_tokens,
        seed=seed,
        environment=environment,
    )
    by_kind: dict[str, list[list[Answer]]] = {}
    for i in range(0, len(answers), config.samples_per_task):
        own = answers[i : i + config.samples_per_task]
        by_kind.setdefault(own[0].task.kind or "all", []).append(own)
    found = {kind: _success(kind, of_kind, config.pass_at) for kind, of_kind in by_kind.items()}
    return _with_rewards(found, by_kind)


def ask(
    tasks: Sequence[Task],
    *,
    policy: Policy,
    engine: RolloutEngine,
    reward: Reward,
    config: EvaluationConfig,
    max_tokens: int,
    seed: int,
    environment: Environment | None = None,
) -> list[Answer]:
    """`samples_per_task` verified answers of each task that is asked, those of one task in a row.

    With an environment they are episodes, whose last turns are verified; what their actions cost does not count here.
    """
    count = min(config.max_tasks or len(tasks), len(tasks))
    chosen = [tasks[i * len(tasks) // count] for i in range(count)]
    prompts = [policy.encode(task.messages) for task in chosen]
    asked = [task for task in chosen for _ in range(config.samples_per_task)]
    completions = sample_answers(
        asked,
        [prompt for prompt in prompts for _ in range(config.samples_per_task)],
        environment=environment,
        policy=policy,
        engine=engine,
        max_tokens=max_tokens,
        temperature=config.temperature,
        seed=seed,
    )
    return [_answer(task, completion, reward) for task, completion in zip(asked, completions, strict=True)]


def _answer(task: Task, completion: Completion, reward: Reward) -> Answer:
    turns = completion.turns if isinstance(completion, Episode) else ()
    return Answer(task, completion.text, reward.score(task, turns[-1].text if turns else completion.text), turns)


def figures(found: Mapping[str, Success]) -> dict[str, float]:
    """What trackers get: eval/KIND, its bounds, and eval/KIND/NAME for whatever else was measured."""
    values: dict[str, float] = {}
    for kind, success in found.items():
        rates = {f"eval/{kind}": Rate(value=success.success, low=success.low, high=success.high)}
        rates |= {f"eval/{kind}/{name}": rate for name, rate in success.rates.items()}
        for key, rate in rates.items():
            values |= {key: rate.value, f"{key}/low": rate.low, f"{key}/high": rate.high}
        values |= {f"eval/{kind}/{CONFIDENCE}/{name}": value for name, value in success.calibration.items()}
        values |= {f"eval/{kind}/{name}": value for name, value in success.measured.items()}
    return values


def in_words(found: Mapping[str, Success]) -> str:
    """Success, its interval and the largest pass@k of each kind as one sentence for a person."""
    return "held-out success: " + "; ".join(_told(success) for success in found.values())


def _told(s: Success) -> str:
    reached = [f", {name} {rate.value:.1%}" for name, rate in s.rates.items() if name.startswith("pass@")]
    return f"{s.kind} {s.success:.1%} [{s.low:.1%}, {s.high:.1%}] of {s.trials}{''.join(reached[-1:])}"


def _with_rewards(
    found: Mapping[str, Success], by_kind: Mapping[str, Sequence[Sequence[Answer]]]
) -> Mapping[str, Success]:
    """With the rate REWARD, the mean reward, in every kind if some reward lies between wrong and right."""
    rewards = {k: [[answer.score.reward for answer in of_task] for of_task in tasks] for k, tasks in by_kind.items()}
    everything = [reward for of_kind in rewards.values() for of_task in of_kind for reward in of_task]
    if min(everything, default=0.0) < 0 or not any(0 < reward < 1 for reward in everything):
        return found
    graded: dict[str, Success] = {}
    for kind, success in found.items():
        means = [sum(of_task) / len(of_task) for of_task in rewards[kind]]
        low, high = mean_interval(means) if len(means) > 1 else (0.0, 1.0)
        rate = Rate(value=sum(means) / len(means), low=max(0.0, low), high=min(1.0, high))
        graded[kind] = replace(success, rates={**success.rates, REWARD: rate})
    return graded


def _success(kind: str, answers: Sequence[Sequence[Answer]], ks: Sequence[int]) -> Success:
    scores = [[answer.score for answer in of_task] for of_task in answers]
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
        rates=_pass_rates(samples, right, ks) | _vote_rates(scores) | _query_rates(answers),
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


def _query_rates(answers: Sequence[Sequence[Answer]]) -> dict[str, Rate]:
    """How episodes searched, as means over tasks; nothing where no answer is an episode."""
    rates: dict[str, Rate] = {}
    for name, values in query_shares([[answer.turns for answer in of_task] for of_task in answers]).items():
        low, high = mean_interval(values) if len(values) > 1 else (0.0, 1.0)
        rates[name] = Rate(value=sum(values) / len(values), low=max(0.0, low), high=min(1.0, high))
    return rates


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
