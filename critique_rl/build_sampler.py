"""The policy of a run and what samples from it, on every process of the run.

Owns: which class that is, the device and the compute type. Must not know: tasks, critics, methods, the loop.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from accelerate import Accelerator

from critique_rl.config.algorithm import DistillationConfig, imitation_options
from critique_rl.config.engine import ContinuousEngineConfig, VllmEngineConfig
from critique_rl.config.guards import meets_conflict
from critique_rl.config.run import RunConfig
from critique_rl.engines.crewed import CrewEngine
from critique_rl.engines.hf import HFEngine
from critique_rl.engines.nccl_sync import model_weights
from critique_rl.engines.sync import write_checkpoint
from critique_rl.engines.vllm_server import vllm_engine
from critique_rl.engines.vllm_teacher import VllmTeacher, vllm_teacher
from critique_rl.errors import ConfigError
from critique_rl.lab.guess.packaged import guess_policy_dir
from critique_rl.lab.packaged import policy_dir
from critique_rl.lab.school.packaged import school_policy_dir
from critique_rl.lab.search.packaged import search_policy_dir
from critique_rl.policy.crew import Crew, join_crew
from critique_rl.policy.hf import HFPolicy
from critique_rl.policy.load import Loaded, end_token_ids, load_policy
from critique_rl.policy.step import StepConfig
from critique_rl.protocols import RolloutEngine


class Sampler(NamedTuple):
    """A policy, and the engine that samples from its very weights."""

    policy: HFPolicy
    engine: RolloutEngine


def build_sampler(
    config: RunConfig, *, closing: list[Callable[[], None]] | None = None, crew: Crew | None = None
) -> Sampler:
    """Load the policy of a run, on every rank of the crew; `closing` gets what closes its served teacher.

    Errors: ModelError, ConfigError, MissingExtraError.
    """
    crew = crew or Crew()
    made: list[Sampler] = []
    everywhere = crew.duty("build", partial(_build_here, made, crew, [] if closing is None else closing))
    everywhere([config] * crew.size)
    made[0].policy.spread()
    return made[0]


def follow(crew: Crew) -> None:
    """What a rank that does not lead does: it builds the policy of each run, does its share of the work, and ends
    when it is released. It makes no tasks, critics or files."""
    made: list[Sampler] = []
    closing: list[Callable[[], None]] = []
    crew.duty("build", partial(_build_here, made, crew, closing))
    try:
        crew.follow()
    finally:
        for close in closing:
            close()


def _build_here(made: list[Sampler], crew: Crew, closing: list[Callable[[], None]], config: RunConfig) -> None:
    made.clear()  # what the run before this one leaves behind is as large as what comes
    crew.forget(but="build")
    accelerator = build_accelerator(config)
    options = config.policy
    if options.model == "lab_guess":
        options = options.model_copy(update={"model": str(guess_policy_dir())})
    if options.model == "lab_search":
        options = options.model_copy(update={"model": str(search_policy_dir())})
    if options.model == "lab_school":
        options = options.model_copy(update={"model": str(school_policy_dir())})
    loaded = load_policy(options, lab_directory=policy_dir(), seed=config.seed)
    served = build_served_teacher(config, loaded)
    if served is not None:
        closing.append(served.close)
    policy = HFPolicy(loaded.model, loaded.tokenizer, accelerator, step_config(config), served=served, crew=crew)
    if isinstance(config.engine, VllmEngineConfig):
        if crew.leads:
            made.append(Sampler(policy, _server_engine(config.engine, config, policy)))
        return
    made.append(Sampler(policy, _own_engine(config, policy, crew)))


def _server_engine(engine: VllmEngineConfig, config: RunConfig, policy: HFPolicy) -> RolloutEngine:
    # The whole model: with adapters, merge them into what is written.
    return vllm_engine(
        engine,
        policy,
        lambda directory: write_checkpoint(policy.whole_model(), directory),
        end_ids=end_token_ids(policy.model, policy.tokenizer),
        temperature=config.rollout.temperature,
        named_weights=lambda: model_weights(policy.whole_model()),
        device=policy.accelerator.device,
    )


def _own_engine(config: RunConfig, policy: HFPolicy, crew: Crew) -> RolloutEngine:
    end_ids = end_token_ids(policy.model, policy.tokenizer)
    batch_size = config.rollout.batch_size
    if isinstance(config.engine, ContinuousEngineConfig):
        # Here, because it stands on parts of transformers that a later version may move.
        from critique_rl.engines.continuous import ContinuousEngine

        engine = ContinuousEngine(
            policy.model,
            policy.tokenizer,
            policy.accelerator,
            end_ids=end_ids,
            batch_size=batch_size,
            memory_share=config.engine.memory_share,
        )
    else:
        engine = HFEngine(
            policy.model,
            policy.tokenizer,
            policy.accelerator,
            end_ids=end_ids,
            pad_id=policy.pad_id,
            batch_size=batch_size,
        )
    if crew.size == 1:
        return engine

    def with_whole_weights() -> None:
        engine.model = policy.ranked.whole_model()

    rows = batch_size if isinstance(engine, HFEngine) else None
    return CrewEngine(engine, crew, batch_size=rows, before=with_whole_weights)


def build_served_teacher(config: RunConfig, loaded: Loaded) -> VllmTeacher | None:
    """The teacher behind [distillation.server], if the run has one; nothing is asked before it scores."""
    if config.distillation.server is None:
        return None
    return vllm_teacher(
        config.distillation.server,
        encode=partial(loaded.tokenizer.encode, add_special_tokens=False),
        vocabulary=int(loaded.model.config.get_text_config().vocab_size),
        special_tokens=loaded.tokenizer.all_special_tokens,
    )


def build_crew(config: RunConfig) -> Crew:
    """The processes that were launched together for this run and those after it. Once per process."""
    return join_crew(cpu=not _on_cuda(config))


def _on_cuda(config: RunConfig) -> bool:
    return config.policy.device != "cpu" and torch.cuda.is_available()


def build_accelerator(config: RunConfig) -> Accelerator:
    """Device and compute type; also sets torch's CPU threads. Errors: ConfigError if CUDA is asked for and absent."""
    options = config.policy
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("policy.device = 'cuda', but torch sees no CUDA device; set it to 'auto' or 'cpu'")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    on_cuda = _on_cuda(config)
    # Every rank reads the weights: transformers would else leave them out of all but the first.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    use_bf16 = options.dtype == "bfloat16" or (options.dtype == "auto" and on_cuda)
    return Accelerator(cpu=not on_cuda, mixed_precision="bf16" if use_bf16 else "no")


def step_config(config: RunConfig) -> StepConfig:
    """The part of a run's config that the training step reads; no second model where no teacher is asked."""
    taught = "distillation" in config.reads
    return StepConfig(
        loss=config.loss,
        refinement=imitation_options(config.algorithm, config.refinement),
        distillation=config.distillation if taught else DistillationConfig(teacher="live"),
        optimizer=config.optimizer,
        temperature=config.rollout.temperature,
        max_completion_tokens=config.rollout.max_tokens,
        conflict_every=conflict_every(config),
        gradient_combiner=None if config.objectives is None else config.objectives.gradient_method,
    )


def conflict_every(config: RunConfig) -> int:
    """Steps between measurements of the gradients' conflict; 0 where there is none, or no trip wire looks at it."""
    watched = config.guards.mode != "off" and config.feedback is None
    return config.guards.conflict_every if watched and meets_conflict(config.algorithm, config.distillation) else 0
