"""Which tokens of a batch [loss] singles out, found before the batch is learned from.

Owns: that the choice is over all tokens of the policy-gradient channel of one update, under the policy as it stands, so
that neither micro-batches nor ranks change it (rounding apart, where two tokens differ by no more). Must not know:
models, ranks. Legend: T tokens of a sample, N those of all samples, end to end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from critique_rl.config.loss import LossConfig
from critique_rl.ops.covariance import clip_binds, clip_cov_choice, kl_cov_choice, token_products
from critique_rl.ops.top_entropy import top_entropy
from critique_rl.policy.streams import active
from critique_rl.types import Array, TrainSample


class Surveyed(NamedTuple):
    """What the policy says of one sample's tokens [T] before the update, in nats."""

    logprobs_T: Array
    entropy_T: Array


class Chosen(NamedTuple):
    """The samples with the choice stamped on them, and what it came to."""

    samples: list[TrainSample]
    figures: Mapping[str, float]


def choose_tokens(
    samples: Sequence[TrainSample], surveyed: Mapping[int, Surveyed], loss: LossConfig, *, seed: int
) -> Chosen:
    """Stamp `dropped` (Clip-Cov) and `held` (KL-Cov), and take `pg_weight` from what top_entropy_share leaves out.

    `surveyed[i]` is of the i-th sample; samples without it have no token in the channel. `seed` is of Clip-Cov's draw.
    Covariances are of `base_advantages` where a sample has them.
    """
    places = sorted(surveyed)
    rows = [samples[i] for i in places]
    if not rows:
        return Chosen(list(samples), {})
    on_N = _flat([active(s, s.pg_weight) for s in rows])
    figures = {"policy/entropy": float(_flat([surveyed[i].entropy_T for i in places])[on_N > 0].mean())}
    marked = list(samples)
    if loss.top_entropy_share < 1:
        entropy_N = _flat([surveyed[i].entropy_T for i in places])
        found = top_entropy(entropy_N, on_N, share=loss.top_entropy_share)
        figures |= {"tokens/top_entropy": float(found.chosen_N.sum())}
        figures |= {} if found.threshold is None else {"policy/top_entropy_threshold": found.threshold}
        for i, kept_T in zip(places, _per_row(found.chosen_N, rows), strict=True):
            marked[i] = replace(marked[i], pg_weight=marked[i].pg_weight * kept_T)
    if loss.clip_cov_share > 0 or loss.kl_cov_share > 0:
        logprobs_N = _flat([surveyed[i].logprobs_T for i in places])
        base_N = _flat([s.advantages if s.base_advantages is None else s.base_advantages for s in rows])
        products_N = token_products(logprobs_N, base_N, on_N)
        if loss.kl_cov_share > 0:
            chosen_N, field = kl_cov_choice(products_N, share=loss.kl_cov_share), "held"
        else:
            chosen_N, field = _clip_cov(products_N, logprobs_N, rows, loss, seed), "dropped"
        of_chosen = products_N[chosen_N]
        figures |= {"policy/covariance": float(products_N[on_N > 0].mean()), f"tokens/{field}": float(chosen_N.sum())}
        figures |= {f"policy/covariance_{field}": float(of_chosen.mean())} if len(of_chosen) else {}
        for i, marks_T in zip(places, _per_row(chosen_N, rows), strict=True):
            marked[i] = replace(marked[i], **{field: marks_T})
    return Chosen(marked, figures)


def _clip_cov(
    products_N: Tensor, logprobs_N: Tensor, rows: Sequence[TrainSample], loss: LossConfig, seed: int
) -> Tensor:
    clipped_N = clip_binds(
        logprobs_N,
        _flat([s.behaviour_logprobs for s in rows]),
        _flat([s.advantages for s in rows]),
        clip_low=loss.clip_low,
        clip_high=loss.clip_high,
    )
    return clip_cov_choice(
        products_N,
        clipped_N,
        share=loss.clip_cov_share,
        band=loss.clip_cov_band,
        generator=torch.Generator().manual_seed(seed),
    )


def _flat(parts: Sequence[Array]) -> Tensor:
    return torch.as_tensor(np.concatenate(parts), dtype=torch.float64)


def _per_row(marks_N: Tensor, rows: Sequence[TrainSample]) -> list[Array]:
    marks = marks_N.numpy().astype(np.float64)
    return np.split(marks, np.cumsum([len(s.completion_ids) for s in rows])[:-1])
