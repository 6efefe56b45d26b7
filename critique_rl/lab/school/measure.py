"""What a policy of the school world does on held-out problems: exact probabilities, but for lines, which are sampled.

Owns: the figures of LAB.json. Must not know: how the policy was trained, the loop, engines.

Shape suffixes: N sequences, T tokens, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch

from critique_rl.lab.guess.measure import outcomes
from critique_rl.lab.measure import LabPolicy, sample
from critique_rl.lab.school.chains import MAX_LENGTH, PLANS, RIGHT_PLANS, Chain
from critique_rl.lab.school.corpus import SchoolContexts
from critique_rl.lab.school.critic import LIE, directive_for
from critique_rl.lab.school.problems import FORMATS, KINDS, LINE_WORDS, Kind, Write, select_problems
from critique_rl.lab.school.reward import FORMAT_PATTERNS, line_score

LINES_PER_PROBLEM = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class SchoolMeasurement:
    """Means over held-out problems at temperature 1, chains of the largest length.

    `success` holds the mean reward of "write". `format_shares` and `format_accuracy` are of sums, `plans` of chains.
    `step_accuracy`: one step of a chain is right where all before it are in the prompt. `refined`, `taught`,
    `bare_verdict` and `misled`: success on chains after an attempt under "at once", with the rule critic's advice, with
    it and without the attempt, with the word "Wrong.", and with advice that leads astray.
    """

    success: Mapping[str, float]
    format_shares: Mapping[str, float]
    format_accuracy: Mapping[str, float]
    plans: Mapping[str, float]
    step_accuracy: float
    refined: float
    taught: float
    bare_verdict: float
    misled: float

    def to_dict(self) -> dict[str, object]:
        """Plain JSON."""
        return asdict(self)


def measure_school(
    policy: LabPolicy, *, problems: int, chain_length: int = MAX_LENGTH, seed: int = 0
) -> SchoolMeasurement:
    """The figures of `policy` on the first `problems` held-out problems of each kind."""
    chosen = {kind: select_problems("held_out", kind, problems, chain_length=chain_length) for kind in KINDS}
    chains = [p for p in chosen["chain"] if isinstance(p, Chain)]
    questions = [c.question for c in chains]
    formats = _formats(policy, [(p.question, p.answer) for p in chosen["sum"]])
    exact: dict[Kind, float] = {
        "chain": chain_success(policy, questions, chains),
        "sum": sum(share * accuracy for share, accuracy in formats.values()),
    }
    for kind in ("sort", "recall"):
        exact[kind] = _mean(
            text_probabilities(policy, [p.question for p in chosen[kind]], [p.answer for p in chosen[kind]])
        )
    exact["write"] = _line_reward(policy, [p for p in chosen["write"] if isinstance(p, Write)], seed=seed)
    contexts = SchoolContexts()
    attempts = [f"at once: {c.steps('at once')[-1].result}" for c in chains]
    advice = [_advice(c, a, i) for i, (c, a) in enumerate(zip(chains, attempts, strict=True))]

    def after(said: Callable[[int], str]) -> float:
        prompts = [
            contexts.refine(c.question, a, said(i)) for i, (c, a) in enumerate(zip(chains, attempts, strict=True))
        ]
        return chain_success(policy, prompts, chains)

    taught = [contexts.teacher(c.question, text) for c, text in zip(chains, advice, strict=True)]
    return SchoolMeasurement(
        success={kind: exact[kind] for kind in KINDS},
        format_shares={name: share for name, (share, _) in formats.items()},
        format_accuracy={name: accuracy for name, (_, accuracy) in formats.items()},
        plans={
            plan: _mean(text_probabilities(policy, questions, [f"{plan}:"] * len(chains), ended=False))
            for plan in PLANS
        },
        step_accuracy=step_accuracy(policy, chains),
        refined=after(lambda i: advice[i]),
        taught=chain_success(policy, taught, chains),
        bare_verdict=after(lambda _: "Wrong."),
        misled=after(lambda i: LIE[i % len(LIE)]),
    )


def chain_success(policy: LabPolicy, prompts: Sequence[str], chains: Sequence[Chain]) -> float:
    """Mean probability of a right answer: one of the two plans that can be right, without a slip."""
    total = 0.0
    for plan in RIGHT_PLANS:
        texts = [c.solution.replace("step by step", plan) for c in chains]
        total += _mean(text_probabilities(policy, prompts, texts))
    return total


def step_accuracy(policy: LabPolicy, chains: Sequence[Chain]) -> float:
    """Mean probability of a step's right digit, everything before it being right and in the prompt."""
    prompts: list[str] = []
    digits: list[str] = []
    for chain in chains:
        begun = chain.question
        for part in chain.solution_steps[:-1]:
            if "=" in part:
                prompts.append(begun + part[: part.index("=") + 1])
                digits.append(part[-2])
            begun += part
    return _mean(text_probabilities(policy, prompts, digits, ended=False))


@torch.no_grad()
def text_probabilities(
    policy: LabPolicy, prompts: Sequence[str], texts: Sequence[str], *, ended: bool = True
) -> list[float]:
    """The probability at temperature 1 of going on from each prompt with its text, and of ending there if `ended`."""
    heads = [policy.encode(prompt) for prompt in prompts]
    tails = [(*policy.encode(text), *([policy.eos_id] if ended else [])) for text in texts]
    both = [(*h, *t) for h, t in zip(heads, tails, strict=True)]
    width = max(map(len, both))
    ids_NT = torch.tensor([[*ids, *[policy.pad_id] * (width - len(ids))] for ids in both])
    hidden_NTD = policy.model.model(input_ids=ids_NT).last_hidden_state
    assert hidden_NTD is not None
    found: list[float] = []
    for hidden_TD, head, tail in zip(hidden_NTD, heads, tails, strict=True):
        own_TD = hidden_TD[len(head) - 1 : len(head) + len(tail) - 1]
        logprobs_TV = torch.log_softmax(policy.model.lm_head(own_TD).double(), dim=-1)
        found.append(float(logprobs_TV.gather(1, torch.tensor(tail)[:, None]).sum().exp()))
    return found


def _formats(policy: LabPolicy, asked: Sequence[tuple[str, str]]) -> dict[str, tuple[float, float]]:
    """Share and accuracy of every format of sums."""
    shares = dict.fromkeys(FORMATS, 0.0)
    right = dict.fromkeys(FORMATS, 0.0)
    for (_, answer), tree in zip(asked, outcomes(policy, [q for q, _ in asked]), strict=True):
        for text, probability in tree.probabilities.items():
            for name, pattern in FORMAT_PATTERNS.items():
                if match := re.fullmatch(pattern, text):
                    shares[name] += probability / len(asked)
                    right[name] += probability / len(asked) * (match[1] == answer)
    return {name: (shares[name], right[name] / shares[name] if shares[name] else 0.0) for name in FORMATS}


def _line_reward(policy: LabPolicy, asked: Sequence[Write], *, seed: int) -> float:
    turns = [p for p in asked for _ in range(LINES_PER_PROBLEM)]
    lines = sample(policy, [p.question for p in turns], max_tokens=LINE_WORDS + 2, seed=seed)
    return _mean([line_score(p, line) for p, line in zip(turns, lines, strict=True)])


def _advice(chain: Chain, attempt: str, wording: int) -> str:
    directive = directive_for(chain, attempt, wording=wording)
    assert directive is not None
    return directive.text


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
