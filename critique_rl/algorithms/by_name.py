"""The method that a config names, joined as [distillation] says.

Owns: which class belongs to which config. Must not know: what a method stamps.
"""

from __future__ import annotations

from typing import Literal, assert_never

from critique_rl.algorithms.cispo import Cispo
from critique_rl.algorithms.critique_grpo import CritiqueGrpo
from critique_rl.algorithms.dapo import Dapo
from critique_rl.algorithms.directive_distillation import DirectiveDistillation
from critique_rl.algorithms.dr_grpo import DrGrpo
from critique_rl.algorithms.gap_advantages import GapAdvantages
from critique_rl.algorithms.grpo import Grpo
from critique_rl.algorithms.gspo import Gspo
from critique_rl.algorithms.hicra import Amplifier, Hicra
from critique_rl.algorithms.masked import Masked
from critique_rl.algorithms.objectives import CombinedObjectives, Combiner
from critique_rl.algorithms.paced import Paced, Paces
from critique_rl.algorithms.pass_at_k import PassAtK
from critique_rl.algorithms.reshaped import Reshaped
from critique_rl.algorithms.rloo import Rloo
from critique_rl.algorithms.routed import OutcomeRouting
from critique_rl.algorithms.self_imitation import SelfImitation
from critique_rl.algorithms.sequential import Sequential
from critique_rl.algorithms.sft import Sft
from critique_rl.algorithms.signed import SignedAdvantages
from critique_rl.algorithms.trained_refiner import TrainedRefiner
from critique_rl.algorithms.two_channel import TwoChannel
from critique_rl.algorithms.weighted_reinforce import WeightedReinforce
from critique_rl.config import algorithm as methods
from critique_rl.config.distillation import DistillationConfig
from critique_rl.config.refinement import RefinementConfig
from critique_rl.config.sampling import SamplingConfig
from critique_rl.protocols import Algorithm


def build_algorithm(
    config: methods.AlgorithmConfig,
    refinement: RefinementConfig | None = None,
    distillation: DistillationConfig | None = None,
    paces: Paces | None = None,
    normalizer: Literal["constant", "tokens", "sequences"] = "constant",
    combiner: Combiner | None = None,
    sampling: SamplingConfig | None = None,
    max_tokens: int = 0,
    amplifier: Amplifier | None = None,
) -> Algorithm:
    """The method of a run; without the two sections, as if each stood at its defaults.

    `normalizer` is that of [loss]; `combiner` holds the objectives of a run that has several; `max_tokens` of a rollout
    is what [sampling] measures lengths by, `amplifier` what [phases] marks.
    """
    refinement = RefinementConfig() if refinement is None else refinement
    method = _bare(config, refinement)
    if sampling is not None and sampling.shapes_rewards:
        # Before every join: they ask which rollouts are right, and that stays as it was verified.
        method = Reshaped(
            method,
            unlikeliness=sampling.unlikeliness,
            overlong_buffer=sampling.overlong_buffer,
            max_tokens=max_tokens,
        )
    if combiner is not None:
        # Innermost: what the joins do to advantages is done to the combined ones.
        method = CombinedObjectives(method, combiner)
    if amplifier is not None:
        # After everything that makes an advantage of rewards, before the joins, which add to it.
        method = Hicra(method, amplifier)
    if paces is not None and "critique" in method.needs:
        method = Paced(method, paces)
    options = DistillationConfig() if distillation is None else distillation
    if "teacher" in method.needs:
        method = _joined(method, options)
    if sampling is not None and (sampling.overlong_filter or sampling.drop_void_turns):
        # After the joins, which give weights of their own.
        method = Masked(method, truncated=sampling.overlong_filter, void_turns=sampling.drop_void_turns)
    if refinement.train_refiner > 0 and "refinement" in method.needs:
        # Outermost: it weighs its rows against all that the joins leave in the policy gradient.
        scale = config.scale if isinstance(config, methods.CritiqueGrpoConfig | methods.TwoChannelConfig) else "none"
        method = TrainedRefiner(method, weight=refinement.train_refiner, scale=scale, normalizer=normalizer)
    return method


def _joined(method: Algorithm, options: DistillationConfig) -> Algorithm:
    match options.join:
        case "losses":
            return method
        case "advantages":
            return GapAdvantages(method, options)
        case "signed":
            return SignedAdvantages(method, options)
        case "routed":
            return OutcomeRouting(method, options)
        case "sequential":
            return Sequential(method, options)
        case _:
            assert_never(options.join)


def _bare(config: methods.AlgorithmConfig, refinement: RefinementConfig) -> Algorithm:
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
        case methods.WeightedReinforceConfig():
            return WeightedReinforce(config)
        case methods.PassAtKConfig():
            return PassAtK(config)
        case methods.SftConfig():
            return Sft(config)
        case methods.SelfImitationConfig():
            return SelfImitation(config)
        case methods.CritiqueGrpoConfig():
            return CritiqueGrpo(config, refinement)
        case methods.DirectiveDistillationConfig():
            return DirectiveDistillation(config)
        case methods.TwoChannelConfig():
            return TwoChannel(config, refinement)
        case _:
            assert_never(config)
