"""All monitors of a run: what the loop hands groups to, and reads figures and messages from.

Owns: which stream (batches or probes) is measured when, and the figures' names, `monitor/batch/...` and
`monitor/probe/...`. Must not know: how groups were sampled, trackers, what is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

from critique_rl.config.monitors import MonitorsConfig
from critique_rl.errors import CheckpointError
from critique_rl.monitors.detectors import Classifier
from critique_rl.monitors.diversity import Figures, measure
from critique_rl.monitors.formats import FormatMonitor
from critique_rl.monitors.narrowing import DiversityWarnings
from critique_rl.monitors.prompts import prompts_of
from critique_rl.types import Group


class _Stream:
    """One series of observations, comparable among themselves."""

    def __init__(self, name: str, config: MonitorsConfig, formats: FormatMonitor | None) -> None:
        self._name = name
        self._config = config
        self._formats = formats
        self._warnings = DiversityWarnings(warn_below=config.warn_below)
        self.figures: Figures = {}

    def observe(self, step: int, groups: Sequence[Group], *, fixed: bool) -> list[str]:
        """Measure; `fixed`: the same problems every time. Returns what a person should know."""
        prompts = prompts_of(groups)
        figures = measure(groups, prompts, self._config.measured, max_samples=self._config.max_samples)
        told = self._warnings.fallen(figures)
        if fixed and "pass_at_k" in self._config.measured:
            told += self._warnings.narrowed(prompts)
        if self._formats is not None:
            of_formats, alerts = self._formats.observe(step, prompts)
            figures |= {f"format/{key}": value for key, value in of_formats.items()}
            told += alerts
        self.figures = {f"monitor/{self._name}/{key}": value for key, value in figures.items()}
        return [f"{self._name}: {message}" for message in told]

    def state_dict(self) -> dict[str, object]:
        formats = {"formats": self._formats.state_dict()} if self._formats is not None else {}
        return {"warnings": self._warnings.state_dict(), **formats}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        self._warnings.load_state_dict(_part(state, "warnings"))
        if self._formats is not None and "formats" in state:
            self._formats.load_state_dict(_part(state, "formats"))


class RunMonitors:
    """The batch's and the probe's monitors; its state is plain JSON, and holds first values, not a history."""

    def __init__(self, config: MonitorsConfig, *, classifier: Callable[[], Classifier], kl_weight: float) -> None:
        self._config = config

        def stream(name: str) -> _Stream:
            formats = None
            if "formats" in config.measured:
                formats = FormatMonitor(classifier(), kl_weight=kl_weight, early_steps=config.early_steps)
            return _Stream(name, config, formats)

        self._batch = stream("batch")
        self._probe = stream("probe")
        self._probed_at: int | None = None
        self._told: list[str] = []

    def observe(self, step: int, groups: Sequence[Group]) -> None:
        """The step's rollouts, all of them: figures of what a filter leaves are biased. Errors: MissingExtraError."""
        self._batch.figures = {}
        if self._config.batch and step % self._config.every == 0 and groups:
            self._told += self._batch.observe(step, groups, fixed=False)

    def probe_due(self, step: int, *, last: bool = False) -> bool:
        """Whether the probe is to be asked before this step; `last`: the run ends here."""
        due = last or step % self._config.probe_every == 0
        return bool(self._config.probe_tasks) and due and self._probed_at != step

    def observe_probe(self, step: int, groups: Sequence[Group]) -> None:
        """Answers to the fixed tasks. Errors: MissingExtraError."""
        self._probed_at = step
        self._told += self._probe.observe(step, groups, fixed=True)

    def figures(self) -> Mapping[str, float]:
        """Of the latest step's batch; nothing in a step that was not observed."""
        return self._batch.figures

    def probe_figures(self) -> Mapping[str, float]:
        """Of the latest probe since the run began or was resumed."""
        return self._probe.figures

    def messages(self) -> Sequence[str]:
        """What a person should know since the last call."""
        told, self._told = self._told, []
        return told

    def state_dict(self) -> dict[str, object]:
        return {
            "batch": self._batch.state_dict(),
            "probe": self._probe.state_dict(),
            "probed_at": self._probed_at,
            "told": list(self._told),
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """The inverse of `state_dict`. Errors: CheckpointError."""
        self._batch.load_state_dict(_part(state, "batch"))
        self._probe.load_state_dict(_part(state, "probe"))
        self._probed_at = cast("int | None", state.get("probed_at"))
        self._told = list(cast("Sequence[str]", state.get("told", ())))


def _part(state: Mapping[str, object], name: str) -> Mapping[str, object]:
    found = state.get(name)
    if not isinstance(found, dict):
        raise CheckpointError(f"monitors in the checkpoint: {name!r} is {found!r}; resume from an older checkpoint")
    return cast("dict[str, object]", found)
