"""What a critic is worth before anybody pays for training: second attempts under its critiques, against a bare "wrong".

Owns: sampling attempts to a file, the measurement, and the table with its reading. Must not know: how critics answer.
It stands beside `experiment`: config in, live objects from `build`, plain JSON out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, cast

from critique_rl.build import build, policy_asker
from critique_rl.build_critic import build_critic
from critique_rl.config.algorithm import GrpoConfig
from critique_rl.config.critic import (
    CriticConfig,
    RemoteCriticConfig,
    members_of,
    shows_reference,
    with_members,
)
from critique_rl.config.run import RunConfig
from critique_rl.critics.policy_critic import AskOptions, PolicyAnswer
from critique_rl.errors import ConfigError, CriticError, DataError
from critique_rl.feedback.rows import RolloutRow, request_of
from critique_rl.loop.collect import as_rollout
from critique_rl.loop.criticize import usable
from critique_rl.loop.judge import BARE_VERDICT, mean_score
from critique_rl.loop.parts import Parts
from critique_rl.loop.second_attempts import Hint, sample_again
from critique_rl.loop.seeds import derive_seed
from critique_rl.policy.hf import HFPolicy
from critique_rl.prompting.catalogue import load_prompt
from critique_rl.prompting.template import PromptTemplate
from critique_rl.protocols import Critic
from critique_rl.provenance import commit, device_name, versions
from critique_rl.report.rescue_table import CONTROL, Arm, Rescues, rescue_table
from critique_rl.trackers.fanout import FanoutTracker
from critique_rl.types import Message, ScoreStatus

Json = dict[str, object]
Say = Callable[[str], None]
DETAIL_SHOWN = "critics saw the verifier's report, so their verdicts and scores are not their own"


@dataclass(frozen=True, slots=True, kw_only=True)
class RescueOptions:
    """How to measure: `samples` second attempts per failed attempt, at most `limit` failed attempts (None: all).

    `with_reference` adds an arm per critic that is shown the answer. `show_detail` lets critics see the verifier's
    report, as in training; their verdicts and scores are then not their own. `checkpoint`: the policy's weights.
    """

    samples: int = 1
    limit: int | None = None
    with_reference: bool = False
    show_detail: bool = False
    checkpoint: Path | None = None


class Attempts(NamedTuple):
    """Verified rows, wrong and right ones apart; those whose verifier failed are in neither."""

    wrong: list[RolloutRow]
    right: list[RolloutRow]


class _Planned(NamedTuple):
    """An arm to measure. `config` None is the control."""

    name: str
    config: CriticConfig | None
    show_reference: bool = False


class _Bench(NamedTuple):
    """What all arms share."""

    parts: Parts
    template: PromptTemplate
    config: RunConfig
    options: RescueOptions


def sample_rollouts(
    config: RunConfig, *, tasks: int | None = None, group_size: int | None = None, checkpoint: Path | None = None
) -> list[RolloutRow]:
    """Verified attempts of the run's policy at the first `tasks` tasks of the run's order, `group_size` each.

    Ids hold the policy's version, so that files of several checkpoints can be joined. Errors: as `build`, and
    ConfigError or DataError if there are not so many tasks.
    """
    parts = _bare_parts(config, checkpoint)
    asked = parts.tasks.batch(0, tasks or config.rollout.prompts_per_step, seed=config.seed)
    size = group_size or config.rollout.group_size
    planned = [(task, i, parts.policy.encode(task.messages)) for task in asked for i in range(size)]
    completions = parts.engine.generate(
        [prompt for *_, prompt in planned],
        max_tokens=config.rollout.max_tokens,
        temperature=config.rollout.temperature,
        seed=derive_seed(config.seed, 0, "rollout"),
    )
    rows: list[RolloutRow] = []
    for (task, i, prompt), completion in zip(planned, completions, strict=True):
        row_id = f"v{parts.policy.version}/{task.id}/{i}"
        rollout = as_rollout(row_id, task, prompt, completion, parts.policy.version)
        rows.append(
            RolloutRow(
                id=rollout.id,
                task=task,
                attempt=rollout.text,
                score=parts.reward.score(task, rollout.text),
                finished=rollout.finished,
                policy=config.policy.model,
                policy_version=rollout.policy_version,
                temperature=config.rollout.temperature,
                prompt_ids=rollout.prompt_ids,
                completion_ids=rollout.completion_ids,
                behaviour_logprobs=rollout.behaviour_logprobs,
            )
        )
    return rows


def failed(row: RolloutRow) -> bool:
    """Whether the verifier found the attempt wrong; a verifier that failed itself says nothing."""
    return row.score is not None and not row.score.correct and row.score.status is not ScoreStatus.ERROR


def rescue(
    config: RunConfig,
    critics: Sequence[tuple[str, CriticConfig]],
    rows: Sequence[RolloutRow],
    *,
    options: RescueOptions,
    command: str = "",
    say: Say = lambda _: None,
) -> Json:
    """Measure each critic, given as (what to call it, its config), and the control on a file's failed attempts.

    Right attempts of the file are sent to the critics too, as many as there are failed ones at most: only with both can
    their verdicts and scores be judged. Rescue belongs to a critic AND a policy: every arm is measured on the policy
    that will be trained, under the run's own refinement prompt, temperature and length. Returns the result in the
    form of docs/results; `report.rescue_table` says how to read its table.
    Errors: as `build`, DataError for rows that cannot be used, CriticSetupError.
    """
    started = time.monotonic()
    plan = _plan(critics, with_reference=options.with_reference)
    template = load_prompt(config.refinement.prompt)
    template.check_available(("question", "attempt", "directive"))
    made: list[Parts] = []
    with ExitStack() as open_critics:
        built = [_built(planned, made, open_critics) for planned in plan]  # first: a missing key is told at once
        bench = _Bench(parts=_bare_parts(config, options.checkpoint), template=template, config=config, options=options)
        made.append(bench.parts)
        attempts = _verified(rows, bench.parts, limit=options.limit)
        arms: list[Arm] = []
        for planned, critic in zip(plan, built, strict=True):
            say(f"{planned.name}: {len(attempts.wrong)} failed attempts")
            arms.append(_measured(planned, critic, attempts, bench))
    table = rescue_table(arms, samples=options.samples, tasks=len({row.task.id for row in attempts.wrong}))
    if options.show_detail:
        cast("list[str]", table["notes"]).append(DETAIL_SHOWN)
    return {
        "title": f"Rescue rates of {config.policy.model} under critiques",
        **table,
        "policy": config.policy.model,
        "checkpoint": str(options.checkpoint) if options.checkpoint else None,
        "policy_version": bench.parts.policy.version,
        "seeds": [config.seed],
        "command": command,
        "device": device_name(cpu=config.policy.device == "cpu"),
        "versions": versions(),
        "commit": commit(),
        "wall_time_s": round(time.monotonic() - started, 1),
    }


def _bare_parts(config: RunConfig, checkpoint: Path | None) -> Parts:
    """Policy, engine, tasks and verifier of a run, and nothing else."""
    parts = build(
        config.model_copy(update={"algorithm": GrpoConfig(), "critic": None, "feedback": None}),
        tracker=FanoutTracker([]),
    )
    if parts.environment is not None:
        raise ConfigError(
            f'tasks.kind = "{config.tasks.kind}": a file of attempts does not tell which words were the tool\'s, so '
            "that episodes can be neither written to one nor tried again from it; train with a critic instead"
        )
    if checkpoint is not None:
        parts.policy.restore(checkpoint)
    return parts


def _plan(critics: Sequence[tuple[str, CriticConfig]], *, with_reference: bool) -> list[_Planned]:
    names = [name for name, _ in critics]
    twice = next((name for name in names if names.count(name) > 1 or name == CONTROL), None)
    if twice is not None:
        raise ConfigError(f"two arms would be called {twice!r}; give one of the critics another name")
    plan = [_Planned(CONTROL, None)]
    for name, config in critics:
        if config.kind == "none":
            raise ConfigError("critic 'none' says nothing to be measured; the control arm is always there")
        shown = "show_reference" in type(config).model_fields
        patient = _without_deadline(config)
        plan.append(_Planned(name, patient, shows_reference(config)))
        if with_reference and shown and not shows_reference(config):
            told = patient.model_copy(update={"show_reference": True})
            plan.append(_Planned(f"{name} + reference", told, show_reference=True))
    return plan


def _without_deadline(config: CriticConfig) -> CriticConfig:
    """A stage's deadline is set for one training step, and here all attempts are sent at once."""
    if members_of(config):
        return with_members(config, _without_deadline)
    return config.model_copy(update={"stage_deadline_s": None}) if isinstance(config, RemoteCriticConfig) else config


def _verified(rows: Sequence[RolloutRow], parts: Parts, *, limit: int | None) -> Attempts:
    """The rows to use, each with a score. Errors: DataError."""
    unanswered = next((row for row in rows if row.task.verifier == "exact" and not row.task.answer), None)
    if unanswered is not None:
        raise DataError(
            f"row {unanswered.id!r} has no answer, so no second attempt could be verified; add answer, or name a "
            "verifier that needs none"
        )
    for task in {row.task.id: row.task for row in rows}.values():
        parts.reward.score(task, "")  # an unknown verifier is found before any critic is paid
    scored = [row if row.score else replace(row, score=parts.reward.score(row.task, row.attempt)) for row in rows]
    wrong = [row for row in scored if failed(row)][:limit]
    if not wrong:
        raise DataError(f"none of the {len(rows)} attempts is a failed one, so there is nothing to rescue")
    right = [row for row in scored if row.score is not None and row.score.correct][: len(wrong)]
    return Attempts(wrong, right)


def _built(planned: _Planned, made: Sequence[Parts], open_critics: ExitStack) -> Critic | None:
    """The arm's critic, closed with the stack; self-critique gets the policy of `made`, which is loaded later."""

    def ask(asked: Sequence[tuple[Message, ...]], options: AskOptions) -> Sequence[PolicyAnswer | CriticError]:
        parts = made[0]
        assert isinstance(parts.policy, HFPolicy)
        return policy_asker(parts.policy, parts.engine)(asked, options)

    critic = build_critic(planned.config, ask=ask) if planned.config is not None else None
    if critic is not None:
        open_critics.callback(critic.close)
    return critic


def _measured(planned: _Planned, critic: Critic | None, attempts: Attempts, bench: _Bench) -> Arm:
    count = len(attempts.wrong)
    if critic is None:
        rescues = _second_attempts(attempts.wrong, [BARE_VERDICT] * count, bench)
        return Arm(name=planned.name, rescues=rescues)
    shown = [*attempts.wrong, *attempts.right]
    if not bench.options.show_detail:
        shown = [replace(row, score=replace(row.score, detail="")) for row in shown if row.score is not None]
    critiques = critic.review([request_of(row, show_reference=planned.show_reference) for row in shown])
    directives = [critique.directive_text if usable(critique) else "" for critique in critiques[:count]]
    return Arm(
        name=planned.name,
        rescues=_second_attempts(attempts.wrong, directives, bench),
        critiques=tuple(critiques),
        scores=tuple(map(mean_score, critiques)),
        correct=tuple(row.score is not None and row.score.correct for row in shown),
    )


def _second_attempts(rows: Sequence[RolloutRow], directives: Sequence[str], bench: _Bench) -> tuple[Rescues, ...]:
    """What became of each failed attempt; one without a directive gets no second attempt."""
    told = [(row, text) for row, text in zip(rows, directives, strict=True) if text]
    sampled = iter(
        sample_again(
            [Hint(row.task, row.attempt, text) for row, text in told],
            policy=bench.parts.policy,
            engine=bench.parts.engine,
            template=bench.template,
            rollout=bench.config.rollout,
            seed=derive_seed(bench.config.seed, 0, "rescue"),
            times=bench.options.samples,
        )
    )
    found: list[Rescues] = []
    for row, text in zip(rows, directives, strict=True):
        seconds = [attempt.completion for attempt in next(sampled)] if text else []
        found.append(
            Rescues(
                sampled=len(seconds),
                verified=sum(bench.parts.reward.score(row.task, one.text).correct for one in seconds),
                tokens=sum(len(one.completion_ids) for one in seconds),
            )
        )
    return tuple(found)
