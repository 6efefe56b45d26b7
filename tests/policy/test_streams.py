"""Train samples as flat streams: which tokens are distilled, where they lie, and what is missing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from critique_rl.policy.streams import Streams, carries_gradient, directives
from tests.tiny import random_targets, sample

CPU = torch.device("cpu")
PROMPT = (4, 5)


def test_directives_lie_at_their_tokens_of_the_flat_batch() -> None:
    rng = np.random.default_rng(0)
    first, second = random_targets(rng, 3, 2), random_targets(rng, 2, 2)
    first = replace(first, mask_T=np.array([1.0, 0.0, 1.0]))
    rows = [
        sample(PROMPT, (6, 7), advantage=1.0, pg=1.0),
        sample(PROMPT, (6, 7, 8), distill=0.5, teacher=first),
        sample(PROMPT, (9,), distill=1.0),
        sample(PROMPT, (6, 7), distill=1.0, teacher=second, mask=[0, 1]),
    ]
    found = directives(rows, CPU)
    assert found is not None
    # rows start at 0, 2, 5 and 6; of the second row's tokens the middle one is masked, of the last row's the first
    assert found.rows_M.tolist() == [2, 4, 7]
    assert found.ids_MK.tolist() == [*first.ids_TK[[0, 2]].tolist(), second.ids_TK[1].tolist()]
    np.testing.assert_array_equal(found.teacher_MK.numpy(), [*first.logprobs_TK[[0, 2]], second.logprobs_TK[1]])
    assert found.weights_M.tolist() == [0.5, 0.5, 1.0]


def test_no_usable_teacher_is_no_directive() -> None:
    targets = random_targets(np.random.default_rng(0), 2, 2)
    for row in (
        sample(PROMPT, (6, 7), distill=1.0),
        sample(PROMPT, (6, 7), distill=0.0, teacher=targets),
        sample(PROMPT, (6, 7), distill=1.0, teacher=targets, mask=[0, 0]),
        sample(PROMPT, (6, 7), distill=1.0, teacher=replace(targets, mask_T=np.zeros(2))),
    ):
        assert directives([row], CPU) is None
        assert not carries_gradient(row)


def test_streams_are_flat_in_the_order_of_the_rows() -> None:
    rows = [
        sample(PROMPT, (6, 7), advantage=0.5, pg=1.0, behaviour=[-1.0, -2.0], mask=[1, 0]),
        sample(PROMPT, (8,), advantage=0.25, imitate=1.0, behaviour=[-3.0], guided=[-0.5]),
    ]
    streams = Streams(rows, CPU)
    assert streams.lengths == [2, 1]
    assert streams.behaviour_N.tolist() == [-1.0, -2.0, -3.0]
    assert streams.advantages_N.tolist() == [0.5, 0.5, 0.25]
    assert streams.pg_N.tolist() == [1.0, 0.0, 0.0]
    assert streams.imitate_N.tolist() == [0.0, 0.0, 1.0]
    assert streams.guided_N.tolist() == [-1.0, -2.0, -0.5]
