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

SURROGATE_CLIPS = (0.2, 0.28)
"""How far below and above 1 the surrogate's ratios count, where nothing else is said (arXiv 2603.10165 v2)."""

SIGNED_SHARE, SIGNED_CLIP, ROUTED_BETA = 0.5, 0.2, 1.0
"""The papers' own numbers of two ways to join, where nothing else is said."""

HintChoice = Literal["joined", "sequence_overlap", "token_overlap", "shortest", "random"]
BY_OVERLAP: tuple[HintChoice, ...] = ("sequence_overlap", "token_overlap")
"""Choices that read both sides' top K."""

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
    hint_choice: HintChoice = Field(
        default="joined",
        description="what the teacher is shown of several directives on one attempt. joined: all as one text; "
        "sequence_overlap: the one whose teacher shares most of the policy's top K over the attempt (arXiv 2603.10165 "
        "v2; a teacher pass for each directive, and one of the policy); token_overlap: the best one at each token; "
        "shortest; random: a control",
    )
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
    centred_gap: bool = Field(
        default=False,
        description='with join = "advantages", KL(policy||teacher) over the support and a tail is added to the gap '
        "before it is clipped, which takes out its mean over what could have been sampled (arXiv 2605.07865); wants "
        'support = "student" or "teacher"',
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
    support: Literal["teacher", "student", "overlap", "sampled"] = Field(
        default="teacher",
        description="whose top-K ids are compared, those that both have (topk_surrogate only), or the sampled token "
        "alone: noisier, and without any pull where the policy is sure of that token",
    )
    divergence: Literal["forward", "reverse", "jsd", "topk_surrogate"] = Field(
        default="forward",
        description="forward = KL(teacher||student): keeps its gradient where the student is sure and wrong; "
        "topk_surrogate is no divergence: a clipped policy gradient at each id of the support, whose advantage is "
        "clip(log T - log S, +-gap_clip) times the id's share of S, S the policy when the targets were made (arXiv "
        "2603.10165 v2, there with k = 4 and the student's support)",
    )
    ratio_clip_low: float | None = Field(
        default=None,
        ge=0.0,
        lt=1.0,
        description='with divergence = "topk_surrogate", an id\'s ratio of the policy to S counts down to 1 - this '
        f"(None: {SURROGATE_CLIPS[0]})",
    )
    ratio_clip_high: float | None = Field(
        default=None, ge=0.0, description=f"and up to 1 + this (None: {SURROGATE_CLIPS[1]})"
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
        description='bound of |log T - log S| in target = "clipped_gap", divergence = "topk_surrogate" and join = '
        f'"advantages", nats (None: {GAP_CLIP})',
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

    @property
    def reads_student(self) -> bool:
        """Whether targets have to say what the policy said at their ids when they were made."""
        return self.centred_gap or self.divergence == "topk_surrogate"

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
                'and at the sampled token only; set support to "teacher" or "sampled" (or "overlap", with '
                'divergence = "topk_surrogate"), or choose another teacher'
            )
        for key in ("ema_rate", "ema_every", "gated"):
            if self.teacher != "ema" and getattr(self, key) not in (None, False):
                raise ValueError(
                    f"{key} = {getattr(self, key)} has no effect with teacher = {self.teacher!r}; "
                    'remove it, or set teacher = "ema"'
                )
        if self.support == "sampled" and self.k != DISTILLED_K and self.hint_choice not in BY_OVERLAP:
            raise ValueError(
                f'k = {self.k} has no effect with support = "sampled", which compares one id; remove it, '
                'or set support to "teacher" or "student"'
            )
        if not self.tail and (self.support == "sampled" or self.k == 1):
            raise ValueError(
                "tail = false leaves a single id, whose renormalised probability is always 1, so that nothing would be "
                'learned; remove it, or compare more ids (support = "teacher" or "student", k of 2 or more)'
            )
        self._check_surrogate()
        self._check_target()
        for key, reader in JOIN_KEYS.items():
            if getattr(self, key) is not None and self.join != reader:
                raise ValueError(
                    f"{key} = {getattr(self, key)} has no effect with join = {self.join!r}; remove it, or set "
                    f'join = "{reader}"'
                )
        if self.centred_gap and self.join != "advantages":
            raise ValueError(
                f'centred_gap = true has no effect with join = {self.join!r}; remove it, or set join = "advantages"'
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
        if self.gap_clip is not None and not (
            self.target == "clipped_gap" or self.join == "advantages" or self.divergence == "topk_surrogate"
        ):
            raise ValueError(
                f"gap_clip = {self.gap_clip} has no effect with target = {self.target!r}; remove it, or set "
                'target = "clipped_gap" or join = "advantages" or divergence = "topk_surrogate"'
            )

    def _check_surrogate(self) -> None:
        if self.divergence != "topk_surrogate":
            for key in ("ratio_clip_low", "ratio_clip_high"):
                if getattr(self, key) is not None:
                    raise ValueError(
                        f"{key} = {getattr(self, key)} has no effect with divergence = {self.divergence!r}; remove "
                        'it, or set divergence = "topk_surrogate"'
                    )
            if self.support == "overlap":
                raise ValueError(
                    f'support = "overlap" came with divergence = {self.divergence!r}, which wants the same number of '
                    'ids at every token; set support to "teacher" or "student", or divergence = "topk_surrogate"'
                )
            return
        if self.support == "sampled":
            raise ValueError(
                'support = "sampled" came with divergence = "topk_surrogate", whose ids are a top-K; set support to '
                '"student", "teacher" or "overlap", or set join = "advantages", which is its form for the sampled '
                "token, with another divergence"
            )
        for key in ("jsd_alpha", "tail", "target"):
            value = getattr(self, key)
            if value != type(self).model_fields[key].default:
                raise ValueError(
                    f'{key} = {value!r} has no effect with divergence = "topk_surrogate", which compares the ids one '
                    "by one with the teacher itself; remove it, or set another divergence"
                )

    def _check_advantage(self) -> None:
        if self.centred_gap and self.support not in ("student", "teacher"):
            raise ValueError(
                f"centred_gap = true reads both sides at a top K, and support is {self.support!r}; set support to "
                '"student" or "teacher", or remove centred_gap'
            )
        if self.support != "sampled" and not self.centred_gap:
            raise ValueError(
                f'join = "{self.join}" reads the teacher at the sampled token alone, and support is {self.support!r}; '
                'set support = "sampled", or another join, or centred_gap = true with join = "advantages"'
            )
        unread = [
            *(["tail"] if self.centred_gap else []),
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
