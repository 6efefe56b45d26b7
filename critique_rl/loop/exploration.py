"""What a guard of exploration sees of a step, and how what it turned is put into effect: between two steps, but for the
weight of an entropy bonus, which answers to the entropy of the step it counts in.

Owns: where its figures are read, and that rollouts are sampled and scored at one temperature. Must not know: when it
acts, or on what. Probes and evaluations keep the run's own temperature, so that they stay comparable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from critique_rl.config.run import RolloutConfig, RunConfig
from critique_rl.loop.checkpoint import checkpoint_directory
from critique_rl.loop.guards import Vitals
from critique_rl.loop.parts import Parts
from critique_rl.protocols import StepReport
from critique_rl.types import Group, ScoreStatus

STRATEGIES = "monitor/batch/strategy_entropy"
PROBE = "monitor/probe/pass@"


def begin_step(parts: Parts, step: int, *, checkpoints: Path) -> None:
    """Put the guard's knobs into effect, and go back to an earlier policy if it says so. Errors: CheckpointError."""
    guard = parts.exploration
    if guard is None:
        return
    back_to = guard.take_rollback()
    if back_to is not None:
        parts.policy.restore(checkpoint_directory(checkpoints, back_to))
        message = f"weights and optimizer are those after step {back_to} again; counters and memories go on"
        parts.tracker.event(step + 1, "exploration", message)
    parts.policy.set_knobs(guard.knobs)


def rollout_now(config: RunConfig, parts: Parts) -> RolloutConfig:
    """How attempts are sampled in this step."""
    rise = parts.exploration.knobs.temperature if parts.exploration is not None else 0.0
    if rise == 0.0:
        return config.rollout
    return config.rollout.model_copy(update={"temperature": config.rollout.temperature + rise})


def watch_exploration(parts: Parts, step: int, groups: Sequence[Group], *, vitals: Callable[[], Vitals]) -> None:
    """All groups of a step as they were sampled and their vitals, after the monitors have seen them. What follows holds
    from the next step, but for the weight of an entropy bonus."""
    guard = parts.exploration
    if guard is None:
        return
    seen = vitals()
    measured = parts.monitors.figures() if parts.monitors is not None else {}
    held = guard.knobs
    guard.observe(
        step,
        entropy=seen.entropy,
        success=seen.success,
        truncated=seen.truncated,
        p95_tokens=seen.p95_tokens,
        zero_variance=zero_variance(groups),
        strategy_entropy=measured.get(STRATEGIES),
    )
    # The other knobs must not change between a step's rollouts and its training: they are read at the next start.
    weight = guard.knobs.entropy_weight
    if weight != held.entropy_weight:
        parts.policy.set_knobs(replace(held, entropy_weight=weight))
    for message in guard.messages():
        parts.tracker.event(step + 1, "exploration", message)


def note_probe(config: RunConfig, parts: Parts) -> None:
    """The fixed tasks were just asked: what single answers did, and the best of as many as were asked for."""
    if parts.exploration is None or parts.monitors is None or config.monitors is None:
        return
    figures = parts.monitors.probe_figures()
    sizes = [int(name.removeprefix(PROBE)) for name in figures if name.removeprefix(PROBE).isdigit()]
    if len(sizes) > 1:
        tasks = min(config.monitors.probe_tasks, len(parts.tasks.held_out()))
        once, most = figures[f"{PROBE}{min(sizes)}"], figures[f"{PROBE}{max(sizes)}"]
        parts.exploration.observe_probe(pass_at_1=once, pass_at_k=most, tasks=tasks)


def note_training(parts: Parts, report: StepReport) -> None:
    """The training step after the rollouts that were watched last."""
    if parts.exploration is not None and report.applied:
        clipped = report.diagnostics.get("ratio/clip_fraction")
        parts.exploration.note_training(grad_norm=report.grad_norm, clip_fraction=clipped)


def pinned_checkpoint(parts: Parts, step: int) -> int | None:
    """The checkpoint that must outlive newer ones; call it before the run's state is written."""
    return None if parts.exploration is None else parts.exploration.note_checkpoint(step)


def exploration_figures(parts: Parts) -> Mapping[str, float]:
    """For the trackers."""
    return {} if parts.exploration is None else parts.exploration.figures()


def zero_variance(groups: Sequence[Group]) -> float | None:
    """The share of groups whose rewards are all equal, of those in which two or more rollouts could be judged."""
    rewards = [[s.reward for s in group.scores if s.status is not ScoreStatus.ERROR] for group in groups]
    judged = [of_group for of_group in rewards if len(of_group) > 1]
    return sum(max(r) == min(r) for r in judged) / len(judged) if judged else None
