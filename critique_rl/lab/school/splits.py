"""Which split a question of the school world belongs to, by a stable hash. Must not know: what it asks."""

from __future__ import annotations

import hashlib

from critique_rl.lab.problems import Split

_TENTHS: tuple[tuple[Split, int], ...] = (("build", 5), ("train", 2), ("held_out", 3))
_SPLIT_OF_TENTH: list[Split] = [split for split, tenths in _TENTHS for _ in range(tenths)]


def split_of(question: str) -> Split:
    """Half of all questions are for building the policy, two tenths for RL, three for evaluation."""
    return _SPLIT_OF_TENTH[hash_of("split", question) % len(_SPLIT_OF_TENTH)]


def hash_of(salt: str, question: str) -> int:
    """A stable number; another `salt` mixes the questions in another way."""
    return int.from_bytes(hashlib.blake2b(f"{salt}:{question}".encode(), digest_size=8).digest(), "big")
