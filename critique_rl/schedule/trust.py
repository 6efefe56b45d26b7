"""Whether the critic has earned its place: its rescues against a bare verdict's, its scores against the verifier.

Owns: the two verdicts and the numbers behind them, which travel in checkpoints. Must not know: critics, texts, the
loop. Judging twice as often finds a lucky moment twice as often, so each verdict is given once and stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from pydantic import TypeAdapter

from critique_rl.config.trust import TrustConfig
from critique_rl.schedule.restoring import restored
from critique_rl.stats.calibration import Calibrator, fit_isotonic, fit_platt
from critique_rl.stats.calibration_error import ece
from critique_rl.stats.discrimination import auroc
from critique_rl.stats.intervals import Interval, rate_difference_interval

MAX_PAIRS = 4096  # the newest scores are kept
MIN_PER_CLASS = 8  # right and wrong attempts each, before scores are judged
MIN_ISOTONIC = 1000  # pairs; with fewer the two-parameter map is the safer one


@dataclass(slots=True, kw_only=True)
class _Arm:
    """Second attempts and those of them that the verifier found right."""

    rescued: int = 0
    trials: int = 0

    def note(self, outcomes: Sequence[bool]) -> None:
        self.rescued += sum(map(bool, outcomes))
        self.trials += len(outcomes)

    @property
    def rate(self) -> float:
        return self.rescued / self.trials

    def __str__(self) -> str:
        return f"{self.rescued} of {self.trials} ({self.rate:.1%})"


@dataclass(slots=True, kw_only=True)
class _State:
    """All that a resumed run needs. `better` and `scores_rank` are None until they are judged."""

    critiqued: _Arm = field(default_factory=_Arm)
    control: _Arm = field(default_factory=_Arm)
    better: bool | None = None
    scores_rank: bool | None = None
    values: list[float] = field(default_factory=list[float])
    correct: list[bool] = field(default_factory=list[bool])
    usd: float | None = 0.0
    tokens: int = 0
    unread: list[str] = field(default_factory=list[str])


_STATE: TypeAdapter[_State] = TypeAdapter(_State)


class CriticTrust:
    """Judges one critic of one run.

    Rescues: once both arms hold `trials` attempts, the lower end of Newcombe's interval of (rate under
    critiques - rate under a bare verdict) must lie above 0. The arms are compared as treated by intention: an attempt
    that was sent to the critic and got no usable directive is noted as a failure of the critiqued arm, because it was
    paid for and rescued nothing; so a critic that never says anything usable is judged too. Both arms should be fed
    from the same attempts. Scores: with `min_scored` of them, `MIN_PER_CLASS` right and as many wrong attempts among
    them, their AUROC must reach `min_auroc`. Counts go on after a verdict, the verdict does not change.
    """

    def __init__(self, config: TrustConfig) -> None:
        self.config = config
        self._state = _State()
        self._marked: _State | None = None
        self._rank: tuple[int, float | None] = (-1, None)
        self._changes = 0

    # -- what happened -----------------------------------------------------------------------------------------------

    def note_refinements(self, *, critiqued: Sequence[bool], control: Sequence[bool]) -> None:
        """One entry per second attempt of either arm: whether the verifier found it right."""
        state = self._state
        state.critiqued.note(critiqued)
        state.control.note(control)
        trials = self.config.trials
        if state.better is None and trials and min(state.critiqued.trials, state.control.trials) >= trials:
            interval = self.difference
            assert interval is not None
            state.better = interval.low > 0
            state.unread.append(self._judgement(interval))

    def note_scores(self, values: Sequence[float], correct: Sequence[bool]) -> None:
        """The critic's scores in [0, 1] of attempts whose verdict is known. Raises ValueError for anything else."""
        if len(values) != len(correct) or not all(0 <= value <= 1 for value in values):
            raise ValueError(
                f"{len(values)} scores came with {len(correct)} verdicts, the scores {list(values)!r:.200}; wanted one "
                "verdict each, and scores from 0 to 1"
            )
        if not values:
            return
        state = self._state
        state.values = [*state.values, *map(float, values)][-MAX_PAIRS:]
        state.correct = [*state.correct, *map(bool, correct)][-MAX_PAIRS:]
        self._changes += 1
        area = self.auroc if state.scores_rank is None and self._enough_scores else None
        if area is not None and area < self.config.min_auroc:
            state.scores_rank = False
            state.unread.append(
                f"the critic's scores do not tell right attempts from wrong ones: AUROC {area:.2f} over "
                f"{len(state.values)} scored attempts, {sum(state.correct)} of them right (wanted at least "
                f"{self.config.min_auroc:g}; 0.5 is chance); they are no longer used as rewards"
            )

    def note_cost(self, *, usd: float | None, tokens: int) -> None:
        """What critic calls cost; after one without a known price the money is unknown, never 0."""
        state = self._state
        state.usd = None if usd is None or state.usd is None else state.usd + usd
        state.tokens += tokens

    # -- what follows ------------------------------------------------------------------------------------------------

    @property
    def controls_wanted(self) -> int:
        """How many attempts under a bare verdict the control arm is still short of."""
        short = self.config.trials - self._state.control.trials
        return max(0, short) if self._state.better is None else 0

    @property
    def wants_probe(self) -> bool:
        """Whether critiques of right attempts are still wanted: half of `min_scored` should be of right ones."""
        wanted = max(MIN_PER_CLASS, self.config.min_scored // 2)
        return self.uses_scores and sum(self._state.correct) < wanted

    @property
    def asks_critic(self) -> bool:
        """False once the critic has been switched off."""
        return self._state.better is not False or self.config.on_failure == "warn"

    @property
    def uses_scores(self) -> bool:
        """False once the critic's scores were found not to rank attempts."""
        return self._state.scores_rank is not False

    def verdict(self) -> str | None:
        """A message for a person, once for each verdict given since the last call; else None."""
        messages, self._state.unread = self._state.unread, []
        return "; ".join(messages) or None

    @property
    def difference(self) -> Interval | None:
        """Interval of (rescue rate under critiques - under a bare verdict); None while an arm is empty."""
        one, two = self._state.critiqued, self._state.control
        if not one.trials or not two.trials:
            return None
        return rate_difference_interval(one.rescued, one.trials, two.rescued, two.trials, self.config.confidence)

    @property
    def auroc(self) -> float | None:
        """Of the kept scores; None while they are all of right or all of wrong attempts."""
        if self._rank[0] != self._changes:
            self._rank = (self._changes, auroc(self._state.values, self._state.correct))
        return self._rank[1]

    def calibrator(self) -> Calibrator | None:
        """A map from the critic's scores to probabilities of being right; None before there are enough scores."""
        if not self._enough_scores:
            return None
        fit = fit_isotonic if len(self._state.values) >= MIN_ISOTONIC else fit_platt
        return fit(self._state.values, self._state.correct)

    def figures(self) -> Mapping[str, float]:
        """What trackers log; a figure that is not known is not there."""
        state, difference = self._state, self.difference
        one, two = state.critiqued, state.control
        rescued = one.rescued or None
        known: dict[str, float | None] = {
            "trust/rescue_rate": one.rate if one.trials else None,
            "trust/control_rate": two.rate if two.trials else None,
            "trust/rescue_trials": one.trials,
            "trust/control_trials": two.trials,
            "trust/difference_low": difference.low if difference else None,
            "trust/difference_high": difference.high if difference else None,
            "trust/auroc": self.auroc,
            "trust/ece": ece(state.values, state.correct) if state.values else None,
            "trust/scored": len(state.values),
            "trust/cost_per_rescue_usd": state.usd / rescued if rescued and state.usd is not None else None,
            "trust/tokens_per_rescue": state.tokens / rescued if rescued else None,
            "trust/asks_critic": float(self.asks_critic),
            "trust/uses_scores": float(self.uses_scores),
        }
        return {name: float(value) for name, value in known.items() if value is not None}

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def mark(self) -> None:
        """Remember this moment for `rollback`. Lists of scores are replaced, never changed, so they need no copy."""
        state = self._state
        self._marked = replace(
            state, critiqued=replace(state.critiqued), control=replace(state.control), unread=list(state.unread)
        )

    def rollback(self) -> None:
        """Undo everything since `mark`, once."""
        assert self._marked is not None, "rollback without a mark"
        self._state, self._marked = self._marked, None
        self._changes += 1

    def state_dict(self) -> dict[str, object]:
        """All counts and verdicts as plain JSON values."""
        return cast("dict[str, object]", _STATE.dump_python(self._state, mode="json"))

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """The inverse of `state_dict`. Raises CheckpointError for anything that it did not write."""
        self._state, self._marked = restored(_STATE, state, what="critic trust"), None
        self._changes += 1

    @property
    def _enough_scores(self) -> bool:
        right, total = sum(self._state.correct), len(self._state.correct)
        return total >= self.config.min_scored and min(right, total - right) >= MIN_PER_CLASS

    def _judgement(self, interval: Interval) -> str:
        state = self._state
        found = (
            f"{state.critiqued} of the attempts that it was asked about were put right, {state.control} of those told "
            f"only 'wrong'; difference {interval.low:+.1%} to {interval.high:+.1%} at {self.config.confidence:.0%} "
            "confidence"
        )
        if state.better:
            return f"the critic rescues more than a bare 'wrong' does: {found}; it stays"
        next_step = (
            "trust.on_failure is 'warn', so it is still asked"
            if self.config.on_failure == "warn"
            else "it is asked no more, and the run goes on as scalar GRPO"
        )
        return f"the critic is no better than a bare 'wrong': {found}, wanted above 0; {next_step}"
