"""Rebuilds the packaged lab policy from nothing: tokenizer, model, training, measurement, LAB.json.

Owns: the policy's size, its training recipe, and the files beside it. Equal arguments and library versions give equal
weights, on one thread. About ten minutes on one core.
Must not know: the RL loop; reinforcement learning starts from what this writes.

Shape suffixes: B sequences, T tokens, A answer tokens, V vocabulary.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from critique_rl.lab.corpus import Corpus, Example
from critique_rl.lab.measure import LabPolicy, Measurement, Rate, measure
from critique_rl.lab.problems import select_problems
from critique_rl.lab.training import Progress, byte_level_tokenizer, fit, new_llama, one_thread

STEPS = 2400
PLAIN_BATCH = 64
CONTEXT_BATCH = 32
PEAK_LEARNING_RATE = 1e-3
VOCABULARY_SIZE = 512
# After training, all logits are multiplied by this: the habits become sharper than a few minutes of training make them.
SHARPNESS = 1.6


def build_policy(
    out_dir: Path,
    *,
    seed: int = 0,
    steps: int = STEPS,
    digits: int = 2,
    samples: int = 40_000,
    progress: Progress | None = None,
) -> Measurement:
    """Trains the starting policy, measures it, and writes model, tokenizer and LAB.json to `out_dir`.

    `samples` bare hard questions are sampled to bound their success. `progress(step, steps, loss)` is called after
    every step. Raises ConfigError for fewer than one step.
    """
    began_s = time.monotonic()
    with one_thread():
        policy = train_policy(seed=seed, steps=steps, digits=digits, progress=progress)
        easy = select_problems("held_out", "easy", 200, digits=digits)
        hard = select_problems("held_out", "hard", 200, digits=digits)
        measured = measure(policy, easy, hard, samples=samples, seed=seed)
    recipe = {"digits": digits, "seed": seed, "steps": steps, "wall_s": round(time.monotonic() - began_s, 1)}
    write_policy(policy, out_dir, {**facts_of(policy, _rates(measured)), **recipe})
    return measured


def write_policy(policy: LabPolicy, out_dir: Path, facts: Mapping[str, object]) -> None:
    """Model, tokenizer and LAB.json, the facts about them, in `out_dir`."""
    out_dir.mkdir(parents=True, exist_ok=True)
    policy.model.save_pretrained(out_dir)
    policy.tokenizer.save_pretrained(out_dir)
    (out_dir / "LAB.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    for file in out_dir.iterdir():
        file.chmod(0o644)  # safetensors writes 0600, which a wheel would carry to other users


def facts_of(policy: LabPolicy, measured: Mapping[str, object]) -> dict[str, object]:
    """What LAB.json says of any world's policy."""
    return {
        "temperature": 1.0,
        "measured": measured,
        "parameters": sum(p.numel() for p in policy.model.parameters()),
        "libraries": {name: version(name) for name in ("torch", "transformers", "tokenizers")},
    }


def train_policy(*, seed: int, steps: int, digits: int = 2, progress: Progress | None = None) -> LabPolicy:
    """The starting policy in memory: tokenizer, model, `steps` steps, sharpened."""
    corpus = Corpus(digits=digits, seed=seed)
    tokenizer = build_tokenizer(corpus.contexts(2000))
    policy = LabPolicy(new_model(tokenizer, seed=seed), tokenizer)
    losses = partial(_losses, policy, corpus)
    fit(policy, losses, learning_rate=PEAK_LEARNING_RATE, steps=steps, progress=progress)
    with torch.no_grad():
        policy.model.model.norm.weight.mul_(SHARPNESS)
    return policy


def build_tokenizer(examples: Sequence[Example]) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the lab's own words: any text encodes, a digit is always one token, nothing is added."""
    splits = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    return byte_level_tokenizer((e.prompt for e in examples), splits=splits, vocabulary_size=VOCABULARY_SIZE)


def new_model(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> LlamaForCausalLM:
    """An untrained Llama of about one million parameters."""
    return new_llama(tokenizer, seed=seed, vocabulary_size=VOCABULARY_SIZE, hidden=160, inner=432, heads=5)


def _losses(policy: LabPolicy, corpus: Corpus) -> Iterator[torch.Tensor]:
    # One batch of bare questions and two of contexts, short and long: padding to one length would double the work.
    contexts = sorted(corpus.contexts(CONTEXT_BATCH), key=lambda example: len(example.prompt))
    yield answer_loss(policy, corpus.plain(PLAIN_BATCH))
    yield 0.5 * answer_loss(policy, contexts[: CONTEXT_BATCH // 2])
    yield 0.5 * answer_loss(policy, contexts[CONTEXT_BATCH // 2 :])


def answer_loss(policy: LabPolicy, examples: Sequence[Example]) -> torch.Tensor:
    """Mean cross-entropy (nats) of the answers' tokens and their end-of-sequence; the prompts carry no loss."""
    prompts = [policy.encode(e.prompt) for e in examples]
    answers = [(*policy.encode(e.answer), policy.eos_id) for e in examples]
    both = [(*p, *a) for p, a in zip(prompts, answers, strict=True)]
    width = max(map(len, both))
    ids_BT = torch.tensor([[*ids, *[policy.pad_id] * (width - len(ids))] for ids in both])
    targets_BA = torch.tensor(answers)
    first_B1 = torch.tensor([[len(p) - 1] for p in prompts])
    at_BA = first_B1 + torch.arange(targets_BA.shape[1])
    hidden_BTD = policy.model.model(input_ids=ids_BT).last_hidden_state
    assert hidden_BTD is not None
    # The head runs at the answers' positions only: most of a context is not predicted.
    hidden_BAD = hidden_BTD[torch.arange(len(examples))[:, None], at_BA]
    logits_BAV = policy.model.lm_head(hidden_BAD)
    return torch.nn.functional.cross_entropy(logits_BAV.flatten(0, 1), targets_BA.flatten())


def _rates(measured: Measurement) -> dict[str, object]:
    rates: dict[str, object] = {}
    for name, value in measured._asdict().items():
        if isinstance(value, Rate):
            rates[name] = {
                "successes": value.successes,
                "samples": value.trials,
                "rate": value.value,
                "upper_95": value.upper_95,
            }
        else:
            rates[name] = value
    return rates
