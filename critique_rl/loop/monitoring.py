"""When monitors see answers: each step's rollouts before any filter, and a fixed set of held-out tasks now and then.

Owns: how the probe is sampled, and where figures and messages go. Must not know: what is measured. Probes, like
evaluations, do not count into the token budget, and change no weight and no random number of training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from critique_rl.config.run import RunConfig
from critique_rl.loop.collect import collect
from critique_rl.loop.parts import Parts
from critique_rl.loop.seeds import derive_seed
from critique_rl.types import Group, Task


def monitor_batch(parts: Parts, step: int, groups: Sequence[Group]) -> None:
    """All groups of a step, as they were sampled; call it once a step, before any of them is dropped."""
    if parts.monitors is not None:
        parts.monitors.observe(step, groups)
        _tell(parts, step + 1)


def probe(config: RunConfig, parts: Parts, step: int, *, last: bool) -> bool:
    """Ask the probe's tasks if that is due before this step (`last`: or the run ends here); whether it was."""
    if config.monitors is None or parts.monitors is None or not parts.monitors.probe_due(step, last=last):
        return False
    tasks = probe_tasks(parts.tasks.held_out(), config.monitors.probe_tasks)
    groups = collect(
        tasks,
        policy=parts.policy,
        engine=parts.engine,
        reward=parts.reward,
        config=config.rollout.model_copy(
            update={
                "group_size": config.monitors.probe_samples,
                "max_tokens": config.evaluation_tokens,
                "first_turn_candidates": None,
            }
        ),
        step=step,
        seed=derive_seed(config.seed, step, "probe"),
        environment=parts.environment,
    )
    parts.monitors.observe_probe(step, groups)
    parts.tracker.log(step, parts.monitors.probe_figures())
    _tell(parts, step)
    return True


def probe_tasks(held_out: Sequence[Task], most: int) -> list[Task]:
    """The tasks of every probe of a run: `most` of the held-out ones, evenly spread over their order."""
    count = min(most, len(held_out))
    return [held_out[i * len(held_out) // count] for i in range(count)]


def monitor_figures(parts: Parts) -> Mapping[str, float]:
    """What trackers get with a step: the figures of its batch."""
    return parts.monitors.figures() if parts.monitors is not None else {}


def _tell(parts: Parts, step: int) -> None:
    assert parts.monitors is not None
    for message in parts.monitors.messages():
        parts.tracker.event(step, "monitors", message)
