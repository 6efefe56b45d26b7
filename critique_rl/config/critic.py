"""Which critic answers, and under what limits.

Owns: the options of every critic and their defaults. Must not know: any client library, prompts' content, the loop.
A key is never in a config: only the name of the environment variable that holds it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from critique_rl.config.base import Strict

StructuredOutput = Literal["json_schema", "json_object", "text"]
Criterion = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_ .-]{0,39}$")]
DEFAULT_CRITERIA: tuple[str, ...] = ("correctness", "reasoning")


class _Shown(Strict):
    """What a prompted critic sees, and how much of its advice is taken."""

    name: str = Field(default="", description="what reports call this critic; empty: its kind and model")
    prompt: str = Field(default="critic", description="a shipped prompt's name, or a path to a prompt file")
    criteria: tuple[Criterion, ...] = Field(
        default=DEFAULT_CRITERIA, min_length=1, max_length=16, description="what to score, each from 0 to 1"
    )
    show_reference: bool = Field(default=False, description="show the critic the reference answer")
    max_attempt_chars: int = Field(default=12_000, ge=200, description="a longer attempt loses its middle")
    min_directive_chars: int = Field(default=10, ge=1, description="a shorter directive is dropped")
    max_directive_chars: int = Field(default=400, ge=20, description="a longer directive is dropped")
    max_directives: int = Field(
        default=4,
        ge=0,
        le=16,
        description="directives taken from one reply; 0: only scores and a verdict are asked for",
    )


class _Remote(_Shown):
    """A model behind a network call: sampling, limits and budget."""

    model: str = Field(min_length=1, description="the model's name, as its server or LiteLLM spells it")
    temperature: float = Field(default=0.3, ge=0, le=2)
    max_tokens: int = Field(default=512, ge=1, description="longest reply, in tokens; a reply cut there is malformed")
    seed: int | None = Field(default=None, description="sampling seed, for servers that take one")
    structured_output: StructuredOutput = Field(
        default="json_schema", description="what to ask for first; a server that refuses it is asked for the next one"
    )
    timeout_s: float = Field(default=60.0, gt=0, description="for one call; the clock starts when it is sent")
    stage_deadline_s: float | None = Field(default=300.0, gt=0, description="for all calls of one step together")
    late_steps: int = Field(
        default=0,
        ge=0,
        description="a critique that misses its stage's deadline may still serve one of so many later steps; 0: none",
    )
    max_in_flight: int = Field(default=16, ge=1)
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1, description="asked and answered together")
    hedge_after_s: float | None = Field(
        default=None, gt=0, description="a call that takes longer is sent a second time; the first answer counts"
    )
    parse_retries: int = Field(default=1, ge=0, description="fresh replies asked for after a malformed one")
    length_retries: int = Field(default=1, ge=0, description="times a cut-off reply is asked for with twice max_tokens")
    reasks: int = Field(
        default=1, ge=0, description="fresh replies asked for when the critic's verdict contradicts the verifier"
    )
    cache: str = Field(
        default="", description="a file of paid answers; an equal request is answered from it, in any later run too"
    )
    max_attempts: int = Field(default=4, ge=1, description="sends of one call, the first one included")
    retry_after_cap_s: float = Field(default=60.0, ge=0, description="a server that asks to wait longer fails the call")
    max_calls: int | None = Field(default=None, ge=0, description="sends in the whole run; checked before each")
    max_total_tokens: int | None = Field(default=None, ge=0, description="tokens in the whole run, asked and answered")
    max_cost_usd: float | None = Field(default=None, ge=0, description="money in the whole run")
    usd_per_million_prompt_tokens: float | None = Field(default=None, ge=0)
    usd_per_million_completion_tokens: float | None = Field(default=None, ge=0)
    batch_price_factor: float | None = Field(
        default=None, gt=0, le=1, description="share of the prices above that a batch endpoint asks; OpenAI: 0.5"
    )

    @property
    def priced(self) -> bool:
        """True if the config itself gives both prices."""
        return self.usd_per_million_prompt_tokens is not None and self.usd_per_million_completion_tokens is not None

    @model_validator(mode="after")
    def _prices_come_in_pairs(self) -> Self:
        if (self.usd_per_million_prompt_tokens is None) != (self.usd_per_million_completion_tokens is None):
            raise ValueError(
                "usd_per_million_prompt_tokens and usd_per_million_completion_tokens go together: set both"
            )
        return self


class OpenAICriticConfig(_Remote):
    """Any OpenAI-compatible chat server: OpenAI itself, vLLM, SGLang, llama.cpp, Ollama, LM Studio."""

    kind: Literal["openai"]
    base_url: str | None = Field(default=None, description='such as "http://localhost:8000/v1"; unset: OpenAI')
    api_key_env: str = Field(default="OPENAI_API_KEY", description="variable that holds the key; loopback needs none")
    allow_insecure: bool = Field(default=False, description="send a key over http:// to a host that is not this one")

    @field_validator("base_url")
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"https?://[^/\s]+", value):
            raise ValueError(f'{value!r} is not an address: write it as "http://host:port/v1"')
        return value

    @model_validator(mode="after")
    def _budget_has_prices(self) -> Self:
        if self.max_cost_usd is not None and not self.priced:
            raise ValueError(
                "max_cost_usd needs a price: set usd_per_million_prompt_tokens and usd_per_million_completion_tokens, "
                "or bound the run by max_calls or max_total_tokens"
            )
        return self


class LiteLLMCriticConfig(_Remote):
    """Any model that LiteLLM reaches, by its name there: "anthropic/...", "gemini/...", "openai/..."."""

    kind: Literal["litellm"]
    base_url: str | None = Field(default=None, description="the server's address, for local models")
    api_key_env: str = Field(default="", description="variable that holds the key; empty: the one LiteLLM expects")


class RecordedCriticConfig(_Shown):
    """Answers from a file of recorded exchanges, with no model; a request that was never recorded fails."""

    kind: Literal["recorded"]
    path: str = Field(min_length=1, description="a .jsonl file written by a run with a remote critic")


class ScriptedCriticConfig(_Shown):
    """Answers with given raw replies in turn, over and over; with `fail` every call fails."""

    kind: Literal["scripted"]
    replies: tuple[str, ...] = ()
    fail: bool = False

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if bool(self.replies) == self.fail:
            raise ValueError("give either replies or fail = true")
        return self


class RuleConfig(Strict):
    """One check of an attempt: it passes if `pattern` is found; if not, `directive` is said."""

    criterion: Criterion
    pattern: str = Field(description="a Python regular expression, searched in the whole attempt")
    directive: str = Field(min_length=1)
    kind: Literal["procedure", "fact", "format", "preference", "tool"] = "format"

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"{value!r} is not a regular expression: {error}") from None
        return value


class RulesCriticConfig(Strict):
    """Rules as a critic: for tasks whose form can be checked by regular expressions."""

    kind: Literal["rules"]
    name: str = "rules"
    rules: tuple[RuleConfig, ...] = Field(min_length=1)

    @field_validator("rules")
    @classmethod
    def _one_rule_each(cls, value: tuple[RuleConfig, ...]) -> tuple[RuleConfig, ...]:
        names = [rule.criterion for rule in value]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"criterion {twice[0]!r} has more than one rule: give each rule its own criterion")
        return value


class LabRulesCriticConfig(Strict):
    """The lab's own rule critic, with two knobs that spoil it for controls."""

    kind: Literal["lab_rules"]
    lies: float = Field(
        default=0.0, ge=0.0, le=1.0, description="probability that a critique is advice for another kind of sum"
    )
    reveals: bool = Field(default=False, description="say the answer's digits instead of which step is wrong")


class SchoolRulesCriticConfig(Strict):
    """The rule critic of the school world: it knows chains, and abstains from everything else."""

    kind: Literal["lab_school_rules"]
    lies: float = Field(
        default=0.0, ge=0.0, le=1.0, description="probability that a critique recommends the plan that is always wrong"
    )


class PolicyCriticConfig(_Shown):
    """The policy itself as the critic, under the weights that it has at the moment, with the reference or without."""

    kind: Literal["policy"]
    temperature: float = Field(default=0.7, ge=0, le=2)
    max_tokens: int = Field(default=512, ge=1)


class PythonCriticConfig(Strict):
    """A function of the user's own, in a Python file beside the run file."""

    kind: Literal["python"]
    path: str = Field(min_length=1, description="a .py file; it is run when the critic is built")
    function: str = Field(
        default="review", description="takes a CriticRequest, returns a reply: text, a dict in the reply's schema, None"
    )
    name: str = Field(default="", description="what reports call this critic; empty: python:FUNCTION")
    max_in_flight: int = Field(default=1, ge=1, description="threads that call the function")
    min_directive_chars: int = Field(default=10, ge=1, description="a shorter directive is dropped")
    max_directive_chars: int = Field(default=400, ge=20, description="a longer directive is dropped")
    max_directives: int = Field(default=4, ge=1, le=16, description="directives taken from one reply")


class NoCriticConfig(Strict):
    """No critic: scalar reward only."""

    kind: Literal["none"]


SingleCriticConfig = (
    LabRulesCriticConfig
    | SchoolRulesCriticConfig
    | RulesCriticConfig
    | LiteLLMCriticConfig
    | OpenAICriticConfig
    | PolicyCriticConfig
    | PythonCriticConfig
    | RecordedCriticConfig
    | ScriptedCriticConfig
)


class ShuffledCriticConfig(Strict):
    """A control: another critic's directives, each given to an attempt at another task."""

    kind: Literal["shuffled"]
    critic: Annotated[SingleCriticConfig, Field(discriminator="kind")]


class PanelCriticConfig(Strict):
    """Several critics at once: scores by median, the verdict by majority, directives from the members that agree."""

    kind: Literal["panel"]
    name: str = "panel"
    members: tuple[Annotated[SingleCriticConfig, Field(discriminator="kind")], ...] = Field(min_length=2, max_length=9)
    quorum: int | None = Field(default=None, ge=1, description="members that must answer; unset: more than half")
    max_directives: int = Field(default=4, ge=1, le=16, description="directives taken from all members together")

    @model_validator(mode="after")
    def _quorum_can_be_met(self) -> Self:
        if self.quorum is not None and self.quorum > len(self.members):
            raise ValueError(f"quorum = {self.quorum}, but there are {len(self.members)} members")
        return self


CriticConfig = Annotated[
    SingleCriticConfig | PanelCriticConfig | ShuffledCriticConfig | NoCriticConfig, Field(discriminator="kind")
]
RemoteCriticConfig = LiteLLMCriticConfig | OpenAICriticConfig
PromptedCriticConfig = (
    LiteLLMCriticConfig | OpenAICriticConfig | PolicyCriticConfig | RecordedCriticConfig | ScriptedCriticConfig
)


def members_of(config: CriticConfig) -> tuple[SingleCriticConfig, ...]:
    """The critics that this one is made of: none for a single critic."""
    if isinstance(config, PanelCriticConfig):
        return config.members
    return (config.critic,) if isinstance(config, ShuffledCriticConfig) else ()


def with_members(config: CriticConfig, change: Callable[[SingleCriticConfig], CriticConfig]) -> CriticConfig:
    """The same section with each of its members changed; a single critic stays as it is."""
    changed = tuple(map(change, members_of(config)))
    if isinstance(config, PanelCriticConfig):
        return config.model_copy(update={"members": changed})
    return config.model_copy(update={"critic": changed[0]}) if isinstance(config, ShuffledCriticConfig) else config


def stage_deadline_s(config: CriticConfig | None) -> float | None:
    """How long a step waits for its critiques; None waits for all. Each member of a panel keeps to its own deadline."""
    return config.stage_deadline_s if isinstance(config, RemoteCriticConfig) else None


def late_steps(config: CriticConfig | None) -> int:
    """How many steps later a critique may still serve; a panel's votes are counted in time or not at all."""
    return config.late_steps if isinstance(config, RemoteCriticConfig) else 0


def shows_reference(config: CriticConfig | None) -> bool:
    """Whether any critic of this section may see the answer; each member of a panel keeps to its own setting."""
    if config is not None and members_of(config):
        return any(map(shows_reference, members_of(config)))
    return isinstance(config, PromptedCriticConfig) and config.show_reference
