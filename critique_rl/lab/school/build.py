"""Rebuilds the starting policy of the school world from nothing: tokenizer, model, training, measurement, LAB.json.

Owns: the policy's size and its training recipe. Equal arguments and library versions give equal weights, on one thread.
Must not know: the RL loop; reinforcement learning starts from what this writes.

Shape suffixes: B sequences, T tokens, N pieces, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Regex, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from critique_rl.lab.build import facts_of, write_policy
from critique_rl.lab.measure import LabPolicy
from critique_rl.lab.school.chains import MAX_LENGTH
from critique_rl.lab.school.corpus import END, SchoolCorpus, all_texts
from critique_rl.lab.school.measure import SchoolMeasurement, measure_school
from critique_rl.lab.school.problems import KINDS, select_problems
from critique_rl.lab.training import Progress, byte_level_tokenizer, fit, new_llama, one_thread, share_loss

STEPS = 1000
"""Of the first round; the second has two fifths of it and the last one three tenths."""
MEASURED_PROBLEMS = 40
VOCABULARY_SIZE = 704


class Recipe(NamedTuple):
    """How many lessons of each sort a step has, and the highest learning rate of a round."""

    drills: int
    short: int
    longer_drills: int
    chains: int
    advised: int
    formats: int
    learning_rate: float


# Arithmetic is learned from drills first: together with those of sorting and recalling it is not found in minutes.
FIRST = Recipe(drills=128, short=56, longer_drills=0, chains=16, advised=8, formats=0, learning_rate=3e-3)
SECOND = Recipe(drills=16, short=126, longer_drills=32, chains=8, advised=12, formats=0, learning_rate=2e-3)
# What each format is worth is a small part of the loss, and is learned last.
LAST = Recipe(drills=16, short=42, longer_drills=0, chains=8, advised=16, formats=64, learning_rate=2e-3)
_WORD = r" ?[a-z]+| ?[0-9]|[\s\S]"


def build_school_policy(
    out_dir: Path,
    *,
    seed: int = 0,
    steps: int = STEPS,
    problems: int = MEASURED_PROBLEMS,
    progress: Progress | None = None,
) -> SchoolMeasurement:
    """Trains the starting policy, measures it on `problems` held-out problems of each kind, and writes model, tokenizer
    and LAB.json to `out_dir`.

    `progress(step, steps, loss)` is called after every step. Errors: ConfigError for fewer than one step or more
    problems than there are.
    """
    began_s = time.monotonic()
    for kind in KINDS:
        select_problems("held_out", kind, problems, chain_length=MAX_LENGTH)
    with one_thread():
        policy = train_school_policy(seed=seed, steps=steps, progress=progress)
        measured = measure_school(policy, problems=problems)
    recipe = {"problems_per_kind": problems, "seed": seed, "steps": steps}
    wall_s = round(time.monotonic() - began_s, 1)
    write_policy(
        policy, out_dir, {"world": "school", **facts_of(policy, measured.to_dict()), **recipe, "wall_s": wall_s}
    )
    return measured


def train_school_policy(*, seed: int, steps: int, progress: Progress | None = None) -> LabPolicy:
    """The starting policy in memory. Errors: ConfigError for fewer than one step."""
    corpus = SchoolCorpus(seed=seed)
    tokenizer = school_tokenizer([e.prompt + "".join(e.pieces) for e in corpus.advised(1000)] + all_texts() * 40)
    policy = LabPolicy(new_school_model(tokenizer, seed=seed), tokenizer)
    rounds = ((steps, FIRST), (max(1, steps * 2 // 5), SECOND), (max(1, steps * 3 // 10), LAST))
    total, done = sum(count for count, _ in rounds), 0
    for count, recipe in rounds:
        losses = partial(_losses, policy, corpus, recipe)
        told = None if progress is None else partial(_tell, progress, done, total)
        fit(policy, losses, learning_rate=recipe.learning_rate, steps=count, progress=told)
        done += count
    return policy


def _losses(policy: LabPolicy, corpus: SchoolCorpus, recipe: Recipe) -> Iterator[torch.Tensor]:
    # Several batches: padding short questions to the length of contexts would multiply the work.
    drawn = (
        corpus.drills(recipe.drills),
        corpus.short(recipe.short) + corpus.longer_drills(recipe.longer_drills) + corpus.formats(recipe.formats),
        corpus.chains(recipe.chains),
        corpus.advised(recipe.advised),
    )
    for lessons in drawn:
        yield share_loss(policy, lessons, end=END)


def _tell(progress: Progress, done: int, total: int, step: int, steps: int, loss: float) -> None:
    progress(done + step, total, loss)


def school_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the world's own words: any text encodes, and a digit or a word takes its blank along."""
    splits = [
        pre_tokenizers.Split(Regex(_WORD), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    return byte_level_tokenizer(texts, splits=splits, vocabulary_size=VOCABULARY_SIZE)


def new_school_model(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> LlamaForCausalLM:
    """An untrained Llama of about two fifths of a million parameters."""
    size = len(tokenizer.get_vocab())
    return new_llama(tokenizer, seed=seed, vocabulary_size=size, hidden=64, inner=176, heads=4)
