"""The composition root: config -> live objects. With build_critic.py and build_sampler.py it knows every class.

Must not know: what a stage does once it is built.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from critique_rl.algorithms.by_name import build_algorithm
from critique_rl.algorithms.objectives import Combiner
from critique_rl.algorithms.paced import Paces
from critique_rl.algorithms.predicted_critiques import PredictedCritiques
from critique_rl.build_behaviour import (
    build_exploration,
    build_forgetting,
    build_monitors,
    build_phases,
    build_recycling,
    build_skills,
)
from critique_rl.build_critic import build_critic
from critique_rl.build_sampler import Sampler, build_sampler, step_config
from critique_rl.build_tasks import build_environment, build_reward, build_tasks
from critique_rl.config import algorithm as methods
from critique_rl.config.algorithm import GATED_EVERY
from critique_rl.config.critic import CriticConfig
from critique_rl.config.run import RunConfig
from critique_rl.critics.policy_critic import Ask, AskOptions, PolicyAnswer
from critique_rl.errors import ConfigError, CriticError
from critique_rl.feedback.rows import read_feedback
from critique_rl.feedback.screen import screened
from critique_rl.loop.parts import Parts
from critique_rl.loop.recall import FeedbackGroups
from critique_rl.policy.crew import Crew
from critique_rl.policy.hf import HFPolicy
from critique_rl.prompting.catalogue import load_prompt
from critique_rl.prompting.template import PromptTemplate
from critique_rl.protocols import Critic, Policy, Reward, RolloutEngine, Tracker
from critique_rl.rewards.judge import Review
from critique_rl.rewards.objectives import ObjectiveReader
from critique_rl.schedule.anneal import Schedule
from critique_rl.schedule.plateau import PlateauTracker
from critique_rl.schedule.refresh_gate import RefreshGate
from critique_rl.schedule.replay import Replay
from critique_rl.schedule.trip_wires import TripWires
from critique_rl.schedule.trust import CriticTrust
from critique_rl.stats.calibration import Calibrator
from critique_rl.tasks.mixture import replaying
from critique_rl.types import Message


def build(config: RunConfig, *, tracker: Tracker, exchanges: Path | None = None, crew: Crew | None = None) -> Parts:
    """Every object of a run. `exchanges` is where a remote critic's calls are recorded; a `crew` shares the work.

    Errors: ConfigError, DataError, PromptError, ModelError, CriticSetupError, MissingExtraError: all of them before
    the first token is generated.
    """
    paces = build_paces(config) if "critic" in config.reads else None
    closing: list[Callable[[], None]] = []
    reward = build_reward(config, build_reviews(config, exchanges=exchanges, closing=closing))
    combiner = build_combiner(config, reward)
    phases = build_phases(config)
    algorithm = build_algorithm(
        config.algorithm,
        config.refinement,
        config.distillation,
        paces,
        config.loss.normalizer,
        combiner,
        config.sampling,
        config.rollout.max_tokens,
        phases,
    )
    refine_template = _template(config.refinement.prompt) if "refinement" in algorithm.needs else None
    teacher_template = _template(config.distillation.prompt) if "teacher" in algorithm.needs else None
    forgetting = build_forgetting(config)
    tasks = replaying(build_tasks(config.tasks), forgetting.replayed if forgetting is not None else None)
    reward.check([*tasks.held_out(), *tasks.batch(0, config.rollout.prompts_per_step, seed=config.seed)])
    made: list[Sampler] = []
    critic_of = partial(_build_critic, partial(_ask_later, made))
    # Before the weights are loaded, so that a missing key is told at once; self-critique gets them later.
    critic = None if config.critic is None else critic_of(config.critic, exchanges)
    made.append(build_sampler(config, closing=closing, crew=crew))
    policy, engine = made[0]
    return Parts(
        tasks=tasks,
        policy=policy,
        engine=engine,
        reward=reward,
        plateau=build_plateau(config),
        algorithm=algorithm,
        tracker=tracker,
        critic=critic,
        feedback=_recorded(config, policy, reward),
        trust=build_trust(config, refines="refinement" in algorithm.needs) if critic is not None else None,
        teacher_gate=build_teacher_gate(config),
        paces=paces,
        objectives=combiner,
        replay=build_replay(config),
        recycle=build_recycling(config),
        monitors=build_monitors(config),
        exploration=build_exploration(config),
        phases=phases,
        skills=build_skills(config, policy, critic_of=critic_of, exchanges=exchanges, closing=closing),
        forgetting=forgetting,
        predictor=build_predictor(config),
        environment=build_environment(config.tasks),
        guards=TripWires(config.guards) if "guards" in config.reads and config.feedback is None else None,
        score_map=read_score_map(config.trust.calibration, critic.name)
        if critic and config.trust.calibration
        else None,
        refine_template=refine_template,
        teacher_template=teacher_template,
        closing=tuple(closing),
    )


def build_plateau(config: RunConfig) -> PlateauTracker:
    """What watches prompts and the run for stalls."""
    return PlateauTracker(config.plateau, total_steps=config.budget.max_steps, rungs=len(config.refinement.ladder))


def _template(prompt: str) -> PromptTemplate:
    template = load_prompt(prompt)
    template.check_available(("question", "attempt", "directive"))
    return template


def build_reviews(config: RunConfig, *, exchanges: Path | None, closing: list[Callable[[], None]]) -> dict[str, Review]:
    """Who judges, by the name of the reward; each with a record of its calls beside the critic's."""
    reviews: dict[str, Review] = {}
    for name, reward in config.rewards.items():
        if reward.kind != "judge":
            continue
        record = exchanges.with_stem(f"{exchanges.stem}-{name}") if exchanges is not None else None
        judge = build_critic(reward.judge, exchanges=record)
        assert judge is not None
        closing.append(judge.close)
        reviews[name] = judge.review
    return reviews


def _build_critic(ask: Ask, config: CriticConfig, exchanges: Path | None) -> Critic | None:
    return build_critic(config, exchanges=exchanges, ask=ask)


def _recorded(config: RunConfig, policy: Policy, reward: Reward) -> FeedbackGroups | None:
    if config.feedback is None:
        return None
    return FeedbackGroups(
        [screened(row) for row in read_feedback(Path(config.feedback.path))],
        policy=policy,
        reward=reward,
        config=config.feedback,
        model=config.policy.model,
        max_tokens=config.rollout.max_tokens,
        seed=config.seed,
    )


def build_trust(config: RunConfig, *, refines: bool) -> CriticTrust | None:
    """What judges a critic that is asked: by its rescues, or by its scores where these are an objective."""
    scored = config.objectives is not None and config.objectives.reads_critic
    return CriticTrust(config.trust) if scored or (refines and config.trust.trials > 0) else None


def build_paces(config: RunConfig) -> Paces:
    """What the two directive channels weigh as the run goes on."""
    steps = config.budget.max_steps
    return Paces(
        {
            "distill": Schedule(config.distillation.schedule, total_steps=steps),
            "imitate": Schedule(config.refinement.schedule, total_steps=steps),
        }
    )


def build_combiner(config: RunConfig, reward: Reward) -> Combiner | None:
    """What makes one advantage of several objectives, if the run has them. Errors: ConfigError."""
    if config.objectives is None:
        return None
    return Combiner(config.objectives, ObjectiveReader(config.objectives, reward))


def build_replay(config: RunConfig) -> Replay | None:
    """The memory of rescued prompts, if the run asks for it."""
    options = config.replay
    if options is None:
        return None
    return Replay(capacity=options.capacity, max_age_steps=options.max_age_steps)


def build_predictor(config: RunConfig) -> PredictedCritiques | None:
    """What has the policy predict its critiques, if the run asks for it."""
    if "refinement" not in config.reads or not config.refinement.predict_critique:
        return None
    channel = step_config(config).distillation.weight
    return PredictedCritiques(weight=config.refinement.predict_critique, channel_weight=channel)


def build_teacher_gate(config: RunConfig) -> RefreshGate | None:
    """What holds back a slow teacher, if the run asks for it."""
    options = config.distillation
    if "distillation" not in config.reads or not options.gated:
        return None
    return RefreshGate(every=GATED_EVERY if options.ema_every is None else options.ema_every)


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


def build_policy_asker(config: RunConfig) -> Ask:
    """Samples critiques from the starting policy of a run. Errors: ModelError, ConfigError."""
    alone = config.model_copy(update={"algorithm": methods.GrpoConfig(), "critic": None, "feedback": None})
    return policy_asker(*build_sampler(alone))


def policy_asker(policy: HFPolicy, engine: RolloutEngine) -> Ask:
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
