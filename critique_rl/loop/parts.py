"""What a run is made of: every live object behind its protocol.

Must not know: any concrete critic, engine, policy or method; build.py puts them in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from critique_rl.prompting.template import PromptTemplate
from critique_rl.protocols import (
    Algorithm,
    Critic,
    FeedbackSource,
    Plateau,
    Policy,
    Reward,
    RolloutEngine,
    TaskSource,
    Tracker,
    Trust,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Every live object of a run, behind its protocol; what a method or a run does without is None.

    `feedback` takes the place of rollouts and critic; `trust` judges a critic that is asked during the run; `score_map`
    turns a critic's mean score into the probability that it was right, as an earlier run measured it.
    """

    tasks: TaskSource
    policy: Policy
    engine: RolloutEngine
    reward: Reward
    plateau: Plateau
    algorithm: Algorithm
    tracker: Tracker
    critic: Critic | None = None
    feedback: FeedbackSource | None = None
    trust: Trust | None = None
    score_map: Callable[[float], float] | None = None
    refine_template: PromptTemplate | None = None
    teacher_template: PromptTemplate | None = None
