"""Problems of the guessing world for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from critique_rl.lab.guess.problems import MAX_CANDIDATES, GuessProblem

PROBLEMS = st.builds(
    lambda left, tens, digits: GuessProblem(left=left, tens=tens, candidates=tuple(sorted(digits))),
    st.integers(1, 9),
    st.integers(1, 8),
    st.sets(st.integers(0, 9), min_size=1, max_size=MAX_CANDIDATES),
)
