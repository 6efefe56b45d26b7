"""What an evaluation says of tasks that were trained before.

Owns: success by source of a mixture, with its standard error. Must not know: what is done about a loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist

from critique_rl.config.mixture import part_of
from critique_rl.loop.evaluate import REWARD, Rate, Success
from critique_rl.loop.parts import Parts

_HALF_WIDTH = NormalDist().inv_cdf(0.975)


def success_by_part(found: Mapping[str, Success]) -> dict[str, tuple[float, float]]:
    """(success, standard error) of each source over all its kinds, weighted by how many answers each kind gave; of
    graded rewards the mean reward takes the place of success.

    The errors are read off the 95 % intervals, which know that samples of one task are no independent evidence.
    """
    kinds: dict[str, list[Success]] = {}
    for success in found.values():
        kinds.setdefault(part_of(success.kind), []).append(success)
    parts: dict[str, tuple[float, float]] = {}
    for name, own in kinds.items():
        total = sum(success.trials for success in own)
        rates = [s.rates.get(REWARD, Rate(value=s.success, low=s.low, high=s.high)) for s in own]
        weights = [success.trials / total for success in own]
        errors = [w * (rate.high - rate.low) / (2 * _HALF_WIDTH) for w, rate in zip(weights, rates, strict=True)]
        parts[name] = sum(w * rate.value for w, rate in zip(weights, rates, strict=True)), math.hypot(*errors)
    return parts


def watch_forgetting(parts: Parts, step: int, found: Mapping[str, Success]) -> None:
    """Show an evaluation to the run's forgetting guard, if it has one, and tell what it found."""
    if parts.forgetting is None:
        return
    parts.forgetting.observe(success_by_part(found))
    parts.tracker.log(step, parts.forgetting.figures())
    message = parts.forgetting.message()
    if message:
        parts.tracker.event(step, "forgetting", message)
