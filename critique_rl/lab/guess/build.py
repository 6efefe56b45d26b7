"""Rebuilds the starting policy of the guessing world from nothing: tokenizer, model, training, measurement, LAB.json.

Owns: the policy's size and its training recipe. Equal arguments and library versions give equal weights, on one thread.
Must not know: the RL loop; reinforcement learning starts from what this writes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from critique_rl.lab.build import build_tokenizer, facts_of, write_policy
from critique_rl.lab.corpus import Example
from critique_rl.lab.guess.corpus import END, GuessCorpus
from critique_rl.lab.guess.measure import FLOOR, GuessMeasurement, measure_guesses
from critique_rl.lab.guess.problems import MAX_CANDIDATES, select_guesses
from critique_rl.lab.measure import LabPolicy
from critique_rl.lab.training import Progress, fit, new_llama, one_thread, share_loss

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
    corpus = GuessCorpus(seed=seed)
    tokenizer = build_tokenizer([Example(prompt=e.prompt + "".join(e.pieces), answer="") for e in corpus.lessons(2000)])
    policy = LabPolicy(new_guess_model(tokenizer, seed=seed), tokenizer)
    losses = partial(_losses, policy, corpus)
    fit(policy, losses, learning_rate=PEAK_LEARNING_RATE, steps=steps, progress=progress)
    return policy


def _losses(policy: LabPolicy, corpus: GuessCorpus) -> Iterator[torch.Tensor]:
    yield share_loss(policy, corpus.lessons(BATCH), end=END)


def new_guess_model(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> LlamaForCausalLM:
    """An untrained Llama of about a sixth of a million parameters."""
    size = len(tokenizer.get_vocab())
    return new_llama(tokenizer, seed=seed, vocabulary_size=size, hidden=64, inner=176, heads=4)
