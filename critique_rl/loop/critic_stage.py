"""The critic's part in a step: asked while rollouts are still sampled, collected before refinement, judged after it.

Owns: the order of those, that a critic which is not trusted is asked no more, and what is told of questions that were
open when a run was stopped. Must not know: which critic answers, how trust is decided, the policy's weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from critique_rl.config.critic import late_steps, shows_reference, stage_deadline_s
from critique_rl.config.refinement import CRITIC_RUNGS
from critique_rl.config.run import RunConfig
from critique_rl.loop.criticize import CriticTally
from critique_rl.loop.desk import CriticDesk, DeskLimits, Resumed, Reviewed
from critique_rl.loop.exploration import rollout_now
from critique_rl.loop.guidance import Guidance
from critique_rl.loop.judge import calibrated, rescues, sample_controls, score_pairs, without_scores
from critique_rl.loop.offpolicy import correct_for_age
from critique_rl.loop.parts import Parts
from critique_rl.loop.seeds import derive_seed
from critique_rl.loop.waiting import waiting_from_json, waiting_to_json
from critique_rl.protocols import Trust
from critique_rl.types import Group, Task

LATE_CORRECTION_CAP = 2.0
"""Largest importance weight of a token whose critique came after its policy had moved on."""


class CriticStage:
    """One run's dealings with its critic; without a critic every method leaves the groups as they are."""

    def __init__(self, config: RunConfig, parts: Parts, guidance: Guidance) -> None:
        self._config = config
        self._parts = parts
        self._guidance = guidance
        self._scores_matter = config.reads_scores
        self._late_steps = late_steps(config.critic)
        self._abandoned = 0
        self._desk: CriticDesk | None = None
        if parts.critic is not None:
            refinement = config.refinement
            limits = DeskLimits(
                max_attempts=refinement.max_attempts,
                others_chars=refinement.other_attempts_chars if refinement.aggregate == "critique" else None,
                show_reference=shows_reference(config.critic),
                deadline_s=stage_deadline_s(config.critic),
                late_steps=self._late_steps,
            )
            encode = parts.policy.encode_completion
            self._desk = CriticDesk(parts.critic, limits, tokens_of=lambda reply: len(encode(reply)))

    def begin(self, step: int) -> None:
        """Before the step: ask again what a checkpoint left open, and say how much that is. Raises CriticSetupError."""
        found = Resumed(0, self._abandoned) if self._desk is None else self._desk.ask_again(step)
        self._abandoned = 0
        if found.sent:
            self._tell(
                step,
                f"questions to the critic that were open at the checkpoint: {found.sent}; they are sent again, and "
                "what the cache does not answer counts towards the critic's budget anew",
            )
        if found.given_up:
            why = "this run has no critic" if self._desk is None else f"critic.late_steps = {self._late_steps}"
            self._tell(step, f"questions that were open at the checkpoint and are given up: {found.given_up} ({why})")

    def rung(self, task: Task, wanted: int) -> str | None:
        """The rung of the ladder that a plateaued prompt gets now, or None: nothing is to be done about it."""
        trust = self._parts.trust
        if "critique" not in self._parts.algorithm.needs:
            return None
        return self._guidance.rung(task, wanted, critic=trust is None or trust.asks_critic)

    def ask(self, step: int, group: Group) -> bool:
        """Send a plateaued group's wrong attempts; True if there were any, and its rung wants a critic."""
        if self._desk is None or not group.plateaued:
            return False
        if group.rung not in CRITIC_RUNGS:
            self._parts.plateau.note_critiqued(group.task.id, step)
            return False
        if not self._desk.ask(step, group):
            return False
        self._parts.plateau.note_critiqued(group.task.id, step)
        return True

    def ask_probes(self, step: int, groups: Sequence[Group]) -> None:
        """One right and one wrong attempt a step, while it is unknown whether the critic's scores tell them apart."""
        trust, desk = self._parts.trust, self._desk
        if trust is not None and desk is not None and desk.waiting and self._scores_matter and trust.wants_probe:
            desk.ask_probes(step, groups)

    def collect(self, step: int, groups: list[Group]) -> Reviewed:
        """The step's critiques, and those of earlier steps that came late. Raises CriticSetupError."""
        if self._desk is None:
            return Reviewed(groups, [], [], CriticTally())
        reviewed = self._desk.collect(step, groups)
        return reviewed._replace(
            late=correct_for_age(reviewed.late, policy=self._parts.policy, cap=LATE_CORRECTION_CAP)
        )

    def judge(self, step: int, groups: list[Group], reviewed: Reviewed) -> list[Group]:
        """Let the trust guard see what this step's critiques were worth; drop scores that it does not trust."""
        parts, trust, tally = self._parts, self._parts.trust, reviewed.tally
        if parts.score_map is not None:
            groups = calibrated(groups, parts.score_map)
        if trust is None:
            return groups
        if tally.calls:
            groups = self._beside_controls(step, groups, trust)
            trust.note_scores(*score_pairs(reviewed.probes))
            trust.note_cost(usd=tally.cost_usd, tokens=tally.prompt_tokens + tally.completion_tokens)
            message = trust.verdict()
            if message:
                parts.tracker.event(step + 1, "trust", message)
        return groups if trust.uses_scores else without_scores(groups)

    def _beside_controls(self, step: int, groups: list[Group], trust: Trust) -> list[Group]:
        """The groups with second attempts under a bare verdict, where there are any under the critic's words."""
        parts, template = self._parts, self._guidance.trial_template
        if template is None:
            return groups
        beside = sample_controls(
            [group for group in groups if self._guidance.on_trial(group)],
            wanted=trust.controls_wanted,
            policy=parts.policy,
            engine=parts.engine,
            reward=parts.reward,
            template=template,
            rollout=rollout_now(self._config, self._parts),
            step=step,
            seed=derive_seed(self._config.seed, step, "control"),
            environment=parts.environment,
        )
        controls = [r.score.correct for group in beside for r in group.controls]
        trust.note_refinements(critiqued=rescues(beside), control=controls)
        with_controls = iter(beside)
        return [next(with_controls) if self._guidance.on_trial(group) else group for group in groups]

    def mark(self) -> None:
        """Remember what is open before a step."""
        if self._desk is not None:
            self._desk.mark()

    def rollback(self) -> None:
        """Give up what was asked since `mark`, and have what was collected since then open again; once."""
        if self._desk is not None:
            self._desk.rollback()

    def state_dict(self) -> dict[str, object]:
        """What is open, as plain JSON."""
        return waiting_to_json([]) if self._desk is None else self._desk.state_dict()

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """The inverse of `state_dict`; nothing is sent before the next step begins. Errors: CheckpointError."""
        if self._desk is None:
            self._abandoned = len(waiting_from_json(state))
        else:
            self._desk.load_state_dict(state)

    def _tell(self, step: int, message: str) -> None:
        self._parts.tracker.event(step + 1, "critic", message)
