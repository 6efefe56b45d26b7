"""What prompted critics share: what they are shown, and how text that came back becomes a Critique.

Owns: the inputs a critic prompt may declare, and the mapping from errors to outcomes.
Must not know: how a reply is fetched. Nothing here raises for bad model output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from critique_rl.config.critic import LiteLLMCriticConfig, OpenAICriticConfig, PromptedCriticConfig
from critique_rl.errors import (
    CriticBudgetError,
    CriticError,
    CriticMalformedError,
    CriticRateLimitError,
    CriticRefusedError,
    CriticSetupError,
    CriticTimeoutError,
)
from critique_rl.feedback.leak import leaks
from critique_rl.feedback.parse import parse_reply
from critique_rl.feedback.split import DirectiveFilter, split
from critique_rl.prompting.catalogue import load_prompt
from critique_rl.prompting.fence import MAX_ATTEMPT_CHARS, disarm, fence
from critique_rl.prompting.template import PromptTemplate
from critique_rl.types import CriticOutcome, CriticRequest, Critique, Message, Usage

NOTHING_USED = Usage()
_DEFAULT_BOUNDS = DirectiveFilter()
DEFAULT_PROMPT = "critic"
GROUP_PROMPT = "critic_group"
TAGS_PROMPT = "critic_tags"
CRITIC_INPUTS = ("question", "attempt", "other_attempts", "nonce", "detail", "reference", "criteria")
_OUTCOMES: tuple[tuple[type[CriticError], CriticOutcome], ...] = (
    (CriticTimeoutError, CriticOutcome.TIMED_OUT),
    (CriticRateLimitError, CriticOutcome.RATE_LIMITED),
    (CriticRefusedError, CriticOutcome.REFUSED),
    (CriticMalformedError, CriticOutcome.MALFORMED),
    (CriticBudgetError, CriticOutcome.OVER_BUDGET),
)


class Asker:
    """Renders the critic prompt for one attempt; equal requests give equal messages."""

    def __init__(
        self,
        template: PromptTemplate,
        *,
        criteria: Sequence[str],
        show_reference: bool = False,
        max_attempt_chars: int = MAX_ATTEMPT_CHARS,
    ) -> None:
        """Raises PromptError if the template wants an input that a critic is never given."""
        template.check_available(CRITIC_INPUTS)
        self.template = template
        self._criteria = ", ".join(criteria)
        self._show_reference = show_reference
        self._max_attempt_chars = max_attempt_chars

    def messages(self, request: CriticRequest) -> tuple[Message, ...]:
        """The messages to send. The answer is in them only if the run allows it, not even through verifier detail.

        Raises CriticSetupError for several attempts under a template that shows one.
        """
        task = request.task
        if request.other_attempts and "other_attempts" not in self.template.inputs:
            raise CriticSetupError(
                f"{self.template.source}: the prompt {self.template.name!r} shows one attempt, but "
                'refinement.aggregate = "critique" asks about several at once: set critic.prompt to one that declares '
                f'other_attempts, such as "{GROUP_PROMPT}"'
            )
        fenced = fence(request.attempt, context=f"{task.id}\n{task.question}", max_chars=self._max_attempt_chars)
        reference = request.reference or "" if self._show_reference else ""
        detail = request.score.detail
        if not reference and leaks(detail, task.answer, question=task.question):
            detail = ""
        # A verifier's detail may quote the attempt.
        detail = disarm(detail).text
        return self.template.messages_from(
            {
                "question": task.question,
                "attempt": fenced.text,
                "other_attempts": self._others(request),
                "nonce": fenced.nonce,
                "detail": detail,
                "reference": reference,
                "criteria": self._criteria,
            }
        )

    def _others(self, request: CriticRequest) -> str:
        """Each further attempt between markers of its own."""
        context = f"{request.task.id}\n{request.task.question}"
        fenced = [fence(a, context=context, max_chars=self._max_attempt_chars) for a in request.other_attempts]
        return "\n".join(f"[begin attempt {f.nonce}]\n{f.text}\n[end attempt {f.nonce}]" for f in fenced)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyContext:
    """What is known of a reply besides its text."""

    critic: str
    prompt_hash: str = ""
    finish_reason: str = ""
    usage: Usage = NOTHING_USED
    latency_s: float = 0.0
    bounds: DirectiveFilter = _DEFAULT_BOUNDS
    asked: tuple[Message, ...] = ()
    cached: bool = False


def asker_from(config: PromptedCriticConfig, *, prompt: str = "") -> Asker:
    """The asker that a critic section describes, or the same with another prompt.

    A critic that is asked for plain text from the start is shown tags instead of JSON, unless its prompt was chosen.
    Raises PromptError if its prompt cannot be used.
    """
    plain = isinstance(config, LiteLLMCriticConfig | OpenAICriticConfig) and config.structured_output == "text"
    chosen = TAGS_PROMPT if plain and config.prompt == DEFAULT_PROMPT else config.prompt
    return Asker(
        load_prompt(prompt or chosen),
        criteria=config.criteria,
        show_reference=config.show_reference,
        max_attempt_chars=config.max_attempt_chars,
    )


def bounds_from(config: PromptedCriticConfig) -> DirectiveFilter:
    """The directive bounds that a critic section describes."""
    return DirectiveFilter(
        min_chars=config.min_directive_chars,
        max_chars=config.max_directive_chars,
        max_directives=config.max_directives,
    )


def read_reply(text: str, request: CriticRequest, context: ReplyContext) -> Critique:
    """Parse and split one raw reply; what cannot be used becomes an outcome with its reason."""
    if context.finish_reason == "length":
        return failed(request, CriticMalformedError("the reply was cut off: raise max_tokens"), context, reply=text)
    try:
        parsed = parse_reply(text, attempt=request.attempt)
    except CriticMalformedError as error:
        return failed(request, error, context, reply=text)
    reply = parsed.reply
    asked = "\n".join(message.content for message in context.asked)
    parts = split(reply, request, bounds=context.bounds, asked=asked, critic=context.critic)
    return Critique(
        rollout_id=request.rollout_id,
        critic=context.critic,
        outcome=CriticOutcome.ABSTAINED if reply.empty else CriticOutcome.OK,
        evaluative=parts.evaluative,
        directives=parts.directives,
        verdict=parts.verdict,
        dropped=parts.dropped,
        reply=text,
        reason="the critic had nothing to say" if reply.empty else "",
        prompt_hash=context.prompt_hash,
        usage=context.usage,
        latency_s=context.latency_s,
        parse_form=parsed.form,
        cached=context.cached,
    )


def failed(request: CriticRequest, error: CriticError, context: ReplyContext, *, reply: str = "") -> Critique:
    """A call that ended without a usable reply: an outcome and a reason, and nothing that could train."""
    outcome = next((outcome for kind, outcome in _OUTCOMES if isinstance(error, kind)), CriticOutcome.FAILED)
    return failed_as(request, outcome, str(error), context, reply=reply)


def failed_as(
    request: CriticRequest, outcome: CriticOutcome, reason: str, context: ReplyContext, *, reply: str = ""
) -> Critique:
    """Like `failed`, for an outcome that is already known."""
    return Critique(
        rollout_id=request.rollout_id,
        critic=context.critic,
        outcome=outcome,
        reply=reply,
        reason=reason,
        prompt_hash=context.prompt_hash,
        usage=context.usage,
        latency_s=context.latency_s,
        cached=context.cached,
    )
