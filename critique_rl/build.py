"""The composition root: config -> live objects. The only file, with build_critic.py, that knows every concrete class.

Must not know: what a stage does once it is built.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, assert_never

import torch
from accelerate import Accelerator

from critique_rl.algorithms.cispo import Cispo
from critique_rl.algorithms.critique_grpo import CritiqueGrpo
from critique_rl.algorithms.dapo import Dapo
from critique_rl.algorithms.directive_distillation import DirectiveDistillation
from critique_rl.algorithms.dr_grpo import DrGrpo
from critique_rl.algorithms.grpo import Grpo
from critique_rl.algorithms.gspo import Gspo
from critique_rl.algorithms.rloo import Rloo
from critique_rl.algorithms.two_channel import TwoChannel
from critique_rl.build_critic import build_critic
from critique_rl.config import algorithm as methods
from critique_rl.config import rewards as judges
from critique_rl.config import tasks as sources
from critique_rl.config.algorithm import DistillationConfig
from critique_rl.config.engine import VllmEngineConfig
from critique_rl.config.run import NEEDS, RunConfig
from critique_rl.critics.policy_critic import Ask, AskOptions, PolicyAnswer
from critique_rl.engines.hf import HFEngine
from critique_rl.engines.sync import write_checkpoint
from critique_rl.engines.vllm_server import VllmServerEngine, vllm_engine
from critique_rl.errors import ConfigError, CriticError
from critique_rl.feedback.rows import read_feedback
from critique_rl.feedback.screen import screened
from critique_rl.lab.packaged import policy_dir
from critique_rl.lab.tasks import LabTasks
from critique_rl.loop.parts import Parts
from critique_rl.loop.recall import FeedbackGroups
from critique_rl.policy.hf import HFPolicy
from critique_rl.policy.load import end_token_ids, load_policy
from critique_rl.policy.step import StepConfig
from critique_rl.prompting.catalogue import load_prompt
from critique_rl.protocols import Algorithm, Reward, TaskSource, Tracker
from critique_rl.rewards.by_name import VerifierRouter
from critique_rl.rewards.exact import ExactReward
from critique_rl.rewards.format_reward import FormatReward
from critique_rl.rewards.math_verify_reward import MathVerifyReward
from critique_rl.rewards.reasoning_gym_reward import ReasoningGymReward
from critique_rl.schedule.plateau import PlateauTracker
from critique_rl.schedule.trust import CriticTrust
from critique_rl.stats.calibration import Calibrator
from critique_rl.tasks.jsonl import JsonlTasks
from critique_rl.tasks.reasoning_gym_tasks import ReasoningGymTasks
from critique_rl.types import Message


def build(config: RunConfig, *, tracker: Tracker, exchanges: Path | None = None) -> Parts:
    """Every object of a run. `exchanges` is where a remote critic's calls are recorded.

    Errors: ConfigError, DataError, PromptError, ModelError, CriticSetupError, MissingExtraError: all of them before
    the first token is generated.
    """
    algorithm = build_algorithm(config.algorithm)
    refine_template = load_prompt(config.refinement.prompt) if "refinement" in algorithm.needs else None
    teacher_template = load_prompt(config.distillation.prompt) if "teacher" in algorithm.needs else None
    for template in (refine_template, teacher_template):
        if template is not None:
            template.check_available(("question", "attempt", "directive"))
    tasks = build_tasks(config.tasks)
    reward = build_reward(config)
    reward.check([*tasks.held_out(), *tasks.batch(0, config.rollout.prompts_per_step, seed=config.seed)])
    made: list[Sampler] = []
    critic = None
    if config.critic is not None:
        # Before the weights are loaded, so that a missing key is told at once; self-critique gets them later.
        ask = partial(_ask_later, made)
        critic = build_critic(config.critic, exchanges=exchanges, ask=ask)
    policy, engine = build_sampler(config)
    made.append(Sampler(policy, engine))
    feedback = None
    if config.feedback is not None:
        feedback = FeedbackGroups(
            [screened(row) for row in read_feedback(Path(config.feedback.path))],
            policy=policy,
            reward=reward,
            config=config.feedback,
            model=config.policy.model,
            max_tokens=config.rollout.max_tokens,
            seed=config.seed,
        )
    judged = critic is not None and "refinement" in algorithm.needs and config.trust.trials > 0
    return Parts(
        tasks=tasks,
        policy=policy,
        engine=engine,
        reward=reward,
        plateau=PlateauTracker(config.plateau, total_steps=config.budget.max_steps),
        algorithm=algorithm,
        tracker=tracker,
        critic=critic,
        feedback=feedback,
        trust=CriticTrust(config.trust) if judged else None,
        score_map=read_score_map(config.trust.calibration, critic.name)
        if critic and config.trust.calibration
        else None,
        refine_template=refine_template,
        teacher_template=teacher_template,
    )


class Sampler(NamedTuple):
    """A policy, and the engine that samples from its very weights."""

    policy: HFPolicy
    engine: HFEngine | VllmServerEngine


def build_sampler(config: RunConfig) -> Sampler:
    """Load the policy of a run. Errors: ModelError, ConfigError."""
    accelerator = build_accelerator(config)
    loaded = load_policy(config.policy, lab_directory=policy_dir())
    policy = HFPolicy(loaded.model, loaded.tokenizer, accelerator, step_config(config))
    end_ids = end_token_ids(policy.model, loaded.tokenizer)
    if isinstance(config.engine, VllmEngineConfig):
        # The whole model: with adapters, merge them into what is written.
        save = partial(write_checkpoint, policy.model)
        engine = vllm_engine(config.engine, policy, save, end_ids=end_ids, temperature=config.rollout.temperature)
        return Sampler(policy, engine)
    engine = HFEngine(
        policy.model,
        loaded.tokenizer,
        accelerator,
        end_ids=end_ids,
        pad_id=policy.pad_id,
        batch_size=config.rollout.batch_size,
    )
    return Sampler(policy, engine)


def read_score_map(path: str, critic: str) -> Callable[[float], float]:
    """How an earlier `critique-rl rescue` calibrated this critic's scores. Errors: ConfigError."""
    try:
        table = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))["table"]
        fitted = {entry["critic"]: entry.get("calibrator") for entry in table}
        found = fitted[critic]
        calibrator = Calibrator.from_dict(found) if found is not None else None
    except KeyError as missing:
        raise ConfigError(f"trust.calibration: {path} measures no critic called {missing}; run rescue for it") from None
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"trust.calibration: {path} is no result of `critique-rl rescue`: {error}") from None
    if calibrator is None:
        raise ConfigError(
            f"trust.calibration: {path} has too few scores of {critic}: give rescue right attempts as well"
        )
    return lambda score: float(calibrator.apply([score])[0])


def build_accelerator(config: RunConfig) -> Accelerator:
    """Device and compute type; also sets torch's CPU threads. Errors: ConfigError if CUDA is asked for and absent."""
    options = config.policy
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("policy.device = 'cuda', but torch sees no CUDA device; set it to 'auto' or 'cpu'")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    on_cuda = options.device != "cpu" and torch.cuda.is_available()
    use_bf16 = options.dtype == "bfloat16" or (options.dtype == "auto" and on_cuda)
    return Accelerator(cpu=not on_cuda, mixed_precision="bf16" if use_bf16 else "no")


def step_config(config: RunConfig) -> StepConfig:
    """The part of a run's config that the training step reads; no second model where no teacher is asked."""
    taught = "distillation" in NEEDS[config.algorithm.name]
    return StepConfig(
        loss=config.loss,
        refinement=config.refinement,
        distillation=config.distillation if taught else DistillationConfig(teacher="live"),
        optimizer=config.optimizer,
        temperature=config.rollout.temperature,
        max_completion_tokens=config.rollout.max_tokens,
    )


def build_algorithm(config: methods.AlgorithmConfig) -> Algorithm:
    """The method that a config class names."""
    match config:
        case methods.GrpoConfig():
            return Grpo(config)
        case methods.DrGrpoConfig():
            return DrGrpo(config)
        case methods.DapoConfig():
            return Dapo(config)
        case methods.GspoConfig():
            return Gspo(config)
        case methods.CispoConfig():
            return Cispo(config)
        case methods.RlooConfig():
            return Rloo(config)
        case methods.CritiqueGrpoConfig():
            return CritiqueGrpo(config)
        case methods.DirectiveDistillationConfig():
            return DirectiveDistillation(config)
        case methods.TwoChannelConfig():
            return TwoChannel(config)
        case _:
            assert_never(config)


def build_tasks(config: sources.TasksConfig) -> TaskSource:
    """The task source that a config class names. Errors: DataError with file and line."""
    match config:
        case sources.LabTasksConfig():
            return LabTasks(**config.model_dump(exclude={"kind"}))
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
        case _:
            assert_never(config)


def build_policy_asker(config: RunConfig) -> Ask:
    """Samples critiques from the starting policy of a run. Errors: ModelError, ConfigError."""
    alone = config.model_copy(update={"algorithm": methods.GrpoConfig(), "critic": None, "feedback": None})
    return policy_asker(*build_sampler(alone))


def policy_asker(policy: HFPolicy, engine: HFEngine | VllmServerEngine) -> Ask:
    """Samples critiques from a policy under the weights of the moment."""
    return partial(_ask_later, [Sampler(policy, engine)])


def _ask_later(
    made: Sequence[Sampler], asked: Sequence[tuple[Message, ...]], options: AskOptions
) -> list[PolicyAnswer | CriticError]:
    policy, engine = made[0]
    prompts = [policy.encode(messages) for messages in asked]
    room = int(getattr(policy.model.config, "max_position_embeddings", 0) or 2**31) - options.max_tokens
    fitting = [i for i, prompt in enumerate(prompts) if len(prompt) <= room]
    completions = engine.generate(
        [prompts[i] for i in fitting],
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        seed=options.seed,
    )
    answers: dict[int, PolicyAnswer] = {
        i: PolicyAnswer(completion=completion, prompt_tokens=len(prompts[i]))
        for i, completion in zip(fitting, completions, strict=True)
    }
    return [
        answers.get(i)
        or CriticError(
            f"the prompt has {len(prompt)} tokens, and the policy's context leaves {room}: lower critic.max_tokens or "
            "critic.max_attempt_chars"
        )
        for i, prompt in enumerate(prompts)
    ]
