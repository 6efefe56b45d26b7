"""What the laboratories' starting policies have in common: a small model, a byte-level tokenizer, one training loop.

Owns: the schedule, the clip, the order of sums, and what a share of a next token costs. Must not know: any world's
tasks or recipe.

Shape suffixes: B sequences, T tokens, N predicted tokens, M wanted tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.pre_tokenizers import PreTokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from critique_rl.errors import ConfigError
from critique_rl.lab.measure import LabPolicy

PAD, EOS = "<pad>", "<eos>"
WARMUP_STEPS = 100

Progress = Callable[[int, int, float], None]


class SharedLesson(Protocol):
    """A prompt, the pieces of one completion, and for each of them the shares of all pieces that may stand there."""

    @property
    def prompt(self) -> str: ...

    @property
    def pieces(self) -> Sequence[str]: ...

    @property
    def shares(self) -> Sequence[Mapping[str, float]]: ...


def fit(
    policy: LabPolicy,
    losses: Callable[[], Iterable[torch.Tensor]],
    *,
    learning_rate: float,
    steps: int,
    progress: Progress | None = None,
) -> None:
    """`steps` steps of AdamW on the sum of the losses that a call gives, each with a backward pass of its own.

    `learning_rate` is the highest one; `progress(step, steps, loss)` is called after every step. Errors: ConfigError
    for fewer than one step.
    """
    if steps < 1:
        raise ConfigError(f"steps: came {steps}, wanted at least 1")
    model = policy.model
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_share(step, steps))
    for step in range(steps):
        told = 0.0
        for loss in losses():
            loss.backward()
            told += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if progress is not None:
            progress(step + 1, steps, told)
    model.eval()


def learning_rate_share(step: int, steps: int) -> float:
    """Linear warm-up over WARMUP_STEPS (at most a tenth of the run), then a cosine from 1 to 0."""
    warmup = min(WARMUP_STEPS, max(1, steps // 10))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def share_loss(policy: LabPolicy, lessons: Sequence[SharedLesson], *, end: str) -> torch.Tensor:
    """Mean over all pieces of the completions of the divergence (nats) of the policy's next token from the shares.

    sum_v share_v (log share_v - log policy_v), per piece; 0 for a policy that has learned them. Every piece is a token,
    and the piece `end` is that which ends a sequence.
    """
    known = sorted({piece for e in lessons for shares in e.shares for piece in shares})
    token = {piece: policy.eos_id if piece == end else _token(policy, piece) for piece in known}
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


def byte_level_tokenizer(
    texts: Iterable[str], *, splits: Sequence[PreTokenizer], vocabulary_size: int
) -> PreTrainedTokenizerFast:
    """Byte-level BPE over a world's own words, divided as `splits` say before: any text encodes."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(list(splits))
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[PAD, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return in_transformers(inner)


def in_transformers(inner: Tokenizer, *, unknown: str | None = None) -> PreTrainedTokenizerFast:
    """The tokenizer as transformers and the engines use it; nothing is added to a text."""
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=PAD,
        eos_token=EOS,
        **({} if unknown is None else {"unk_token": unknown}),
        padding_side="left",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


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


@contextmanager
def one_thread() -> Generator[None]:
    """Sums are taken in one order only with one thread; a second thread would change the last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _token(policy: LabPolicy, piece: str) -> int:
    ids = policy.encode(piece)
    assert len(ids) == 1, f"{piece!r} is {len(ids)} tokens"
    return ids[0]
