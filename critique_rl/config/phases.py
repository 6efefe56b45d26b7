"""The `[phases]` section: which phrases are plans, and when what stands in them is learned from more than the rest.

Owns: its defaults, how phrases are mined, and where a key could do nothing. Must not know: how a phrase is found,
tokens. `alpha`, the lengths and the share of clusters are of arXiv 2509.03646; the other numbers are ours, no published
evidence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from critique_rl.config.base import Strict
from critique_rl.config.sampling import ADVANTAGES_FROM_REWARDS
from critique_rl.config.sft import SFT

if TYPE_CHECKING:
    from critique_rl.config.run import RunConfig

OWN = "own"
AMPLIFIED = (*ADVANTAGES_FROM_REWARDS, "pass_at_k", "weighted_reinforce")
"""Methods whose advantages may be amplified; one of 0 stays 0, so that groups without contrast still teach nothing."""


class MiningConfig(Strict):
    """How strategic phrases are found in right solutions: n-grams, clusters of alike ones, and what many solutions
    share."""

    min_words: int = Field(default=3, ge=1, description="shortest phrase")
    max_words: int = Field(default=5, ge=1, description="longest phrase")
    clusters: int = Field(
        default=100, ge=1, description="clusters of k-means over the phrases' embeddings; fewer where phrases are fewer"
    )
    top: float = Field(default=0.2, gt=0.0, le=1.0, description="share of the clusters that is kept")
    by: Literal["count", "quantile"] = Field(
        default="count",
        description="count: that share of the clusters, rounded up; quantile: every cluster in as many solutions as "
        "the quantile of that share",
    )
    max_per_solution: float | None = Field(
        default=None,
        ge=1.0,
        description="leave out phrases that occur more often than this, on average, in the solutions that have them: "
        "plans are sparse within a solution (None: keep them)",
    )
    max_grams: int = Field(
        default=4000, ge=1, description="only so many phrases are clustered, those that most solutions have"
    )
    embedder: str = Field(
        default="hashed",
        min_length=1,
        description='"hashed": shared wording, without a model (extra `text`); else a sentence-transformers model '
        "(extra `embeddings`)",
    )

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        if self.min_words > self.max_words:
            raise ValueError(f"min_words = {self.min_words} is above max_words = {self.max_words}; lower it")
        return self


class PhasesConfig(Strict):
    """Plans before steps (HICRA, arXiv 2509.03646): once the steps are learned, tokens of planning phrases get
    A + alpha |A| in the place of their advantage A."""

    mode: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="auto: on once the first phase is over, off when it hurts; on: from the start, or from the moment "
        "that there are phrases; off: measure only",
    )
    grams: str | tuple[str, ...] = Field(
        default=OWN,
        description='the phrases: a list, a file that `critique-rl phases mine` wrote, or "own": mined from the run\'s '
        "own right answers at the moment that it is to be switched on",
    )
    tokens: Literal["planning", "surprising"] = Field(
        default="planning",
        description="what is amplified; surprising, a control: the tokens of the batch that were least likely when "
        "they were sampled",
    )
    surprising_share: float = Field(
        default=0.2, gt=0.0, lt=1.0, description="with tokens = surprising: share of the batch's own tokens"
    )
    alpha: float = Field(default=0.2, gt=0.0, lt=1.0, description="how much; the sign of an advantage never changes")
    warmup_steps: int = Field(default=10, ge=0, description="steps in which it rises to alpha, from each switching on")
    window: int = Field(default=20, ge=4, description="steps over which figures are compared")
    flat_below: float = Field(
        default=0.02,
        gt=0.0,
        description="the first phase is over when the perplexity of execution tokens differs by less than this share "
        "between the halves of a window, and from the window before",
    )
    formed_above: float = Field(
        default=0.95,
        ge=0.0,
        lt=1.0,
        description="and when, over the window, more than this share of answers was finished and could be read",
    )
    success_above: float = Field(
        default=0.2,
        ge=0.0,
        lt=1.0,
        description="and more than this share was right; set it above what guessing gets: a policy that becomes sure "
        "of wrong answers is as flat",
    )
    fallen_by: float = Field(
        default=0.2,
        gt=0.0,
        lt=1.0,
        description="and the log-perplexity of execution tokens is lower by this share than in the first window, "
        "unless it is low as it is",
    )
    sure_below_nats: float = Field(
        default=0.3,
        ge=0.0,
        allow_inf_nan=False,
        description="low as it is, without a fall, for a policy that is strong from the start: nats a token, at the "
        "sampling temperature (0: only a fall counts)",
    )
    sustain_steps: int = Field(
        default=5,
        ge=1,
        description="steps in a row that strategy entropy and success are both lower before it ends",
    )
    wait_steps: int = Field(default=50, ge=1, description="steps before it may be switched on again")
    min_solutions: int = Field(default=20, ge=2, description='with grams = "own": different right answers to mine from')
    max_solutions: int = Field(default=256, ge=2, description='with grams = "own": the latest of them that are kept')
    mining: MiningConfig = MiningConfig()

    @model_validator(mode="after")
    def _every_key_is_read(self) -> Self:
        inert: dict[str, str] = {}
        if self.mode != "auto":
            begins = ("window", "flat_below", "formed_above", "success_above", "fallen_by", "sure_below_nats")
            inert |= dict.fromkeys((*begins, "sustain_steps", "wait_steps"), f'mode = "{self.mode}"')
        if self.mode == "off":
            inert |= dict.fromkeys(("alpha", "warmup_steps", "tokens"), 'mode = "off"')
        if self.tokens != "surprising":
            inert["surprising_share"] = 'tokens = "planning"'
        if self.grams != OWN:
            inert |= dict.fromkeys(("min_solutions", "max_solutions", "mining"), "grams of another source")
        for key, why in inert.items():
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} has no effect with {why}; remove it")
        if self.max_solutions < self.min_solutions:
            raise ValueError(
                f"max_solutions = {self.max_solutions} is below min_solutions = {self.min_solutions}; raise it"
            )
        if not self.grams:
            raise ValueError('grams is empty; list phrases, name a file, or write "own"')
        if self.mode == "off" and self.grams == OWN:
            raise ValueError('mode = "off" mines nothing, so grams = "own" measures nothing; list phrases, or a file')
        return self


def check_phases(run: RunConfig) -> None:
    """What [phases] needs of the rest of a run. Raises ValueError."""
    options = run.phases
    if options is None:
        return
    if run.feedback is not None or run.algorithm.name == SFT:
        what = "[feedback]" if run.feedback is not None else 'algorithm.name = "sft"'
        raise ValueError(
            f"[phases] has no effect with {what}: what is learned from there says nothing of the policy as it is now; "
            "remove one of the two"
        )
    if options.mode == "off":
        return
    if run.algorithm.name not in AMPLIFIED:
        raise ValueError(
            f"[phases] cannot be with algorithm.name = {run.algorithm.name!r}, which also learns by weights other than "
            f"advantages; set phases.mode = 'off', or choose one of {', '.join(AMPLIFIED)}"
        )
    if run.objectives is not None and run.objectives.gradient_method is not None:
        raise ValueError(
            "[phases] amplifies one advantage of each token, and objectives.combine joins a gradient for each "
            "objective; combine advantages, or set phases.mode = 'off'"
        )
    covariance = run.loss.clip_cov_share > 0 or run.loss.kl_cov_share > 0
    if covariance and "distillation" in run.reads and run.distillation.join != "losses":
        raise ValueError(
            "[phases] with loss.clip_cov_share or kl_cov_share takes covariances of advantages before anything was "
            f"added to them, and distillation.join = {run.distillation.join!r} adds to them; choose join = 'losses', "
            "or remove one of the others"
        )
