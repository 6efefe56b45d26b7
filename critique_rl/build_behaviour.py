"""What protects a policy's behaviour, from config: monitors, and what else acts on how answers are written.

Must not know: what a part does once it is built. Beside build.py a file that knows concrete classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from critique_rl.config.critic import CriticConfig
from critique_rl.config.exploration import usable_actions
from critique_rl.config.forgetting import REPLAY_SHARE, main_sources
from critique_rl.config.monitors import NEEDS_SACREBLEU, MonitorsConfig
from critique_rl.config.phases import OWN
from critique_rl.config.run import RunConfig
from critique_rl.config.skills import SkillsConfig
from critique_rl.config.tasks import MixtureTasksConfig
from critique_rl.embedding.by_name import build_embedder
from critique_rl.embedding.mining import mine
from critique_rl.errors import MissingExtraError
from critique_rl.loop.seeds import derive_seed
from critique_rl.memory.bank import read_bank
from critique_rl.memory.dressing import check_template
from critique_rl.memory.skill_memory import SkillMemory
from critique_rl.memory.writing import AttemptsWriter, CriticWriter, DirectivesWriter, Writer
from critique_rl.monitors.clusters import StructureClusters
from critique_rl.monitors.detectors import Classifier, Rules, by_patterns, default_detectors
from critique_rl.monitors.watching import RunMonitors
from critique_rl.prompting.catalogue import load_prompt
from critique_rl.protocols import Critic, Policy
from critique_rl.schedule.exploration import Exploration
from critique_rl.schedule.forgetting import Effect, ForgettingGuard, expected_effects
from critique_rl.schedule.grams_file import grams_of, read_grams
from critique_rl.schedule.phase import PhaseSwitch
from critique_rl.schedule.recycling import RecyclePool
from critique_rl.schedule.transfer_file import read_transfer
from critique_rl.stats.grams import Gram

CriticOf = Callable[[CriticConfig, Path | None], Critic | None]
"""Builds the critic of a section; the file is where its calls are recorded."""


def build_exploration(config: RunConfig) -> Exploration | None:
    """What guards exploration, if the run asks for it."""
    if config.exploration is None:
        return None
    return Exploration(config.exploration, actions=usable_actions(config), clip_high=config.loss.clip_high)


def build_phases(config: RunConfig) -> PhaseSwitch | None:
    """What amplifies planning tokens, if the run asks for it. Errors: DataError for its phrases, MissingExtraError."""
    options = config.phases
    if options is None:
        return None
    if options.grams != OWN:
        grams = (
            read_grams(Path(options.grams).expanduser())
            if isinstance(options.grams, str)
            else grams_of(options.grams, where="phases")
        )
        return PhaseSwitch(options, grams=grams, mine=lambda _: ())
    embedder = build_embedder(options.mining.embedder)
    if find_spec("sklearn") is None:
        raise MissingExtraError("scikit-learn", "text", 'phases.grams = "own"')
    seed = derive_seed(config.seed, 0, "phases") % 2**32

    def mined(solutions: Sequence[str]) -> Sequence[Gram]:
        return mine(solutions, options.mining, embedder=embedder, seed=seed).grams

    return PhaseSwitch(options, grams=None, mine=mined)


def build_monitors(config: RunConfig) -> RunMonitors | None:
    """What measures diversity and formats, if the run asks for it. Errors: MissingExtraError."""
    options = config.monitors
    if options is None:
        return None
    needing = NEEDS_SACREBLEU.intersection(options.measured)
    if needing and find_spec("sacrebleu") is None:
        raise MissingExtraError("sacrebleu", "diversity", f"monitors.metrics {', '.join(sorted(needing))}")
    return RunMonitors(
        options, classifier=lambda: _classifier(options, seed=config.seed), kl_weight=config.loss.kl_weight
    )


def build_recycling(config: RunConfig) -> RecyclePool | None:
    """Where prompts wait from which nothing could be learned, if the run asks for it."""
    options = config.sampling
    if options is None or not options.recycle:
        return None
    return RecyclePool(
        capacity=options.recycle_capacity,
        wait_steps=options.recycle_wait_steps,
        max_age_steps=options.recycle_max_age_steps,
    )


def build_forgetting(config: RunConfig) -> ForgettingGuard | None:
    """What watches tasks that were trained before, if the run asks for it. Errors: DataError for its transfer file."""
    options = config.forgetting
    if options is None or not isinstance(config.tasks, MixtureTasksConfig):
        return None
    trained = main_sources(config.tasks.trained)
    effects: dict[str, Effect] = {}
    if options.transfer:
        effects = expected_effects(read_transfer(Path(options.transfer)), trained, tuple(config.tasks.of))
    return ForgettingGuard(
        trained=trained,
        finished=options.finished,
        effects=effects,
        action=options.action,
        replay_share=REPLAY_SHARE if options.replay_share is None else options.replay_share,
        standard_errors=options.standard_errors,
    )


def build_skills(
    config: RunConfig,
    policy: Policy,
    *,
    critic_of: CriticOf,
    exchanges: Path | None,
    closing: list[Callable[[], None]],
) -> SkillMemory | None:
    """The memory of skills, if the run asks for it; its writer's calls are recorded beside the critic's.

    Errors: DataError for its bank, PromptError, CriticSetupError, MissingExtraError.
    """
    options = config.skills
    if options is None:
        return None
    template = load_prompt(options.prompt)
    check_template(template)
    memory = SkillMemory(
        options,
        template=template,
        embedder=build_embedder(options.embedder),
        tokens_of=lambda text: len(policy.encode_completion(text)),
        writer=_skill_writer(options, critic_of=critic_of, exchanges=exchanges),
        bank=read_bank(Path(options.bank).expanduser()) if options.bank else None,
        seed=config.seed,
    )
    closing.append(memory.close)
    return memory


def _skill_writer(options: SkillsConfig, *, critic_of: CriticOf, exchanges: Path | None) -> Writer | None:
    if options.source == "none":
        return None
    if options.source == "attempts":
        return AttemptsWriter()
    if options.writer is None:
        return DirectivesWriter(demonstration_chars=options.demonstration_chars)

    def written_by(prompt: str, name: str) -> Critic:
        record = exchanges.with_stem(f"{exchanges.stem}-{name}") if exchanges is not None else None
        writer = critic_of(options.writer_with(prompt), record)
        assert writer is not None
        return writer

    return CriticWriter(
        written_by(options.lesson_prompt, "lessons"),
        written_by(options.pattern_prompt, "patterns") if options.asks_by_prompt else None,
        demonstration_chars=options.demonstration_chars,
    )


def _classifier(options: MonitorsConfig, *, seed: int) -> Classifier:
    if options.formats:
        return Rules(by_patterns(options.formats))
    if options.format_detectors == "clusters":
        return StructureClusters(options.format_clusters, seed=derive_seed(seed, 0, "format clusters"))
    return Rules(default_detectors())
