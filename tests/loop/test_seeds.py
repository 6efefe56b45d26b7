"""Seeds depend on nothing but their arguments, on any machine."""

from __future__ import annotations

import hashlib
from itertools import product

from critique_rl.loop.seeds import derive_seed


def test_a_seed_is_the_first_63_bits_of_a_hash() -> None:
    digest = hashlib.sha256(b"7/3/rollout").hexdigest()
    assert derive_seed(7, 3, "rollout") == int(digest[:16], 16) // 2


def test_no_two_of_run_step_and_purpose_share_a_seed() -> None:
    asked = list(product(range(4), range(50), ("tasks", "rollout", "refinement", "evaluation")))
    seeds = {derive_seed(*arguments) for arguments in asked}
    assert len(seeds) == len(asked)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_digits_cannot_move_from_one_argument_to_the_next() -> None:
    assert derive_seed(1, 11, "rollout") != derive_seed(11, 1, "rollout")
