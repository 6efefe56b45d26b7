"""Rebuilds the packaged lab policy from nothing: tokenizer, model, training, measurement, LAB.json.

Owns: the policy's size, its training recipe, and the files beside it. Equal arguments and library versions give equal
weights, on one thread. About ten minutes on one core.
Must not know: the RL loop; reinforcement learning starts from what this writes.

Shape suffixes: B sequences, T tokens, A answer tokens, V vocabulary.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from critique_rl.errors import ConfigError
from critique_rl.lab.corpus import Corpus, Example
from critique_rl.lab.measure import LabPolicy, Measurement, Rate, measure
from critique_rl.lab.problems import select_problems

STEPS = 2400
PLAIN_BATCH = 64
CONTEXT_BATCH = 32
PEAK_LEARNING_RATE = 1e-3
WARMUP_STEPS = 100
VOCABULARY_SIZE = 512
# After training, all logits are multiplied by this: the habits become sharper than a few minutes of training make them.
SHARPNESS = 1.6
PAD, EOS = "<pad>", "<eos>"

Progress = Callable[[int, int, float], None]


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
    if steps < 1:
        raise ConfigError(f"steps: came {steps}, wanted at least 1")
    corpus = Corpus(digits=digits, seed=seed)
    tokenizer = build_tokenizer(corpus.contexts(2000))
    policy = LabPolicy(new_model(tokenizer, seed=seed), tokenizer)
    _train(policy, corpus, steps=steps, progress=progress)
    return policy


def build_tokenizer(examples: Sequence[Example]) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the lab's own words: any text encodes, a digit is always one token, nothing is added."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[PAD, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator((e.prompt for e in examples), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=PAD,
        eos_token=EOS,
        padding_side="left",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def new_model(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> LlamaForCausalLM:
    """An untrained Llama of about one million parameters."""
    return new_llama(tokenizer, seed=seed, vocabulary_size=VOCABULARY_SIZE, hidden=160, inner=432, heads=5)


def new_llama(
    tokenizer: PreTrainedTokenizerFast, *, seed: int, vocabulary_size: int, hidden: int, inner: int, heads: int
) -> LlamaForCausalLM:
    """An untrained Llama of three layers with tied embeddings; equal seeds give equal weights."""
    vocabulary = tokenizer.get_vocab()
    config = LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=3,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=vocabulary[EOS],
        pad_token_id=vocabulary[PAD],
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        # Five times the usual spread: with 0.02 the second column is learned only after a long plateau.
        torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.1)
    return model


def _train(policy: LabPolicy, corpus: Corpus, *, steps: int, progress: Progress | None) -> None:
    model = policy.model
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_share(step, steps))
    for step in range(steps):
        # One batch of bare questions and two of contexts, short and long: padding to one length would double the work.
        contexts = sorted(corpus.contexts(CONTEXT_BATCH), key=lambda example: len(example.prompt))
        losses: list[float] = []
        for part, weight in (
            (corpus.plain(PLAIN_BATCH), 1.0),
            (contexts[: CONTEXT_BATCH // 2], 0.5),
            (contexts[CONTEXT_BATCH // 2 :], 0.5),
        ):
            loss = weight * answer_loss(policy, part)
            loss.backward()
            losses.append(float(loss.detach()))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if progress is not None:
            progress(step + 1, steps, sum(losses))
    with torch.no_grad():
        model.model.norm.weight.mul_(SHARPNESS)
    model.eval()


def learning_rate_share(step: int, steps: int) -> float:
    """Linear warm-up over WARMUP_STEPS (at most a tenth of the run), then a cosine from 1 to 0."""
    warmup = min(WARMUP_STEPS, max(1, steps // 10))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


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


@contextmanager
def one_thread() -> Generator[None]:
    """Sums are taken in one order only with one thread; a second thread would change the last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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
