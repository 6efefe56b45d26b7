"""Measures what a lab policy can do: plainly, under the rule critic, and under feedback that should not help.

Owns: a small exact sampler, the success rates, and their bounds. It compares decoded text with the answer.
Must not know: how the policy was trained, the loop, engines.

Shape suffixes: N sequences, U different sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import torch
from scipy.stats import beta
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from critique_rl.lab.corpus import ContextRenderer, directive_text
from critique_rl.lab.problems import Problem

MAX_ROWS = 2048


class Rate(NamedTuple):
    """`successes` of `trials`."""

    successes: int
    trials: int

    @property
    def value(self) -> float:
        return self.successes / self.trials

    @property
    def upper_95(self) -> float:
        """Upper end of the two-sided 95 % Clopper-Pearson interval."""
        if self.successes == self.trials:
            return 1.0
        return float(beta.ppf(0.975, self.successes + 1, self.trials - self.successes))


@dataclass(frozen=True, slots=True)
class LabPolicy:
    """A model with its tokenizer."""

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast

    @property
    def eos_id(self) -> int:
        return cast(int, self.tokenizer.eos_token_id)

    @property
    def pad_id(self) -> int:
        return cast(int, self.tokenizer.pad_token_id)

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, ids: Sequence[int]) -> str:
        return cast(str, self.tokenizer.decode(list(ids), skip_special_tokens=True))


def load_lab_policy(directory: Path) -> LabPolicy:
    """The policy that `build_policy` wrote to `directory`."""
    model = LlamaForCausalLM.from_pretrained(directory)
    return LabPolicy(model.eval(), cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(directory)))


@torch.no_grad()
def next_logprobs(policy: LabPolicy, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
    """Log-probabilities [N, V] of the token after each sequence (right padding; the padding is never looked at)."""
    if len(sequences) > MAX_ROWS:
        parts = [sequences[i : i + MAX_ROWS] for i in range(0, len(sequences), MAX_ROWS)]
        return torch.cat([next_logprobs(policy, part) for part in parts])
    width = max(map(len, sequences))
    ids_NT = torch.tensor([[*s, *[policy.pad_id] * (width - len(s))] for s in sequences])
    last_N = torch.tensor([len(s) - 1 for s in sequences])
    hidden_NTD = policy.model.model(input_ids=ids_NT).last_hidden_state
    assert hidden_NTD is not None
    logits_NV = policy.model.lm_head(hidden_NTD[torch.arange(len(sequences)), last_N])
    return torch.log_softmax(logits_NV.float(), dim=-1)


def sample(policy: LabPolicy, prompts: Sequence[str], *, max_tokens: int, seed: int) -> list[str]:
    """One completion a prompt at temperature 1, up to end-of-sequence; equal prefixes are computed once."""
    generator = torch.Generator().manual_seed(seed)
    sequences = [policy.encode(prompt) for prompt in prompts]
    starts = [len(s) for s in sequences]
    running = list(range(len(sequences)))
    for _ in range(max_tokens):
        distinct = sorted({sequences[i] for i in running})
        if not distinct:
            break
        row = {s: u for u, s in enumerate(distinct)}
        probs_UV = next_logprobs(policy, distinct).exp()
        drawn_N = torch.multinomial(probs_UV[[row[sequences[i]] for i in running]], 1, generator=generator)[:, 0]
        for i, token in zip(running, drawn_N.tolist(), strict=True):
            sequences[i] = (*sequences[i], token)
        running = [i for i in running if sequences[i][-1] != policy.eos_id]
    return [policy.decode(s[n:]) for s, n in zip(sequences, starts, strict=True)]


def success(policy: LabPolicy, prompts: Sequence[str], answers: Sequence[str], *, samples: int, seed: int) -> Rate:
    """How many of `samples` completions (prompts in turn) equal the answer; stopping after it is part of success."""
    turns = [i % len(prompts) for i in range(samples)]
    texts = sample(policy, [prompts[i] for i in turns], max_tokens=len(answers[0]) + 2, seed=seed)
    return Rate(sum(text == answers[i] for text, i in zip(texts, turns, strict=True)), samples)


def answer_probabilities(policy: LabPolicy, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
    """The exact probability of writing each answer and ending there, at temperature 1."""
    totals_N = torch.zeros(len(prompts), dtype=torch.float64)
    sequences = [policy.encode(prompt) for prompt in prompts]
    targets = [(*policy.encode(answer), policy.eos_id) for answer in answers]
    for t in range(len(targets[0])):
        drawn_N = torch.tensor([ids[t] for ids in targets])
        totals_N += next_logprobs(policy, sequences).gather(1, drawn_N[:, None])[:, 0].double()
        sequences = [(*s, ids[t]) for s, ids in zip(sequences, targets, strict=True)]
    return totals_N.exp().tolist()


class Measurement(NamedTuple):
    """Success at temperature 1: bare questions, then second attempts under feedback.

    `hard_probability` is the exact mean over the problems. `refined`: hard problems under the rule critic; `teacher`
    the same without the attempt in view; `overcarried`: easy problems under the rule critic, after a carry too many;
    `foreign`: another hard problem's directive, whose ones add to something else.
    """

    easy: Rate
    hard: Rate
    hard_probability: float
    refined: Rate
    bare_verdict: Rate
    foreign: Rate
    teacher: Rate
    overcarried: Rate


def measure(
    policy: LabPolicy, easy: Sequence[Problem], hard: Sequence[Problem], *, samples: int, seed: int
) -> Measurement:
    """Measures `policy`: `samples` bare hard questions, a tenth as many easy ones, a twentieth for each feedback.

    Failed attempts are the dropped answers; the critic's wordings go round in turn.
    """
    render = ContextRenderer()
    hard_answers = [p.answer for p in hard]
    texts = [directive_text(p, p.dropped_answer, wording=i) for i, p in enumerate(hard)]
    guided = samples // 20
    foreign = [_foreign(i, hard, texts) for i in range(len(hard))]

    carried = [f"{p.answer[0]}{(int(p.answer[1]) + 1) % 10}{p.answer[2:]}" for p in easy]
    told = [directive_text(p, a, wording=i) for i, (p, a) in enumerate(zip(easy, carried, strict=True))]
    easy_answers = [p.answer for p in easy]

    def rate(prompts: list[str], samples: int) -> Rate:
        return success(policy, prompts, hard_answers, samples=samples, seed=seed)

    def refine(directives: Sequence[str]) -> Rate:
        prompts = [render.refine(p, p.dropped_answer, d) for p, d in zip(hard, directives, strict=True)]
        return rate(prompts, guided)

    bare = [p.question for p in hard]
    return Measurement(
        easy=success(policy, [p.question for p in easy], easy_answers, samples=samples // 10, seed=seed),
        hard=rate(bare, samples),
        hard_probability=sum(answer_probabilities(policy, bare, hard_answers)) / len(hard),
        refined=refine(texts),
        bare_verdict=refine(["Wrong."] * len(hard)),
        foreign=refine(foreign),
        teacher=rate([render.teacher(p, t) for p, t in zip(hard, texts, strict=True)], guided),
        overcarried=success(
            policy,
            [render.refine(p, a, t) for p, a, t in zip(easy, carried, told, strict=True)],
            easy_answers,
            samples=guided,
            seed=seed,
        ),
    )


def _foreign(index: int, problems: Sequence[Problem], texts: Sequence[str]) -> str:
    """The text of the next problem whose ones add to something else."""
    order = [*range(index + 1, len(problems)), *range(index)]
    return texts[next(i for i in order if problems[i].totals[0] != problems[index].totals[0])]
