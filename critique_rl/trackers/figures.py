"""A step's scalars as short texts: what the console shows, one function a line.

Owns: which keys are shown, in which order, with how many digits. Must not know: terminals, time, files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

CHANNELS = ("pg", "distill", "imitate")
_BARS = "▁▂▃▄▅▆▇█"


def progress_share(step: int, values: Mapping[str, float]) -> float:
    """Share of the run that is done, in [0, 1]: of its steps or of its token budget, whichever is further on."""
    done = [0.0]
    if values.get("steps/total"):
        done.append(step / values["steps/total"])
    if values.get("tokens/budget"):
        done.append(values.get("tokens/generated", 0.0) / values["tokens/budget"])
    return min(max(done), 1.0)


def reward_line(values: Mapping[str, float]) -> str:
    """`mean 0.52  easy 0.93  hard 0.11`: the mean first, then each kind by name."""
    kinds = sorted(k.partition("/")[2] for k in values if k.startswith("reward/"))
    kinds.sort(key=lambda kind: kind != "mean")
    return "  ".join(f"{kind} {values[f'reward/{kind}']:.2f}" for kind in kinds)


def stall_line(values: Mapping[str, float]) -> str:
    """How many prompts are in each state, or an empty text if nothing was counted."""
    states = ("plateaued", "rescued", "dormant")
    shown = [f"{values[f'plateau/{s}']:.0f} {s}" for s in states if f"plateau/{s}" in values]
    return " · ".join(shown)


def critic_line(values: Mapping[str, float]) -> str:
    """Calls by outcome and what they cost; a cost that is not known is "unpriced", never $0."""
    if not values.get("critic/calls"):
        return "not asked yet" if "critic/calls" in values else ""
    calls, ok = values["critic/calls"], values.get("critic/ok", 0.0)
    failed = values.get("critic/failed", calls - ok)
    cost = f"${values['critic/cost_usd']:.4f}" if "critic/cost_usd" in values else "unpriced"
    return f"{calls:.0f} calls · {ok:.0f} ok · {failed:.0f} failed · {cost}"


def loss_line(values: Mapping[str, float]) -> str:
    """The loss of each channel that took part, then the gradient's norm."""
    names = [c for c in CHANNELS if f"loss/{c}" in values]
    shown = [f"{name} {values[f'loss/{name}']:.4f}" for name in names]
    if "grad/norm" in values:
        shown.append(f"|grad| {values['grad/norm']:.3g}")
    return "  ".join(shown)


def token_line(values: Mapping[str, float]) -> str:
    """`153k of 380k generated`."""
    if "tokens/generated" not in values:
        return ""
    budget = f" of {count(values['tokens/budget'])}" if values.get("tokens/budget") else ""
    return f"{count(values['tokens/generated'])}{budget} generated"


def plain_line(title: str, step: int, values: Mapping[str, float], remaining_s: float | None) -> str:
    """One step as one line of plain text."""
    total = f"/{values['steps/total']:.0f}" if values.get("steps/total") else ""
    parts = [
        title,
        f"step {step}{total}",
        f"reward {reward_line(values)}" if reward_line(values) else "",
        stall_line(values),
        f"critic {critic_line(values)}" if critic_line(values) else "",
        f"loss {loss_line(values)}" if loss_line(values) else "",
        token_line(values),
        f"{duration(remaining_s)} left" if remaining_s else "",
    ]
    return " | ".join(part for part in parts if part)


def sparkline(values: Sequence[float], *, width: int = 24) -> str:
    """The course of values in [0, 1] as block characters, averaged down to at most `width` of them."""
    if len(values) < 2:
        return ""
    columns = min(width, len(values))
    cuts = [round(i * len(values) / columns) for i in range(columns + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]
    return "".join(_BARS[min(max(int(mean * len(_BARS)), 0), len(_BARS) - 1)] for mean in means)


def count(value: float) -> str:
    """`950`, `12.3k`, `4.56M`."""
    if value < 1_000:
        return f"{value:.0f}"
    return f"{value / 1_000:.3g}k" if value < 999_500 else f"{value / 1_000_000:.3g}M"


def duration(seconds: float) -> str:
    """`0:42`, `12:07`, `3:05:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
