"""Rebuilds the starting policy of the school world from nothing: tokenizer, model, training, measurement, LAB.json.

Owns: the policy's size and its training recipe. Equal arguments and library versions give equal weights, on one thread.
Must not know: the RL loop; reinforcement learning starts from what this writes.

Shape suffixes: B sequences, T tokens, N pieces, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from critique_rl.errors import ConfigError
from critique_rl.lab.build import EOS, PAD, Progress, facts_of, learning_rate_share, new_llama, one_thread, write_policy
from critique_rl.lab.measure import LabPolicy
from critique_rl.lab.school.chains import MAX_LENGTH
from critique_rl.lab.school.corpus import END, Lesson, SchoolCorpus, all_texts
from critique_rl.lab.school.measure import SchoolMeasurement, measure_school
from critique_rl.lab.school.problems import KINDS, select_problems

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
    if steps < 1:
        raise ConfigError(f"steps: came {steps}, wanted at least 1")
    corpus = SchoolCorpus(seed=seed)
    tokenizer = school_tokenizer([e.prompt + "".join(e.pieces) for e in corpus.advised(1000)] + all_texts() * 40)
    policy = LabPolicy(new_school_model(tokenizer, seed=seed), tokenizer)
    policy.model.train()
    rounds = ((steps, FIRST), (max(1, steps * 2 // 5), SECOND), (max(1, steps * 3 // 10), LAST))
    total, done = sum(count for count, _ in rounds), 0
    for count, recipe in rounds:
        _train(policy, corpus, recipe, steps=count, done=done, total=total, progress=progress)
        done += count
    policy.model.eval()
    return policy


def _train(
    policy: LabPolicy,
    corpus: SchoolCorpus,
    recipe: Recipe,
    *,
    steps: int,
    done: int,
    total: int,
    progress: Progress | None,
) -> None:
    model = policy.model
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_share(step, steps))
    for step in range(steps):
        # Several batches: padding short questions to the length of contexts would multiply the work.
        losses: list[float] = []
        for lessons in (
            corpus.drills(recipe.drills),
            corpus.short(recipe.short) + corpus.longer_drills(recipe.longer_drills) + corpus.formats(recipe.formats),
            corpus.chains(recipe.chains),
            corpus.advised(recipe.advised),
        ):
            loss = share_loss(policy, lessons)
            loss.backward()
            losses.append(float(loss.detach()))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if progress is not None:
            progress(done + step + 1, total, sum(losses))


def school_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the world's own words: any text encodes, and a digit or a word takes its blank along."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORD), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[PAD, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=PAD,
        eos_token=EOS,
        padding_side="left",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def new_school_model(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> LlamaForCausalLM:
    """An untrained Llama of about two fifths of a million parameters."""
    size = len(tokenizer.get_vocab())
    return new_llama(tokenizer, seed=seed, vocabulary_size=size, hidden=64, inner=176, heads=4)


def share_loss(policy: LabPolicy, lessons: Sequence[Lesson]) -> torch.Tensor:
    """Mean over all pieces of the completions of the divergence (nats) of the policy's next token from the shares.

    sum_v share_v (log share_v - log policy_v), per piece; 0 for a policy that has learned them. Every piece is a token.
    """
    known = sorted({piece for e in lessons for shares in e.shares for piece in shares})
    token = {piece: policy.eos_id if piece == END else _token(policy, piece) for piece in known}
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
    each = [shares for e in lessons for shares in e.shares]
    wanted = [(row, token[piece], share) for row, shares in enumerate(each) for piece, share in shares.items()]
    at_M, token_M, share_M = zip(*wanted, strict=True)
    wanted_NV = torch.zeros_like(logprobs_NV)
    wanted_NV[torch.tensor(at_M), torch.tensor(token_M)] = torch.tensor(share_M)
    return torch.nn.functional.kl_div(logprobs_NV, wanted_NV, reduction="sum") / len(places)


def _token(policy: LabPolicy, piece: str) -> int:
    ids = policy.encode(piece)
    assert len(ids) == 1, f"{piece!r} is {len(ids)} tokens"
    return ids[0]
