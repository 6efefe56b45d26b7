"""The records that travel round the loop, in loop order.

Owns: what a task, rollout, score, critique, refinement and train sample *are*. Every record is frozen.
Must not know: torch, files, networks, configs. Text lives here beside token ids; tensors do not.
"Missing" is None or a zero mask, never 0.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

TokenIds = tuple[int, ...]
Array = NDArray[np.float64]
IdArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One chat turn."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A prompt with what is needed to verify an answer to it.

    `kind` is a label to report by ("easy", "hard", a data set's name); `verifier` names a reward in `rewards/`.
    """

    id: str
    messages: tuple[Message, ...]
    answer: str
    verifier: str
    kind: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def question(self) -> str:
        """The content of the last user turn: what templates call the question."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What an engine returns for one prompt; `behaviour_logprobs` has one entry per completion id (nats, at the
    sampling temperature). `finished`: an end-of-sequence id was really sampled and is the last one, or the text holds a
    stop string that was asked for."""

    completion_ids: TokenIds
    behaviour_logprobs: tuple[float, ...]
    text: str
    finished: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One turn of an episode: the policy's words as the token ids [start, end) of the rollout's completion, and what a
    tool said to them.

    `action` is what was read from the words ("search", "answer", or "" where nothing could be read), `argument` its
    text, `observation` the tool's reply ("": the episode ended here), and `documents` the ids of what the tool
    returned, best first. `discarded_tokens` were sampled for turns that might have stood in its place.
    """

    start: int
    end: int
    text: str
    action: str = ""
    argument: str = ""
    observation: str = ""
    documents: tuple[str, ...] = ()
    discarded_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One sampled answer to one task, with the exact ids that were sampled and the ids that they were sampled under.

    An episode of several turns is one rollout: tool outputs stand among its `completion_ids`, `policy_mask` is False
    there (empty: the policy sampled every id), their behaviour log-probs are 0, and they are never trained on.
    """

    id: str
    task_id: str
    prompt_ids: TokenIds
    completion_ids: TokenIds
    behaviour_logprobs: tuple[float, ...]
    text: str
    finished: bool
    policy_version: int
    policy_mask: tuple[bool, ...] = ()
    turns: tuple[Turn, ...] = ()

    @property
    def own_logprobs(self) -> tuple[float, ...]:
        """Behaviour log-probs of the ids that the policy itself sampled: without tool outputs."""
        if not self.policy_mask:
            return self.behaviour_logprobs
        return tuple(logprob for logprob, own in zip(self.behaviour_logprobs, self.policy_mask, strict=True) if own)

    @property
    def own_tokens(self) -> int:
        """How many of its completion's tokens the policy wrote, whether or not they are trained on."""
        return sum(t.end - t.start for t in self.turns) if self.turns else len(self.completion_ids)

    @property
    def answer_text(self) -> str:
        """What a verifier reads: the words of an episode's last turn, never a tool's; else the whole text."""
        return self.turns[-1].text if self.turns else self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs:
    """What a guard of exploration has changed while a run goes on, on top of its config; the defaults change nothing.

    `clip_high` and `temperature` are added, `learning_rate` multiplies; `entropy_weight` and `kl_cov_share` take the
    place of the config's where they are not None.
    """

    clip_high: float = 0.0
    temperature: float = 0.0
    learning_rate: float = 1.0
    entropy_weight: float | None = None
    kl_cov_share: float | None = None


class ScoreStatus(StrEnum):
    """`ok`: judged. `unparsed`: no answer could be read from the completion (reward 0, and a sign of a format
    problem). `error`: the verifier itself failed; the reward is not evidence about the policy."""

    OK = "ok"
    UNPARSED = "unparsed"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A verifier's judgement of one completion: `reward` in [0, 1], or below 0 and at least -1 where a form that is
    not kept costs something; `detail` is its text for critics and reports.

    `objectives` are further rewards by name, each finite; one that is not there is missing. `confidence` is the
    probability in [0, 1] of being right that the completion itself states, and `confidence_start` the character of it
    where that statement begins.
    """

    reward: float
    status: ScoreStatus = ScoreStatus.OK
    extracted: str | None = None
    detail: str = ""
    objectives: Mapping[str, float] = field(default_factory=dict[str, float])
    confidence: float | None = None
    confidence_start: int | None = None

    @property
    def correct(self) -> bool:
        return self.status is ScoreStatus.OK and self.reward >= 1.0


class CriticOutcome(StrEnum):
    """How a critic call ended. Only `ok` carries feedback; none of the others is ever turned into a score."""

    OK = "ok"
    ABSTAINED = "abstained"
    MALFORMED = "malformed"
    REFUSED = "refused"
    TIMED_OUT = "timed_out"
    RATE_LIMITED = "rate_limited"
    OVER_BUDGET = "over_budget"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluative:
    """One per-criterion scalar: `value` in [0, 1] (1 is best), `confidence` in [0, 1] or None if not stated."""

    criterion: str
    value: float
    confidence: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Directive:
    """Text that says what to change, with its scope and where it came from.

    `quote` is the words of the attempt that it is about, verbatim; `span` is where they stand in it, as character
    offsets [start, end); `turn` counts the assistant turns of the attempt from 0. None: not stated, or not found.
    `critic` names who said it.
    """

    text: str
    kind: str = "procedure"
    quote: str | None = None
    span: tuple[int, int] | None = None
    turn: int | None = None
    critic: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens and money of one or more critic calls; `cost_usd` is None when no price is known (never 0)."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Critique:
    """A critic's reply to one attempt, already split into what scores and what directs.

    `verdict` is the critic's own right/wrong, used only to check it against the verifier. `dropped` lists directives
    that a filter refused, each as (text, reason): kept in the record, never trained on. `reason` explains a non-ok
    outcome in one line. `parse_form` is the rung of the parse ladder, `asks` how many replies were asked for (more than
    one after a malformed reply or a verdict that the verifier contradicts). `cached`: answered from the disk cache, at
    no cost. `members` are the single critiques of a panel.
    """

    rollout_id: str
    critic: str
    outcome: CriticOutcome
    evaluative: tuple[Evaluative, ...] = ()
    directives: tuple[Directive, ...] = ()
    verdict: Literal["correct", "incorrect"] | None = None
    dropped: tuple[tuple[str, str], ...] = ()
    reply: str = ""
    reason: str = ""
    prompt_hash: str = ""
    usage: Usage = Usage()
    latency_s: float = 0.0
    parse_form: str = ""
    asks: int = 1
    cached: bool = False
    members: tuple[Critique, ...] = ()

    @property
    def directive_text(self) -> str:
        """All accepted directives as one text, in the critic's order; empty if there is none."""
        return " ".join(d.text for d in self.directives) if self.outcome is CriticOutcome.OK else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticRequest:
    """What a critic may see of one attempt. `reference` is None unless the run allows critics to see the answer.

    `other_attempts` are further wrong attempts at the task that the same critique is to serve.
    """

    rollout_id: str
    task: Task
    attempt: str
    score: Score
    reference: str | None = None
    other_attempts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refinement:
    """A second attempt sampled with a critique in view.

    `rollout.prompt_ids` are the ids of the REFINE context it was sampled under; training scores it under the bare
    prompt. `bare_logprobs` are the policy's log-probs [T] of the same ids under the bare prompt at sampling time.
    `rejected` is the reason why it may not be trained on, or "". `rung` is the step of the guidance ladder that it was
    sampled with, as config spells it.
    """

    attempt_id: str
    critique: Critique
    rollout: Rollout
    score: Score
    bare_logprobs: tuple[float, ...] = ()
    rejected: str = ""
    rung: str = ""

    @property
    def own_bare_logprobs(self) -> tuple[float, ...]:
        """`bare_logprobs` of the ids that the policy itself sampled: without tool outputs."""
        return replace(self.rollout, behaviour_logprobs=self.bare_logprobs).own_logprobs

    @property
    def reliance(self) -> float:
        """Mean log-prob under the bare prompt minus under the refine context (nats/token); low: needs the hint."""
        if not self.bare_logprobs or not self.own_bare_logprobs:
            return 0.0
        return float(np.mean(self.own_bare_logprobs) - np.mean(self.rollout.own_logprobs))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TeacherTargets:
    """Teacher log-probs (full-vocabulary normalised) at K ids per completion token: `ids_TK`, `logprobs_TK`.

    `mask_T` is 0 where the teacher gave nothing usable. The teacher is the policy shown the directive, re-scoring the
    SAME tokens; `context_ids` is what it saw before them. With a support that both sides share, -inf marks a column
    without an id. `student_logprobs_TK` are the policy's own log-probs at the same ids under the bare prompt when the
    targets were made, where something reads them.
    """

    ids_TK: IdArray
    logprobs_TK: Array
    sampled_logprobs_T: Array
    mask_T: Array
    context_ids: TokenIds
    student_logprobs_TK: Array | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """All that one step knows about one task: `scores[i]`, `critiques[id]` and `targets[id]` belong to `rollouts[i]`.

    `late`: an earlier step already trained on the rollouts' rewards, and only the directive channel is still to come.
    `controls` are second attempts under a bare verdict, sampled to judge the critic and never trained on.
    `corrections[id]` are truncated importance weights [T] of rollouts that an older policy sampled; missing means 1.
    `rung` is the step of the guidance ladder that a plateaued group gets; "" is a critique. `confidence_tokens[id]` is
    the first token of a rollout's stated confidence.
    """

    task: Task
    rollouts: tuple[Rollout, ...]
    scores: tuple[Score, ...]
    plateaued: bool = False
    critiques: Mapping[str, Critique] = field(default_factory=dict[str, Critique])
    refinements: tuple[Refinement, ...] = ()
    targets: Mapping[str, TeacherTargets] = field(default_factory=dict[str, TeacherTargets])
    late: bool = False
    controls: tuple[Refinement, ...] = ()
    corrections: Mapping[str, Array] = field(default_factory=dict[str, Array])
    rung: str = ""
    confidence_tokens: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainSample:
    """One sequence to train on: per-token streams [T] over `completion_ids`, under the BARE prompt ids.

    EVALUATIVE feedback may only move `advantages` and `pg_weight`; DIRECTIVE feedback may only set `teacher` with
    `distill_weight`, or make a verified refinement with `imitate_weight`. `guided_logprobs` are the log-probs under the
    refine context (refinements only); `behaviour_logprobs` are under the bare prompt at sampling time.
    `reference_logprobs` are the starting policy's, put in by the policy itself where a KL penalty wants them.
    `objective_advantages` [K, T] are those of K objectives, for methods that join gradients and not advantages.
    `base_advantages` are those before a method amplified some, where covariances are wanted of them. `dropped` is 1
    where a token's policy-gradient term is left out but still counted, `held` where KL-Cov holds it: both put in by the
    policy itself.
    """

    rollout_id: str
    task_id: str
    prompt_ids: TokenIds
    completion_ids: TokenIds
    loss_mask: Array
    behaviour_logprobs: Array
    advantages: Array
    pg_weight: Array
    distill_weight: Array
    imitate_weight: Array
    teacher: TeacherTargets | None = None
    guided_logprobs: Array | None = None
    reference_logprobs: Array | None = None
    objective_advantages: Array | None = None
    base_advantages: Array | None = None
    dropped: Array | None = None
    held: Array | None = None
