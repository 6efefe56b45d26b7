"""Where a run's prompts come from and who judges the answers: config -> live objects.

Must not know: models, what is done with a score.
"""

from __future__ import annotations

from typing import assert_never

from critique_rl.config import rewards as judges
from critique_rl.config import tasks as sources
from critique_rl.config.run import RunConfig
from critique_rl.lab.guess.tasks import GuessTasks
from critique_rl.lab.tasks import LabTasks
from critique_rl.protocols import Reward, TaskSource
from critique_rl.rewards.by_name import VerifierRouter
from critique_rl.rewards.confidence import ConfidenceReward
from critique_rl.rewards.exact import ExactReward
from critique_rl.rewards.format_reward import FormatReward
from critique_rl.rewards.math_verify_reward import MathVerifyReward
from critique_rl.rewards.reasoning_gym_reward import ReasoningGymReward
from critique_rl.tasks.jsonl import JsonlTasks
from critique_rl.tasks.reasoning_gym_tasks import ReasoningGymTasks


def build_tasks(config: sources.TasksConfig) -> TaskSource:
    """The task source that a config class names. Errors: DataError with file and line."""
    match config:
        case sources.LabTasksConfig():
            return LabTasks(**config.model_dump(exclude={"kind"}))
        case sources.GuessTasksConfig():
            return GuessTasks(**config.model_dump(exclude={"kind"}))
        case sources.JsonlTasksConfig():
            return JsonlTasks(
                config.path,
                verifier=config.verifier,
                held_out_path=config.held_out_path,
                held_out_fraction=config.held_out_fraction or 0.0,
                system=config.system,
            )
        case sources.ReasoningGymTasksConfig():
            return ReasoningGymTasks(
                config.dataset,
                size=config.size,
                seed=config.seed,
                held_out_size=config.held_out_size,
                params=config.params,
                system=config.system,
            )
        case _:
            assert_never(config)


def build_reward(config: RunConfig) -> VerifierRouter:
    """All verifiers of a run by name; "exact" is always there."""
    rewards: dict[str, Reward] = {"exact": ExactReward()}
    if isinstance(config.tasks, sources.ReasoningGymTasksConfig):
        rewards["reasoning_gym"] = ReasoningGymReward()
    rewards |= {name: _judge(judge) for name, judge in config.rewards.items()}
    return VerifierRouter(rewards)


def _judge(config: judges.RewardConfig) -> Reward:
    match config:
        case judges.ExactRewardConfig():
            return ExactReward(
                pattern=config.pattern,
                form=config.form,
                casefold=config.casefold,
                collapse_whitespace=config.collapse_whitespace,
                match=config.match,
            )
        case judges.MathVerifyRewardConfig():
            return MathVerifyReward(timeout_s=config.timeout_s)
        case judges.FormatRewardConfig():
            return FormatReward(pattern=config.pattern, form=config.form)
        case judges.ReasoningGymRewardConfig():
            return ReasoningGymReward(pattern=config.pattern, form=config.form)
        case judges.ConfidenceRewardConfig():
            return ConfidenceReward(answer=_judge(config.answer), **config.model_dump(exclude={"kind", "answer"}))
        case _:
            assert_never(config)
