"""The records of samples.jsonl, events.jsonl and summary.json, as a report reads them.

Owns: the fields and what each of them means. Unknown fields are ignored and missing ones have neutral values, so that a
report can be made of an unfinished or older run. Must not know: files, HTML.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field


def _text(value: object) -> object:
    return str(value) if isinstance(value, int | float) else value


Name = Annotated[str, BeforeValidator(_text)]


class Row(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Alternative(Row):
    """One of the teacher's likeliest tokens at a position, with the student's probability of it."""

    token: str
    prob: float | None = None
    student_prob: float | None = None


class Token(Row):
    """One completion token: `pg` is advantage times weight, `distill` and `imitate` are weights, `divergence` is in
    nats, `student_prob` is the policy's probability of this token, log-probs are under the two contexts. `heard`: no
    token, but all that a tool said behind a turn."""

    text: str = ""
    pg: float | None = None
    distill: float | None = None
    imitate: float | None = None
    divergence: float | None = None
    student_prob: float | None = None
    teacher: tuple[Alternative, ...] = ()
    logprob_bare: float | None = None
    logprob_guided: float | None = None
    heard: bool = False


class Attempt(Row):
    """One sampled answer; `times` counts the rollouts of the group with exactly this text."""

    rollout_id: str = ""
    text: str = ""
    times: int = 1
    reward: float | None = None
    status: str = "ok"
    detail: str = ""
    tokens: tuple[Token, ...] = ()


class Criterion(Row):
    criterion: str
    value: float | None = None


class DirectiveText(Row):
    text: str
    kind: str = ""
    quote: str | None = None


class CritiqueText(Row):
    rollout_id: str = ""
    critic: str = ""
    outcome: str = "ok"
    reason: str = ""
    reply: str = ""
    verdict: str | None = None
    evaluative: tuple[Criterion, ...] = ()
    directives: tuple[DirectiveText, ...] = ()
    dropped: tuple[tuple[str, str], ...] = ()


class RefinementText(Row):
    attempt_id: str = ""
    text: str = ""
    rung: str = ""
    reward: float | None = None
    rejected: str = ""
    reliance: float | None = None
    tokens: tuple[Token, ...] = ()


class PlateauState(Row):
    status: str = ""
    cause: str = ""
    upper_bound: float | None = None


class Sample(Row):
    """One prompt's whole story in one step."""

    step: int
    task_id: Name = ""
    kind: str = ""
    question: str = ""
    answer: str = ""
    plateau: PlateauState = PlateauState()
    attempts: tuple[Attempt, ...] = ()
    critiques: tuple[CritiqueText, ...] = ()
    refinements: tuple[RefinementText, ...] = ()


class Event(Row):
    step: int
    kind: str = ""
    message: str = ""


class ResultRow(Row):
    """Held-out success of one arm and seed on one class of tasks."""

    arm: str = ""
    seed: Name = ""
    kind: str = Field("", validation_alias=AliasChoices("class", "kind"))
    successes: int
    trials: int
    success: float | None = None
    low: float | None = None
    high: float | None = None
    steps: int | None = None
    generated_tokens: int | None = None
    critic_calls: int | None = None


class Check(Row):
    name: str
    holds: bool | None = None
    value: float | str | None = None
    target: float | str | None = None


class Summary(Row):
    """summary.json: of one run, or of several arms (`runs` maps "arm/seed" to a folder)."""

    title: str = ""
    arms: tuple[str, ...] = ()
    seeds: tuple[Name, ...] = ()
    runs: dict[str, str] = Field(default_factory=dict[str, str])
    labels: dict[str, str] = Field(default_factory=dict[str, str])
    table: tuple[ResultRow, ...] = ()
    checks: tuple[Check, ...] = ()
    command: str = ""
    versions: dict[str, Name] = Field(default_factory=dict[str, Name])
    commit: str | None = None
    device: str = ""
    wall_time_s: float | None = None
