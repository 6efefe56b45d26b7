"""Rebuilds the starting policy of the search world from nothing: tokenizer, model, training, measurement, LAB.json.

Owns: the policy's size and its training recipe. Equal arguments and library versions give equal weights, on one thread.
Must not know: the RL loop; reinforcement learning starts from what this writes.

Shape suffixes: B sequences, T tokens, N trained tokens, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from critique_rl.lab.build import facts_of, write_policy
from critique_rl.lab.measure import LabPolicy
from critique_rl.lab.search.corpus import Lesson, SearchCorpus
from critique_rl.lab.search.measure import SearchMeasurement, measure_searches
from critique_rl.lab.search.world import select_people, words
from critique_rl.lab.training import EOS, PAD, Progress, fit, in_transformers, new_llama, one_thread

STEPS = 1600
BATCH = 96
PEAK_LEARNING_RATE = 2e-3
MEASURED_PEOPLE = 120
MEASURED_SAMPLES = 8
UNKNOWN = "<unk>"


def build_search_policy(
    out_dir: Path,
    *,
    find: Callable[[str], str],
    seed: int = 0,
    steps: int = STEPS,
    people: int = MEASURED_PEOPLE,
    samples: int = MEASURED_SAMPLES,
    progress: Progress | None = None,
) -> SearchMeasurement:
    """Trains the starting policy, measures it on the questions about `people` held-out people, and writes model,
    tokenizer and LAB.json to `out_dir`.

    `find` gives the tool's words to a query. `progress(step, steps, loss)` is called after every step. Errors:
    ConfigError for fewer than one step.
    """
    began_s = time.monotonic()
    with one_thread():
        policy = train_search_policy(seed=seed, steps=steps, progress=progress)
        measured = measure_searches(policy, select_people("held_out", people), find=find, samples=samples, seed=seed)
    recipe = {"people": people, "samples": samples, "seed": seed, "steps": steps}
    wall_s = round(time.monotonic() - began_s, 1)
    write_policy(policy, out_dir, {"world": "search", **facts_of(policy, asdict(measured)), **recipe, "wall_s": wall_s})
    return measured


def train_search_policy(*, seed: int, steps: int, progress: Progress | None = None) -> LabPolicy:
    """The starting policy in memory. Errors: ConfigError for fewer than one step."""
    corpus = SearchCorpus(seed=seed)
    tokenizer = build_word_tokenizer(words())
    policy = LabPolicy(new_search_model(tokenizer, seed=seed), tokenizer)
    losses = partial(_losses, policy, corpus)
    fit(policy, losses, learning_rate=PEAK_LEARNING_RATE, steps=steps, progress=progress)
    return policy


def build_word_tokenizer(known: Sequence[str]) -> PreTrainedTokenizerFast:
    """One token a word, words divided by white space; any other word is unknown."""
    vocabulary = {word: i for i, word in enumerate([PAD, EOS, UNKNOWN, *known])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return in_transformers(inner, unknown=UNKNOWN)


def _losses(policy: LabPolicy, corpus: SearchCorpus) -> Iterator[torch.Tensor]:
    yield own_words_loss(policy, corpus.lessons(BATCH))


def new_search_model(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> LlamaForCausalLM:
    """An untrained Llama of about a quarter of a million parameters."""
    size = len(tokenizer.get_vocab())
    return new_llama(tokenizer, seed=seed, vocabulary_size=size, hidden=64, inner=176, heads=4)


def own_words_loss(policy: LabPolicy, lessons: Sequence[Lesson]) -> torch.Tensor:
    """Mean cross-entropy (nats) of what the policy says and of the end of each turn; questions and results are read."""
    rows = [_row(policy, lesson) for lesson in lessons]
    width = max(len(ids) for ids, _ in rows)
    ids_BT = torch.tensor([[*ids, *[policy.pad_id] * (width - len(ids))] for ids, _ in rows])
    own_BT = torch.tensor([[*own, *[False] * (width - len(own))] for _, own in rows])
    hidden_BTD = policy.model.model(input_ids=ids_BT).last_hidden_state
    assert hidden_BTD is not None
    logits_NV = policy.model.lm_head(hidden_BTD[:, :-1][own_BT[:, 1:]])
    return torch.nn.functional.cross_entropy(logits_NV, ids_BT[:, 1:][own_BT[:, 1:]])


def _row(policy: LabPolicy, lesson: Lesson) -> tuple[list[int], list[bool]]:
    ids = list(policy.encode(lesson.question))
    own = [False] * len(ids)
    for turn in lesson.turns:
        said = (*policy.encode(turn.words), policy.eos_id)
        heard = policy.encode(turn.observation)
        ids += [*said, *heard]
        own += [True] * len(said) + [False] * len(heard)
    return ids, own
