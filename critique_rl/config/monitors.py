"""The `[monitors]` section: which figures of diversity and format are taken, on what, and how often.

Owns: its defaults, and the rule that a key without effect is an error. Must not know: how anything is measured.
"""

from __future__ import annotations

import re
from typing import Literal, get_args

from pydantic import Field, model_validator

from critique_rl.config.base import Strict

Metric = Literal[
    "token_entropy",
    "distinct_n",
    "self_bleu",
    "queries",
    "evidence_overlap",
    "vendi",
    "trajectory_clusters",
    "strategy_entropy",
    "answer_entropy",
    "step_decay",
    "pass_at_k",
    "zero_std",
    "turns",
    "formats",
]
NEEDS_SACREBLEU: frozenset[Metric] = frozenset({"self_bleu"})
"""Metrics that the extra `diversity` brings."""
SLOW: frozenset[Metric] = frozenset({"self_bleu", "trajectory_clusters"})
"""Metrics that take tenths of a second where answers are long; they are not in the default list."""
QUADRATIC: frozenset[Metric] = frozenset({"self_bleu", "trajectory_clusters", "vendi", "queries", "evidence_overlap"})
"""Metrics that compare every sample of a prompt with every other one."""
DEFAULT: tuple[Metric, ...] = tuple(name for name in get_args(Metric) if name not in SLOW)
OTHER = "other"
"""The bucket of what no detector knows."""


class MonitorsConfig(Strict):
    """What is watched of the policy's answers; nothing here changes what is trained."""

    batch: bool = Field(default=True, description="observe each step's rollouts, before anything is filtered out")
    every: int = Field(default=1, ge=1, description="observe the rollouts of every so many steps")
    metrics: tuple[Metric, ...] = Field(
        default=DEFAULT,
        description="what is measured; by default all but self_bleu, which needs the extra `diversity`, and "
        "trajectory_clusters: both are slow where answers are long",
    )
    without: tuple[Metric, ...] = Field(default=(), description="metrics of that list to leave out")
    probe_tasks: int = Field(
        default=0,
        ge=0,
        description="held-out tasks, evenly spread and the same all through the run, that are asked apart from "
        "training; 0: none. Their tokens do not count into the budget",
    )
    probe_samples: int = Field(default=8, ge=2, description="answers to each of them, at the rollouts' temperature")
    probe_every: int = Field(default=10, ge=1, description="steps between two probes; the first and last step have one")
    format_detectors: Literal["default", "clusters"] = Field(
        default="default",
        description="default: rules for code, tags, boxed answers, lists and so on; clusters: k-means on the structure "
        "of the first answers observed, frozen from then on",
    )
    formats: dict[str, str] = Field(
        default_factory=dict[str, str],
        description="detectors of your own in place of these: name -> regular expression, searched with ^ and $ at "
        "every line; the first that is found names the format, and 'other' takes the rest",
    )
    format_clusters: int = Field(default=4, ge=2, le=32, description="formats that k-means may find")
    early_steps: int = Field(
        default=50,
        ge=1,
        description="steps in which a format may not gain 30 points without an alert: put the first pass over your "
        "prompts here (ours, no published evidence)",
    )
    max_samples: int = Field(
        default=64,
        ge=2,
        description="answers of one prompt that are compared pair by pair; further ones are left out there",
    )
    warn_below: float = Field(
        default=0.5,
        gt=0.0,
        lt=1.0,
        description="say so when a figure of diversity stays below this share of its first value (ours, no published "
        "evidence); the entropy of tokens alone never warns",
    )

    @property
    def measured(self) -> tuple[Metric, ...]:
        """The metrics that are on."""
        return tuple(name for name in self.metrics if name not in self.without)

    @model_validator(mode="after")
    def _every_key_is_read(self) -> MonitorsConfig:
        unlisted = [name for name in self.without if name not in self.metrics]
        if unlisted or len(set(self.metrics)) < len(self.metrics):
            raise ValueError(
                f"metrics = {list(self.metrics)} with without = {list(self.without)}; wanted each metric once, and in "
                "without only what is in metrics"
            )
        if not self.measured or not (self.batch or self.probe_tasks):
            raise ValueError(
                "[monitors] would watch nothing: keep a metric, and batch = true or probe_tasks of 1 or more; or "
                "remove the section"
            )
        unread = {"every": not self.batch, "probe_samples": not self.probe_tasks, "probe_every": not self.probe_tasks}
        formats = "formats" in self.measured
        unread |= {name: not formats for name in ("format_detectors", "formats", "early_steps")}
        unread["format_clusters"] = not formats or self.format_detectors != "clusters"
        unread["format_detectors"] |= bool(self.formats)
        unread["max_samples"] = not QUADRATIC & set(self.measured)
        inert = [key for key, idle in unread.items() if idle and not self._default(key)]
        if inert:
            raise ValueError(
                f"{', '.join(inert)} would have no effect: every needs batch, probe_... need probe_tasks, format keys "
                "need the metric 'formats' (format_detectors no formats of your own, format_clusters 'clusters'), "
                f"max_samples one of {', '.join(sorted(QUADRATIC))}; remove the key"
            )
        return self

    def _default(self, key: str) -> bool:
        return getattr(self, key) == type(self).model_fields[key].get_default(call_default_factory=True)

    @model_validator(mode="after")
    def _formats_can_be_told(self) -> MonitorsConfig:
        for name, pattern in self.formats.items():
            if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name) or name == OTHER:
                raise ValueError(
                    f"formats.{name}: wanted a name of letters, digits, - and _, other than {OTHER!r}, which is the "
                    "bucket for the rest"
                )
            try:
                found = re.compile(pattern, re.MULTILINE).search("")
            except re.error as error:
                raise ValueError(f"formats.{name} = {pattern!r} is no regular expression: {error}") from None
            if found is not None:
                raise ValueError(
                    f"formats.{name} = {pattern!r} is found in an empty text, so it would take every answer; anchor it"
                )
        return self
