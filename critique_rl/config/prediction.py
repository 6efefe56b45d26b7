"""Where critiques can be predicted: what [refinement] asks of [distillation], whose channel the predictions go through.

Owns: that one rule. Must not know: how either section is used.
"""

from __future__ import annotations

from critique_rl.config.distillation import DistillationConfig
from critique_rl.config.refinement import RefinementConfig

_CROSS_ENTROPY: dict[str, object] = {"divergence": "forward", "target": "teacher", "entry_clip": None, "tail": True}
"""With these the channel's loss of a one-hot target is its cross-entropy."""


def check_prediction(refinement: RefinementConfig, distillation: DistillationConfig) -> None:
    """Raises ValueError where a predicted critique would not be a cross-entropy, or be in a step of another source."""
    if not refinement.predict_critique:
        return
    asked = f"refinement.predict_critique = {refinement.predict_critique} cannot be with"
    for key, wanted in _CROSS_ENTROPY.items():
        value = getattr(distillation, key)
        if value != wanted:
            raise ValueError(
                f"{asked} distillation.{key} = {value!r}, which would apply to the words of a critique as well, and "
                "make their loss something else than a cross-entropy; remove one of the two"
            )
    if distillation.join == "sequential":
        raise ValueError(
            f"{asked} distillation.join = 'sequential', whose steps learn from one source each; choose another join, "
            "or remove predict_critique"
        )
