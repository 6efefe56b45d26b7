"""How a directive becomes token-level targets, who their teacher is, and how they meet the rewards of a step.

Owns: every default of the directive distillation. Must not know: torch, methods.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from critique_rl.config.base import Strict
from critique_rl.config.refinement import Shape

EMA_RATE = 0.01
"""What a refresh of the ema teacher mixes in where nothing else is said."""

EMA_EVERY = 1
"""Applied steps between its refreshes where nothing else is said."""

GATED_EVERY = 10
"""Steps between two decisions of a gated teacher where nothing else is said."""

DISTILLED_K = 20
"""Support size where nothing else is said."""

TARGET_MIX = 0.01
"""The policy's share in a mixed target where nothing else is said."""

GAP_CLIP = 1.0
"""Bound of the log-ratio of teacher to policy, in nats, where nothing else is said."""

SIGNED_SHARE, SIGNED_CLIP, ROUTED_BETA = 0.5, 0.2, 1.0
"""The papers' own numbers of two ways to join, where nothing else is said."""

JOIN_KEYS = {
    "signed_share": "signed",
    "signed_clip": "signed",
    "signed_steps": "signed",
    "routed_beta": "routed",
    "sequential_steps": "sequential",
}
"""Which way to join reads which key."""


class TeacherServerConfig(Strict):
    """A vLLM server whose model scores the attempts; it must have the policy's tokenizer."""

    model: str = Field(description="what the server calls its model (--served-model-name)")
    base_url: str = Field(default="http://127.0.0.1:8000", pattern=r"^https?://", description="without /v1")
    api_key_env: str = Field(
        default="VLLM_API_KEY", description="variable that holds the server's key, if it wants one"
    )
    max_in_flight: int = Field(default=64, ge=1, description="attempts sent and not yet scored")
    timeout_s: float = Field(default=600.0, gt=0.0, description="longest wait for one attempt's log-probs")
    restart_wait_s: float = Field(default=600.0, gt=0.0, description="longest wait for a server that went away")
    max_restarts: int = Field(default=3, ge=0, description="how often the server may go away within one step")


class DistillationConfig(Strict):
    """Directive text as token-level targets: who the teacher is, on which support, with which divergence."""

    prompt: str = Field(default="teacher", description="template of the teacher's context: a catalogue name or a path")
    teacher: Literal["live", "frozen", "ema", "served"] = Field(
        default="frozen",
        description="the policy as it is now, as it started, the slow average of its weights, or a model behind a "
        "vLLM server ([distillation.server])",
    )
    server: TeacherServerConfig | None = None
    ema_rate: float | None = Field(
        default=None,
        gt=0.0,
        le=1.0,
        description=f"share of the policy's weights that a refresh of the ema teacher mixes in (None: {EMA_RATE})",
    )
    ema_every: int | None = Field(
        default=None,
        ge=1,
        description=f"applied steps from one refresh of the ema teacher to the next (None: {EMA_EVERY}; with gated, "
        f"steps between two decisions, None: {GATED_EVERY})",
    )
    gated: bool = Field(
        default=False,
        description="the ema teacher follows only after steps whose mean reward rose and whose length tail did not, as "
        "compared with the last refresh (arXiv 2606.03532); ema_rate = 1 then copies the policy",
    )
    join: Literal["losses", "advantages", "signed", "routed", "sequential"] = Field(
        default="losses",
        description="how targets meet rewards. losses: two losses, each over its own tokens; advantages: weight x "
        "clip(log T - log S, +-gap_clip) of the sampled token is added to its advantage; signed: T / S of the sampled "
        "token scales its advantage, whose sign stays the reward's; routed: right attempts get the policy gradient "
        "alone, wrong ones that have targets the distillation alone; sequential: a step that has targets learns from "
        "them alone",
    )
    signed_share: float | None = Field(
        default=None,
        gt=0.0,
        le=1.0,
        description=f'share of the scaled advantage with join = "signed" (None: {SIGNED_SHARE})',
    )
    signed_clip: float | None = Field(
        default=None,
        gt=0.0,
        lt=1.0,
        description=f'T / S is clipped to 1 +- this with join = "signed" (None: {SIGNED_CLIP})',
    )
    signed_steps: int | None = Field(
        default=None,
        ge=1,
        description='applied steps of the run over which signed_share falls to 0 with join = "signed" (None: it stays; '
        "the paper has 50, but directives that come after those would find nothing left)",
    )
    routed_beta: float | None = Field(
        default=None,
        gt=0.0,
        description='distilled tokens weigh exp(-beta H), H the teacher\'s entropy there, with join = "routed" (None: '
        f"{ROUTED_BETA:g})",
    )
    sequential_steps: int | None = Field(
        default=None,
        ge=1,
        description='with join = "sequential", targets are learned from in the first N applied steps of the run, and '
        "only rewards and refinements later (None: whenever a step has targets)",
    )
    k: int = Field(default=DISTILLED_K, ge=1, description="support size; the rest of the vocabulary is one tail bin")
    support: Literal["teacher", "student", "sampled"] = Field(
        default="teacher",
        description="whose top-K ids are compared, or the sampled token alone: noisier, and without any pull where the "
        "policy is sure of that token",
    )
    divergence: Literal["forward", "reverse", "jsd"] = Field(
        default="forward",
        description="forward = KL(teacher||student): keeps its gradient where the student is sure and wrong",
    )
    jsd_alpha: float = Field(default=0.5, gt=0.0, lt=1.0, description="weight of the teacher in the JSD mixture")
    tail: bool = Field(default=True, description="compare the mass outside the support too")
    entry_clip: float | None = Field(
        default=None,
        gt=0.0,
        description="upper bound of each id's term of the forward divergence (nats; 0.05 to 0.2 is usual), so that a "
        "few ids of style do not outweigh the rest; the loss may then be negative",
    )
    target: Literal["teacher", "mixed", "clipped_gap"] = Field(
        default="teacher",
        description="what the policy is pulled to: the teacher; mixed: T^(1 - mix) S^mix, renormalised; clipped_gap: "
        "S exp(clip(log T - log S, +-gap_clip)), renormalised (S the policy itself, held constant)",
    )
    mix: float | None = Field(
        default=None,
        gt=0.0,
        lt=1.0,
        description=f'the policy\'s own share in target = "mixed" (None: {TARGET_MIX})',
    )
    gap_clip: float | None = Field(
        default=None,
        gt=0.0,
        description='bound of |log T - log S| in target = "clipped_gap" and join = "advantages", nats (None: '
        f"{GAP_CLIP})",
    )
    weight: float = Field(default=1.0, gt=0.0, description="coefficient of the distillation channel")
    schedule: Shape = Field(default="constant", description="what becomes of weight, as in [refinement]")
    max_tokens: int | None = Field(
        default=None, ge=1, description="distil only the first N completion tokens (None: all)"
    )
    max_context_tokens: int | None = Field(
        default=None,
        ge=1,
        description="longest context of the teacher, in tokens (None: what the model's positions leave beside the "
        "completion); of a longer one the attempt is cut in the middle, else its row gets no targets",
    )

    @model_validator(mode="after")
    def _every_key_is_read(self) -> DistillationConfig:
        if (self.teacher == "served") != (self.server is not None):
            raise ValueError(
                'teacher = "served" needs the section [distillation.server], which names the server and its model'
                if self.server is None
                else f"[distillation.server] has no effect with teacher = {self.teacher!r}; remove it, or set "
                'teacher = "served"'
            )
        if self.teacher == "served" and self.support == "student":
            raise ValueError(
                'support = "student" came with teacher = "served", but a server tells log-probs at its own top-K ids '
                'and at the sampled token only; set support to "teacher" or "sampled", or choose another teacher'
            )
        for key in ("ema_rate", "ema_every", "gated"):
            if self.teacher != "ema" and getattr(self, key) not in (None, False):
                raise ValueError(
                    f"{key} = {getattr(self, key)} has no effect with teacher = {self.teacher!r}; "
                    'remove it, or set teacher = "ema"'
                )
        if self.support == "sampled" and self.k != DISTILLED_K:
            raise ValueError(
                f'k = {self.k} has no effect with support = "sampled", which compares one id; remove it, '
                'or set support to "teacher" or "student"'
            )
        if not self.tail and (self.support == "sampled" or self.k == 1):
            raise ValueError(
                "tail = false leaves a single id, whose renormalised probability is always 1, so that nothing would be "
                'learned; remove it, or compare more ids (support = "teacher" or "student", k of 2 or more)'
            )
        self._check_target()
        for key, reader in JOIN_KEYS.items():
            if getattr(self, key) is not None and self.join != reader:
                raise ValueError(
                    f"{key} = {getattr(self, key)} has no effect with join = {self.join!r}; remove it, or set "
                    f'join = "{reader}"'
                )
        if self.join in ("advantages", "signed"):
            self._check_advantage()
        return self

    def _check_target(self) -> None:
        if self.entry_clip is not None and self.divergence != "forward":
            raise ValueError(
                f"entry_clip = {self.entry_clip} has no effect with divergence = {self.divergence!r}; remove it, or "
                'set divergence = "forward"'
            )
        if self.mix is not None and self.target != "mixed":
            raise ValueError(
                f'mix = {self.mix} has no effect with target = {self.target!r}; remove it, or set target = "mixed"'
            )
        if self.gap_clip is not None and self.target != "clipped_gap" and self.join != "advantages":
            raise ValueError(
                f"gap_clip = {self.gap_clip} has no effect with target = {self.target!r}; remove it, or set "
                'target = "clipped_gap" or join = "advantages"'
            )

    def _check_advantage(self) -> None:
        if self.support != "sampled":
            raise ValueError(
                f'join = "{self.join}" reads the teacher at the sampled token alone, and support is {self.support!r}; '
                'set support = "sampled", or another join'
            )
        unread = [
            "divergence",
            "jsd_alpha",
            "entry_clip",
            "target",
            "schedule",
            *(["weight"] if self.join == "signed" else []),
        ]
        for key in unread:
            value = getattr(self, key)
            if value != type(self).model_fields[key].default:
                raise ValueError(
                    f'{key} = {value!r} has no effect with join = "{self.join}", which has no distillation loss; '
                    "remove it, or set another join"
                )
