"""One seed per (run, step, purpose): no stage shifts another's random numbers, and a resume needs no RNG state."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, step: int, purpose: str) -> int:
    """A 63-bit seed that depends on nothing but its arguments, on any machine."""
    digest = hashlib.sha256(f"{seed}/{step}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
