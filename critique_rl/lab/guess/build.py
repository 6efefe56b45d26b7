"""Rebuilds the starting policy of the guessing world from nothing: tokenizer, model, training, measurement, LAB.json.

Owns: the policy's size and its training recipe. Equal arguments and library versions give equal weights, on one thread.
Must not know: the RL loop; reinforcement learning starts from what this writes.

Shape suffixes: B sequences, T tokens, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from critique_rl.errors import ConfigError
from critique_rl.lab.build import (
    Progress,
    build_tokenizer,
    facts_of,
    learning_rate_share,
    new_llama,
    one_thread,
    write_policy,
)
from critique_rl.lab.corpus import Example
from critique_rl.lab.guess.corpus import END, GuessCorpus, Lesson
from critique_rl.lab.guess.measure import FLOOR, GuessMeasurement, measure_guesses
from critique_rl.lab.guess.problems import MAX_CANDIDATES, select_guesses
from critique_rl.lab.measure import LabPolicy

STEPS = 1600
BATCH = 128
PEAK_LEARNING_RATE = 2e-3
MEASURED_PROBLEMS = 40


def build_guess_policy(
    out_dir: Path,
    *,
    seed: int = 0,
    steps: int = STEPS,
    problems: int = MEASURED_PROBLEMS,
    floor: float = FLOOR,
    progress: Progress | None = None,
) -> GuessMeasurement:
    """Trains the starting policy, measures it on `problems` held-out problems of each n, and writes model, tokenizer
    and LAB.json to `out_dir`.

    Completions rarer than `floor` are not measured. `progress(step, steps, loss)` is called after every step.
    Errors: ConfigError for fewer than one step or more problems than there are.
    """
    began_s = time.monotonic()
    held_out = [p for n in range(1, MAX_CANDIDATES + 1) for p in select_guesses("held_out", n, problems)]
    with one_thread():
        policy = train_guess_policy(seed=seed, steps=steps, progress=progress)
        measured = measure_guesses(policy, held_out, floor=floor)
    recipe = {"problems_per_n": problems, "seed": seed, "steps": steps}
    wall_s = round(time.monotonic() - began_s, 1)
    write_policy(
        policy, out_dir, {"world": "guess", **facts_of(policy, measured.to_dict()), **recipe, "wall_s": wall_s}
    )
    return measured


def train_guess_policy(*, seed: int, steps: int, progress: Progress | None = None) -> LabPolicy:
    """The starting policy in memory. Errors: ConfigError for fewer than one step."""
    if steps < 1:
        raise ConfigError(f"steps: came {steps}, wanted at least 1")
    corpus = GuessCorpus(seed=seed)
    tokenizer = build_tokenizer([Example(prompt=e.prompt + "".join(e.pieces), answer="") for e in corpus.lessons(2000)])
    policy = LabPolicy(new_guess_model(tokenizer, seed=seed), tokenizer)
    model = policy.model
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_share(step, steps))
    for step in range(steps):
        loss = share_loss(policy, corpus.lessons(BATCH))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if progress is not None:
            progress(step + 1, steps, float(loss.detach()))
    model.eval()
    return policy


def new_guess_model(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> LlamaForCausalLM:
    """An untrained Llama of about a sixth of a million parameters."""
    size = len(tokenizer.get_vocab())
    return new_llama(tokenizer, seed=seed, vocabulary_size=size, hidden=64, inner=176, heads=4)


def share_loss(policy: LabPolicy, lessons: Sequence[Lesson]) -> torch.Tensor:
    """Mean over all pieces of the completions of the divergence (nats) of the policy's next token from the shares.

    sum_v share_v (log share_v - log policy_v), per piece; 0 for a policy that has learned them. Every piece is a token.
    """
    known = {piece for e in lessons for shares in e.shares for piece in shares}
    token = {piece: policy.eos_id if piece == END else policy.encode(piece)[0] for piece in sorted(known)}
    prompts = [policy.encode(e.prompt) for e in lessons]
    # The last piece is predicted, never read.
    inputs = [(*p, *(token[piece] for piece in e.pieces[:-1])) for p, e in zip(prompts, lessons, strict=True)]
    width = max(map(len, inputs))
    ids_BT = torch.tensor([[*ids, *[policy.pad_id] * (width - len(ids))] for ids in inputs])
    hidden_BTD = policy.model.model(input_ids=ids_BT).last_hidden_state
    assert hidden_BTD is not None
    places = [(b, len(prompts[b]) - 1 + t) for b, e in enumerate(lessons) for t in range(len(e.pieces))]
    rows_N, columns_N = torch.tensor(places).T
    logprobs_NV = torch.log_softmax(policy.model.lm_head(hidden_BTD[rows_N, columns_N]), dim=-1)
    shares = [shares for e in lessons for shares in e.shares]
    wanted_NV = torch.zeros_like(logprobs_NV)
    for row, options in enumerate(shares):
        for piece, share in options.items():
            wanted_NV[row, token[piece]] = share
    return torch.nn.functional.kl_div(logprobs_NV, wanted_NV, reduction="sum") / len(places)
