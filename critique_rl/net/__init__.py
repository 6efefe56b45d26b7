"""The one owner of calls that leave the process: retry, concurrency, rates, clocks, hedging, budget, and their thread.

Owns: when a call is sent, sent again, given up or never sent. A call says by `CallFailed` whether sending again helps.
Must not know: any client library, what a call asks, what an answer means.
"""

from __future__ import annotations

from critique_rl.net.calls import CallFailed, CallLimits, CallResult, Metered, PlannedCall
from critique_rl.net.meter import Budget, SpendMeter, Spent
from critique_rl.net.pool import CallPool
from critique_rl.net.thread import LoopThread

__all__ = [
    "Budget",
    "CallFailed",
    "CallLimits",
    "CallPool",
    "CallResult",
    "LoopThread",
    "Metered",
    "PlannedCall",
    "SpendMeter",
    "Spent",
]
