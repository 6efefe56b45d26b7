"""Which optional sections of a run file a method reads: what is set without being read is an error.

Must not know: what stands in a section.
"""

from __future__ import annotations

from collections.abc import Collection

from critique_rl.config.algorithm import PARTS

NEEDS: dict[str, frozenset[str]] = {
    "grpo": frozenset(),
    "dr_grpo": frozenset(),
    "dapo": frozenset(),
    "gspo": frozenset(),
    "cispo": frozenset(),
    "rloo": frozenset(),
    "weighted_reinforce": frozenset(),
    "pass_at_k": frozenset(),
    "sft": frozenset(),
    "self_imitation": frozenset(),
    "critique_grpo": frozenset({"critic", "feedback", "plateau", "refinement", "replay", "trust", "guards"}),
    "directive_distillation": frozenset({"critic", "feedback", "plateau", "distillation", "guards"}),
    "two_channel": frozenset(
        {"critic", "feedback", "plateau", "refinement", "replay", "distillation", "trust", "guards"}
    ),
}
"""Which optional sections each algorithm reads (the plateau tracker always watches; only these act on it)."""

OPTIONAL = frozenset({"critic", "feedback", "refinement", "replay", "distillation", "trust", "guards"})
"""Sections that must not be set where the algorithm reads nothing of them."""


def sections_read(name: str, use: Collection[str] = PARTS) -> frozenset[str]:
    """Which optional sections a method reads when only these parts of a critique are in use (two_channel has the key);
    none for a name that nobody has."""
    unread: set[str] = set()
    if "targets" not in use:
        unread.add("distillation")
    if "refinements" not in use:
        unread |= {"refinement", "replay"} if "scores" in use else {"refinement", "replay", "trust"}
    read = NEEDS.get(name, frozenset())
    return read - unread if name == "two_channel" else read
