"""A run's step options as a guard of exploration has turned them.

Owns: which knob changes which option. Must not know: who turns them, or why.
"""

from __future__ import annotations

from critique_rl.policy.channels import StepConfig
from critique_rl.types import Knobs


def at_knobs(config: StepConfig, knobs: Knobs) -> StepConfig:
    """The options with the knobs on top: the very same object while every knob is where it was."""
    if knobs == Knobs():
        return config
    loss: dict[str, object] = {"clip_high": config.loss.clip_high + knobs.clip_high}
    if knobs.entropy_weight is not None:
        loss |= {"entropy_weight": knobs.entropy_weight}
    if knobs.kl_cov_share is not None:
        loss |= {"kl_cov_share": knobs.kl_cov_share}
    rate = config.optimizer.learning_rate * knobs.learning_rate
    return config._replace(
        loss=config.loss.model_copy(update=loss),
        optimizer=config.optimizer.model_copy(update={"learning_rate": rate}),
        temperature=config.temperature + knobs.temperature,
    )
