"""Watches in which formats a policy answers, against the first observation.

Owns: the reference, the figures, and that each alert is told once while it lasts. Must not know: trackers, the loop,
which prompts are asked. The prediction and the warning signs are after arXiv 2504.07912, known to us from summaries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from pydantic import TypeAdapter, ValidationError

from critique_rl.errors import CheckpointError
from critique_rl.monitors.counting import Figures, Tally, by_format, tally
from critique_rl.monitors.detectors import Classifier
from critique_rl.monitors.format_alerts import format_alerts
from critique_rl.monitors.prompts import Prompt
from critique_rl.stats.entropy import entropy, spread
from critique_rl.stats.formats import (
    excess_dominance,
    jensen_shannon,
    shift_share,
    simpson,
    tilt_formats,
    tilt_inside,
    total_variation,
)

DOMINANT = 0.9


@dataclass(slots=True, kw_only=True)
class _State:
    first: Tally = field(default_factory=Tally)
    first_step: int = 0
    dominant_since: int | None = None
    standing: list[str] = field(default_factory=list[str])
    classifier: dict[str, object] = field(default_factory=dict[str, object])


_STATE: TypeAdapter[_State] = TypeAdapter(_State)


class FormatMonitor:
    """One stream of answers: a run's batches, or its probes. `kl_weight` is the beta that shares are predicted with."""

    def __init__(self, classifier: Classifier, *, kl_weight: float, early_steps: int) -> None:
        self._classifier = classifier
        self._kl_weight = kl_weight
        self._early_steps = early_steps
        self._state = _State()

    def observe(self, step: int, prompts: Sequence[Prompt]) -> tuple[Figures, list[str]]:
        """This observation's figures, and alerts that were not standing before it."""
        texts = [text for prompt in prompts for text in prompt.texts]
        if not texts:
            return {}, []
        state = self._state
        self._classifier.fit(texts)
        different = list(dict.fromkeys(texts))
        labels = dict(zip(different, self._classifier.label(different), strict=True))
        now = tally(prompts, labels)
        if not state.first.total:
            state.first, state.first_step = now, step
        if state.dominant_since is None and now.share(now.dominant) > DOMINANT:
            state.dominant_since = step
        alerts = format_alerts(state.first, now, early=step - state.first_step <= self._early_steps)
        told = [alert for key, alert in alerts.items() if key not in state.standing]
        state.standing = list(alerts)
        figures = self._figures(now) | self._explained(now) | by_format(prompts, labels)
        if state.dominant_since is not None:
            figures["dominant_since"] = float(state.dominant_since)
        return figures, told

    def state_dict(self) -> dict[str, object]:
        """The reference and what was told, as plain JSON; its size does not grow with the run."""
        self._state.classifier = self._classifier.state_dict()
        return cast("dict[str, object]", _STATE.dump_python(self._state, mode="json"))

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """The inverse of `state_dict`. Errors: CheckpointError."""
        try:
            self._state = _STATE.validate_python(dict(state))
        except ValidationError as error:
            raise CheckpointError(f"format monitor in the checkpoint: {error}; resume from an older one") from error
        self._classifier.load_state_dict(self._state.classifier)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _seen(self, now: Tally) -> list[str]:
        """The formats in use now or at first, in the classifier's order."""
        return [name for name in self._classifier.names if self._state.first.share(name) or now.share(name)]

    def _figures(self, now: Tally) -> Figures:
        first, names = self._state.first, self._seen(now)
        counts = [now.counts.get(name, 0) for name in names]
        shares = [now.share(name) for name in names]
        spread_over = spread(counts, bins=len(self._classifier.names))
        accuracies = {name: now.accuracy(name) for name in names}
        return {
            **{f"share/{name}": share for name, share in zip(names, shares, strict=True)},
            **{f"accuracy/{name}": value for name, value in accuracies.items() if value is not None},
            "entropy": spread_over.nats,
            "entropy_corrected": entropy(counts, miller_madow=True),
            "entropy_normalised": spread_over.normalised,
            "effective": spread_over.effective,
            "simpson": simpson(shares),
            "dominant_share": max(shares),
            "tv": total_variation(shares, [first.share(name) for name in names]),
            "js": jensen_shannon(shares, [first.share(name) for name in names]),
        }

    def _explained(self, now: Tally) -> Figures:
        """What reward alone predicts, and how a gain divides; only over formats of which an accuracy is known."""
        first, names = self._state.first, self._seen(now)
        old = [_number(first.accuracy(name)) for name in names]
        new = [_number(now.accuracy(name)) for name in names]
        before, after = [first.share(name) for name in names], [now.share(name) for name in names]
        if any(math.isnan(a) and math.isnan(b) for a, b in zip(old, new, strict=True)):
            return {}
        split = shift_share(before, after, old, new)
        found = {"gain_mix": split.mix, "gain_within": split.within}
        # A format that nobody used at first has the share 0 in both predictions, whatever its accuracy.
        known = [0.0 if math.isnan(a) else a for a in old]
        inside = tilt_inside(before, known, self._kl_weight)
        formats = tilt_formats(before, known, self._kl_weight)
        found["excess_dominance"] = excess_dominance(after, inside.tolist(), formats.tolist())
        for i, name in enumerate(names):
            found[f"predicted_inside/{name}"] = float(inside[i])
            found[f"predicted_formats/{name}"] = float(formats[i])
        return found


def _number(accuracy: float | None) -> float:
    return math.nan if accuracy is None else accuracy
