"""What the outcomes of a batch say: pass@k under a cap on rounds, and groups in which nothing differs.

Owns: PASS@(k, T) and the split of zero-variance groups. Must not know: tasks, what a round is, who drops such groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from critique_rl.stats.group_rewards import reward_spread
from critique_rl.stats.pass_at_k import pass_at_k


class ZeroSpread(NamedTuple):
    """Shares of groups: all rewards equal, and of these all at the top and all at the bottom."""

    any: float
    right: float
    wrong: float


def pass_surface(
    right: Sequence[Sequence[bool]], rounds: Sequence[Sequence[int]], *, ks: Sequence[int], caps: Sequence[int]
) -> dict[tuple[int, int], float]:
    """PASS@(k, T): the mean over problems of pass@k where only right answers within T rounds count as right
    (arXiv 2604.14877, known to us from summaries). T = 1 is single-turn pass@k.

    `right[p][i]` and `rounds[p][i]` are of problem p's i-th rollout. A gap between two policies that closes at large k
    is efficiency, one that widens is capability; caps below the length of right trajectories say nothing.
    Raises ValueError for no problems, unequal lists, a cap below 1, or a k that `pass_at_k` refuses.
    """
    if not right or [len(r) for r in right] != [len(t) for t in rounds]:
        raise ValueError(f"{len(right)} problems and {len(rounds)} of rounds; wanted equal lists, and a problem")
    if any(cap < 1 for cap in caps):
        raise ValueError(f"caps = {list(caps)}; wanted numbers of rounds of 1 or more")
    surface: dict[tuple[int, int], float] = {}
    for cap in caps:
        within = [
            sum(ok and used <= cap for ok, used in zip(oks, useds, strict=True))
            for oks, useds in zip(right, rounds, strict=True)
        ]
        for k in ks:
            values = [pass_at_k(len(oks), count, k) for oks, count in zip(right, within, strict=True)]
            surface[k, cap] = sum(values) / len(values)
    return surface


def zero_spread(groups: Sequence[Sequence[float]], *, top: float = 1.0, bottom: float = 0.0) -> ZeroSpread | None:
    """Shares of groups of rewards whose standard deviation is 0 (`reward_spread`): they carry no gradient under a group
    baseline. Equal rewards between `bottom` and `top` are in `any` alone; empty groups are left out, and None if all
    are.
    """
    known = [rewards for rewards in groups if rewards]
    if not known:
        return None
    flat = [rewards[0] for rewards in known if reward_spread(rewards) == 0]
    n = len(known)
    return ZeroSpread(
        len(flat) / n, sum(value >= top for value in flat) / n, sum(value <= bottom for value in flat) / n
    )
