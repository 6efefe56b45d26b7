"""How second attempts are guided, which of them may be trained on, and what weight they get.

Owns: the guidance ladder's rungs, and every default of the refinement stage. Must not know: torch, who gives guidance.
"""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field, model_validator

from critique_rl.config.base import Strict

Shape = Literal["constant", "linear", "trapezoid", "unsolved"]
"""How a channel's weight goes on over the run."""

Rung = Literal["verdict", "critique", "lesson", "prefix_25", "prefix_50", "prefix_75"]
RUNGS: tuple[Rung, ...] = get_args(Rung)
PREFIX_SHARES: dict[str, float] = {"prefix_25": 0.25, "prefix_50": 0.5, "prefix_75": 0.75}
"""Which share of a worked solution each prefix rung shows."""

CRITIC_RUNGS: frozenset[str] = frozenset({"critique", "lesson"})
"""Rungs that ask the critic; the others must not."""

OTHER_ATTEMPTS_CHARS = 6000
"""How much a critic is shown of a prompt's other wrong attempts where nothing else is said."""


AWR_COEFFICIENT, AWR_FLOOR, RATIO_CAP = 0.1, -5.0, 2.0
"""Numbers of two ratio modes where nothing else is said."""

RATIO_KEYS = {"awr_coefficient": "awr", "awr_floor": "awr", "ratio_cap": "oc_is"}
"""Which ratio mode reads which key."""


class RefinementConfig(Strict):
    """Second attempts sampled with guidance in view, and the imitation loss on the verified ones."""

    prompt: str = Field(default="refine", description="template of the refine context: a catalogue name or a path")
    ladder: tuple[Rung, ...] = Field(
        default=("critique",),
        min_length=1,
        description="guidance, weakest first; a prompt climbs when it stays stuck. verdict: only that the attempt is "
        "wrong; critique; lesson: the critic's directive without the attempt; prefix_25, _50, _75: that share of "
        "metadata.solution of the task. Verdict and prefixes ask no critic; a prefix is passed over where a task has "
        "no solution or the prefix states the answer",
    )
    view: Literal["attempt", "lesson", "mixed"] = Field(
        default="attempt",
        description="what the critique rung shows: the attempt and the directive, the directive alone, or each in half "
        "of the samples (failed attempts in view drag: arXiv 2602.04288)",
    )
    aggregate: Literal["none", "critique", "refine"] = Field(
        default="none",
        description="several failures of a prompt: each by itself; one critic call about all of them; or one refine "
        "context that shows all of them with their directives (arXiv 2603.04597)",
    )
    other_attempts_chars: int = Field(
        default=OTHER_ATTEMPTS_CHARS,
        ge=1,
        description='room for further attempts in one critic call, shortest first (aggregate = "critique")',
    )
    lesson_prompt: str = Field(default="refine_lesson", description="template of the lesson: a name or a path")
    prefix_prompt: str = Field(default="refine_prefix", description="template of the prefix rungs: a name or a path")
    group_prompt: str = Field(
        default="refine_group", description='template of aggregate = "refine": a catalogue name or a path'
    )
    per_attempt: int = Field(default=1, ge=1, description="refinements sampled per critiqued attempt")
    max_attempts: int = Field(default=8, ge=1, description="critiqued attempts refined per group")
    max_injected: int = Field(default=1, ge=1, description="verified refinements trained on per group")
    max_group_share: float = Field(
        default=0.125,
        gt=0.0,
        le=1.0,
        description="refinements trained on as a share of the group's rollouts; one is always allowed",
    )
    max_batch_share: float | None = Field(
        default=None,
        gt=0.0,
        le=1.0,
        description="refinements trained on as a share of the step's rollouts, most likely first; one is always "
        "allowed (None: no bound but the groups')",
    )
    min_bare_logprob: float = Field(
        default=-20.0,
        le=0.0,
        description="refinements whose mean log-prob (nats/token) under the bare prompt is lower are dropped",
    )
    max_copied: float = Field(
        default=0.3,
        gt=0.0,
        le=1.0,
        description="largest share of a refinement's 8-grams that may be copied from the critique",
    )
    refuse_leaks: bool = Field(default=True, description="drop refinements whose directive states the answer")
    refuse_meta_talk: bool = Field(
        default=True, description="drop refinements that mention the critique, the feedback or an earlier attempt"
    )
    min_derivation_words: int = Field(
        default=0, ge=0, description="words that must stand before the answer's last occurrence; 0: no matter"
    )
    second_verifier: str | None = Field(
        default=None, description="name of another reward that must find a refinement right, too"
    )
    reliance_temperature: float | None = Field(
        default=None,
        gt=0.0,
        description="T of the weight exp(min(reliance, 0) / T) on a refinement's imitation, reliance being its mean "
        "log-prob without guidance minus with it (arXiv 2604.00698 has 0.3; None: weight 1)",
    )
    ratio_mode: Literal["shaped", "awr", "oc_is", "in_context"] = Field(
        default="shaped",
        description="weight of a refinement's tokens. Under the bare prompt: shaped, p / (p + gamma); awr, p over what "
        "p was when it was sampled; oc_is, p over what it was sampled with. in_context: trained under the refine "
        "context itself, with PPO's clipped ratio",
    )
    awr_coefficient: float | None = Field(
        default=None, gt=0.0, description=f"factor of awr (None: {AWR_COEFFICIENT}, arXiv 2602.02482)"
    )
    awr_floor: float | None = Field(
        default=None,
        le=0.0,
        description="tokens whose log-prob (nats) under the bare prompt is lower are left out of awr (None: "
        f"{AWR_FLOOR:g})",
    )
    ratio_cap: float | None = Field(
        default=None, gt=0.0, description=f"largest ratio of oc_is; a capped token keeps it (None: {RATIO_CAP:g})"
    )
    gamma: float = Field(default=0.1, gt=0.0, lt=1.0, description="shaping constant of pi / (pi + gamma)")
    weight: float = Field(default=1.0, gt=0.0, description="coefficient of the imitation channel")
    schedule: Shape = Field(
        default="constant",
        description="what becomes of weight over the run's applied steps. linear: to 0 at the last; trapezoid: up over "
        "the first tenth, down to 0 over the second half; unsolved: down as fewer of the unsolved and partly solved "
        "prompts are never solved (HATCH). Each trip of [guards] halves it for a while",
    )
    normalizer: Literal["own", "shared"] = Field(
        default="own", description="divide by the refinements' own token count, or by the policy-gradient constant"
    )
    train_refiner: float = Field(
        default=0.0,
        ge=0.0,
        description="weight of a prompt's refinements as a group of their own in the policy gradient, under the "
        "contexts that they were sampled in (arXiv 2603.04597); rollouts weigh no less beside them, and equal rewards "
        "teach nothing (0: not trained there)",
    )
    predict_critique: float = Field(
        default=0.0,
        ge=0.0,
        description="weight of the mean cross-entropy of the critics' directives, predicted from question and attempt "
        "(arXiv 2602.02482): over their own tokens, whatever else is distilled (0: not predicted)",
    )
    predict_prompt: str = Field(
        default="predict_critique", description="template that asks for the directive: a catalogue name or a path"
    )

    @property
    def shows_lessons(self) -> bool:
        return "lesson" in self.ladder or self.view != "attempt"

    @property
    def shows_prefixes(self) -> bool:
        return any(rung in PREFIX_SHARES for rung in self.ladder)

    @model_validator(mode="after")
    def _the_ladder_rises(self) -> RefinementConfig:
        places = [RUNGS.index(rung) for rung in self.ladder]
        if places != sorted(set(places)):
            raise ValueError(
                f"ladder = {list(self.ladder)} does not rise; name each rung once, in this order: {', '.join(RUNGS)}"
            )
        if self.view != "attempt" and "critique" not in self.ladder:
            raise ValueError(
                f"view = {self.view!r} has no effect on ladder = {list(self.ladder)}; remove it, or put "
                '"critique" on the ladder'
            )
        if self.view == "lesson" and "lesson" in self.ladder:
            raise ValueError(
                'view = "lesson" makes the rung "critique" the same as "lesson"; take one of them off the ladder, or '
                'set view = "attempt"'
            )
        if self.view == "mixed" and self.per_attempt < 2:
            raise ValueError(
                f'view = "mixed" needs per_attempt of 2 or more, so that each attempt gets both, and it is '
                f"{self.per_attempt}"
            )
        return self

    @model_validator(mode="after")
    def _a_trained_refiner_has_a_group(self) -> RefinementConfig:
        if self.train_refiner and self.max_attempts * self.per_attempt == 1:
            raise ValueError(
                f"train_refiner = {self.train_refiner} has no effect with one refinement a prompt, which has nothing "
                "to be compared with; remove it, or raise max_attempts or per_attempt"
            )
        if self.train_refiner and self.ratio_mode == "in_context":
            raise ValueError(
                f'train_refiner = {self.train_refiner} with ratio_mode = "in_context" would train right refinements '
                "under their context twice; remove one of the two"
            )
        return self

    @model_validator(mode="after")
    def _every_key_is_read(self) -> RefinementConfig:
        asks = any(rung in CRITIC_RUNGS for rung in self.ladder)
        if self.aggregate != "none" and not asks:
            raise ValueError(
                f"aggregate = {self.aggregate!r} has no effect on ladder = {list(self.ladder)}, which asks no critic; "
                "remove it"
            )
        if self.predict_critique and not asks:
            raise ValueError(
                f"predict_critique = {self.predict_critique} has no effect on ladder = {list(self.ladder)}, which asks "
                "no critic; remove it"
            )
        read = {
            "lesson_prompt": (self.shows_lessons, 'view = "lesson" or "mixed", or the rung "lesson"'),
            "prefix_prompt": (self.shows_prefixes, "a prefix rung on the ladder"),
            "group_prompt": (self.aggregate == "refine", 'aggregate = "refine"'),
            "predict_prompt": (self.predict_critique > 0, "predict_critique"),
            "other_attempts_chars": (self.aggregate == "critique", 'aggregate = "critique"'),
        }
        for key, (used, wanted) in read.items():
            if not used and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} has no effect without {wanted}; remove it, or set that")
        for key, reader in RATIO_KEYS.items():
            if self.ratio_mode != reader and getattr(self, key) is not None:
                raise ValueError(
                    f"{key} = {getattr(self, key)} has no effect with ratio_mode = {self.ratio_mode!r}; remove it, or "
                    f'set ratio_mode = "{reader}"'
                )
        if self.ratio_mode != "shaped" and self.gamma != type(self).model_fields["gamma"].default:
            raise ValueError(
                f"gamma = {self.gamma} has no effect with ratio_mode = {self.ratio_mode!r}; remove it, or set "
                'ratio_mode = "shaped"'
            )
        return self
