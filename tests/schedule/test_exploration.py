"""The guard of exploration: what makes a state, what may be acted on, one action at a time, and the way back."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from itertools import pairwise

import pytest
import torch

from critique_rl.config.exploration import Action, ExplorationConfig
from critique_rl.errors import CheckpointError
from critique_rl.schedule.exploration import Exploration
from critique_rl.schedule.exploration_signs import Course, Phase, Probe
from critique_rl.types import Knobs
from tests.ops.test_covariance import PI, nats, step_by_clip

Figures = Mapping[str, float | None]
SOUND: Figures = {
    "entropy": 1.0,
    "success": 0.5,
    "truncated": 0.0,
    "p95_tokens": 50.0,
    "zero_variance": 0.2,
    "strategy_entropy": 1.2,
}
DEFAULT: tuple[Action, ...] = ("raise_clip_high", "entropy_bonus", "lower_learning_rate", "raise_temperature")


class Run:
    """Steps of a guard with made-up figures, counted from 0."""

    def __init__(self, actions: tuple[Action, ...] = DEFAULT, **options: object) -> None:
        said: dict[str, object] = {"actions": actions} if actions else {"mode": "warn"}
        self.config = ExplorationConfig.model_validate(said | options)
        self.guard = Exploration(self.config, actions=actions, clip_high=0.2)
        self.step = 0
        self.told: list[tuple[int, str]] = []

    def steps(self, count: int, of: Callable[[int], Figures] | Figures | None = None) -> Run:
        """`of(i)` are the changes in the i-th of these steps."""
        for i in range(count):
            changes = of(i) if callable(of) else of or {}
            self.guard.observe(self.step, **{**SOUND, **changes})
            self.told += [(self.step, message) for message in self.guard.messages()]
            self.step += 1
        return self

    @property
    def done(self) -> list[tuple[int, Action, bool]]:
        return [(deed.step, deed.action, deed.taken_back) for deed in self.guard.log]


def falling(name: str, start: float, slope: float, floor: float = 0.0) -> Callable[[int], Figures]:
    return lambda i: {name: max(start - slope * i, floor)}


def collapse(i: int) -> Figures:
    """Entropy falls from 1 to nothing within 30 steps, and success from .5 with it."""
    return {"entropy": max(1 - i / 30, 0.001), "success": max(0.5 - i / 100, 0.1)}


# never on token entropy alone


def test_entropy_alone_is_told_and_never_acted_on() -> None:
    run = Run().steps(10).steps(60, lambda i: {"entropy": max(0.02, 1 - i / 30), "success": min(0.9, 0.5 + i / 100)})
    assert run.guard.phase == "collapsing"
    assert run.done == [] and run.guard.knobs == Knobs()
    ((step, message),) = run.told
    assert step < 10 + 30 and "nothing but token entropy says so; nothing is done" in message


def test_an_explosion_of_entropy_alone_is_not_acted_on_either() -> None:
    run = Run().steps(10).steps(60, lambda i: {"entropy": 1 + i / 20})
    assert run.guard.phase == "exploding" and run.done == []


def test_rising_entropy_does_not_excuse_dying_strategies() -> None:
    # token entropy rises while strategies die out: the sign is not entropy, and is acted on
    run = Run().steps(12).steps(30, lambda i: {"entropy": 1 + i / 100, "strategy_entropy": 0.5})
    assert run.guard.phase == "collapsing"
    assert [action for _, action, _ in run.done] == ["raise_clip_high", "entropy_bonus"]
    assert any("strategy entropy is 0.50 nats, 1.20 at first" in message for _, message in run.told)


@pytest.mark.parametrize(
    ("besides", "words"),
    [
        (falling("success", 0.5, 0.01), "success falls"),
        (falling("strategy_entropy", 1.2, 0.01), "strategy entropy falls"),
    ],
)
def test_low_entropy_is_acted_on_with_what_falls_with_it(besides: Callable[[int], Figures], words: str) -> None:
    run = Run().steps(10).steps(45, lambda i: {"entropy": max(1 - i / 30, 0.001), **besides(i)})
    assert run.guard.phase == "collapsing" and run.done[0][1] == "raise_clip_high"
    assert any(
        words in message and "raise_clip_high (loss.clip_high is now 0.22)" in message for _, message in run.told
    )


@pytest.mark.parametrize(
    ("grown", "words"),
    [
        ({"success": 0.1}, "success falls"),
        ({"truncated": 0.3}, "more answers are cut off"),
        ({"p95_tokens": 90.0}, "answers have grown"),
    ],
)
def test_an_explosion_with_company_lowers_the_learning_rate(grown: Figures, words: str) -> None:
    run = Run().steps(12).steps(8, {"entropy": 2.5, **grown})
    assert run.guard.phase == "exploding"
    assert [action for _, action, _ in run.done] == ["lower_learning_rate"]
    assert run.guard.knobs == Knobs(learning_rate=0.5)
    assert any(words in message for _, message in run.told)


def test_growing_gradients_and_clipping_are_company_too() -> None:
    for grad_norm, clip_fraction, words in ((5.0, 0.1, "gradients have grown"), (1.0, 0.4, "more ratios are clipped")):
        run = Run()
        for i in range(20):
            run.guard.note_training(
                grad_norm=1.0 if i < 12 else grad_norm, clip_fraction=0.1 if i < 12 else clip_fraction
            )
            run.steps(1, {"entropy": 1.0 if i < 12 else 2.5})
        assert [action for _, action, _ in run.done] == ["lower_learning_rate"]
        assert any(words in message for _, message in run.told)


def test_many_nats_that_rise_for_twenty_steps_are_an_explosion() -> None:
    # 1.6 nats are less than twice the reference of 1; rising, they are one all the same
    still = Run().steps(40, {"entropy": 1.6, "success": 0.5})
    assert still.guard.phase == "healthy"
    rising = Run().steps(10).steps(40, lambda i: {"entropy": min(1 + i / 40, 1.9)})
    assert rising.guard.phase == "exploding"


# the probe


def test_pass_at_k_must_fall_beyond_chance_twice_while_single_answers_improve() -> None:
    # of 25 tasks: .8 -> .4: standard errors .08 and .098, together .1265, twice .253 < .4
    probe = Probe()
    for once, ever in ((0.3, 0.8), (0.4, 0.4), (0.45, 0.4)):
        probe.add(once, ever, 25)
    assert probe.narrower == 2
    probe.add(0.5, 0.7, 25)  # .1 < 2 * hypot(.08, .092)
    assert probe.narrower == 0
    probe.add(0.2, 0.3, 25)  # single answers are worse, too
    assert probe.narrower == 0
    probe.add(0.2, 0.85, 25)
    assert (probe.best, probe.best_once) == (0.85, 0.2)


def test_a_narrowing_probe_is_acted_on_without_any_sign_of_entropy() -> None:
    run = Run().steps(12)
    for once, ever in ((0.3, 0.8), (0.4, 0.4)):
        run.guard.observe_probe(pass_at_1=once, pass_at_k=ever, tasks=25)
    run.steps(5)
    assert run.guard.phase == "healthy"
    run.guard.observe_probe(pass_at_1=0.45, pass_at_k=0.35, tasks=25)
    run.steps(3)
    assert run.guard.phase == "collapsing" and [action for _, action, _ in run.done] == ["raise_clip_high"]
    assert "on the probe fewer tasks are solved by any answer" in run.told[0][1]


# flat


def test_flat_groups_raise_the_temperature_and_nothing_else() -> None:
    run = Run(("lower_learning_rate", "raise_temperature", "stop")).steps(40, {"zero_variance": 0.95, "success": 0.1})
    assert run.guard.phase == "flat"
    assert {action for _, action, _ in run.done} == {"raise_temperature"}
    assert run.guard.knobs.temperature == pytest.approx(0.1)


def test_solved_tasks_are_not_flat() -> None:
    assert Run().steps(40, {"zero_variance": 1.0, "success": 1.0}).guard.phase == "healthy"


# one action at a time


def test_actions_come_one_at_a_time_in_order_and_round_again_at_least_20_steps_apart() -> None:
    run = Run(DEFAULT).steps(10).steps(240, lambda i: {"entropy": max(1 - i / 30, 0.001), "strategy_entropy": 0.3})
    steps = [step for step, _, _ in run.done]
    assert all(later - earlier == 20 for earlier, later in pairwise(steps))
    assert [action for _, action, _ in run.done] == [
        "raise_clip_high",
        "entropy_bonus",
        "lower_learning_rate",
        "raise_temperature",
        "raise_clip_high",  # the bonus is on already
        "lower_learning_rate",
        "raise_temperature",
        "raise_clip_high",
        "lower_learning_rate",
        "raise_temperature",
        "raise_clip_high",
        "raise_temperature",  # the learning rate is at an eighth
    ]
    assert run.guard.knobs.learning_rate == 0.125
    assert run.guard.knobs.clip_high == pytest.approx(0.08) and run.guard.knobs.temperature == pytest.approx(0.2)


def test_every_knob_has_an_end() -> None:
    run = Run(("raise_clip_high",)).steps(12).steps(400, {"strategy_entropy": 0.3})
    assert len(run.done) == 6  # .2 -> .32 in steps of .02
    assert run.guard.knobs.clip_high == pytest.approx(0.12)
    assert [message for _, message in run.told if "no action is left" in message] == [run.told[-1][1]]


def test_kl_cov_takes_the_place_of_the_clip() -> None:
    run = Run(("kl_cov", "raise_clip_high")).steps(12).steps(60, {"strategy_entropy": 0.3})
    assert [action for _, action, _ in run.done] == ["kl_cov"]
    assert run.guard.knobs == Knobs(kl_cov_share=0.002)


def test_the_bonus_follows_the_spec_s_course() -> None:
    # spec 9.7, adaptive entropy: target .2, delta .005
    run = Run(("entropy_bonus",), entropy_target=0.2).steps(12).steps(6, {"strategy_entropy": 0.3})
    assert [action for _, action, _ in run.done] == ["entropy_bonus"]
    assert run.guard.knobs.entropy_weight == 0.0
    weights: list[float | None] = []
    for entropy in (0.5, 0.3, 0.18, 0.15, 0.19, 0.25, 0.22):
        run.steps(1, {"entropy": entropy, "strategy_entropy": 0.3})
        weights.append(run.guard.knobs.entropy_weight)
    assert weights == pytest.approx([0, 0, 0.005, 0.010, 0.015, 0, 0])


def test_an_explosion_takes_back_what_raised_entropy_before_it_does_more() -> None:
    run = Run(("raise_temperature", "lower_learning_rate")).steps(12).steps(6, {"strategy_entropy": 0.3})
    assert run.guard.knobs.temperature == pytest.approx(0.05)
    run.steps(60, {"entropy": 3.0, "truncated": 0.5})
    assert [(action, back) for _, action, back in run.done] == [
        ("raise_temperature", False),
        ("raise_temperature", True),
        ("lower_learning_rate", False),
        ("lower_learning_rate", False),
    ]


def test_what_was_done_is_taken_back_after_long_health_latest_first() -> None:
    run = Run(undo_steps=30, min_strategy_entropy=0.4).steps(12).steps(30, {"strategy_entropy": 0.3})
    assert len(run.done) == 2
    run.steps(100)
    back = [(step, action) for step, action, taken_back in run.done if taken_back]
    assert [action for _, action in back] == ["entropy_bonus", "raise_clip_high"]
    assert back[1][0] - back[0][0] == 30
    assert run.guard.knobs == Knobs() and run.guard.phase == "healthy"


def test_a_state_takes_some_steps_and_health_twenty() -> None:
    # the mean of the latest five is below half of 1.2 from the third step of .05 on: (3 * .05 + 2 * 1.2) / 5 = .51
    short = Run(()).steps(12).steps(4, {"strategy_entropy": 0.05})
    assert short.guard.phase == "healthy" and short.told == []
    run = Run(()).steps(12).steps(5, {"strategy_entropy": 0.05}).steps(30)
    (ill, _), (well, _) = run.told
    assert ill == 16 and run.guard.phase == "healthy"
    assert well == 17 + 2 + 19  # (2 * 1.2 + 3 * .05) / 5 is below still, twice; then 20 steps without a sign


# rollback and stop


def test_a_rollback_goes_to_the_last_healthy_checkpoint_once_each_time() -> None:
    run = Run(("rollback", "stop"), max_rollbacks=1).steps(12)
    assert run.guard.note_checkpoint(12) == 12
    run.steps(3, {"strategy_entropy": 0.05})
    assert run.guard.phase == "healthy" and run.guard.note_checkpoint(15) == 12  # not surely any more
    run.steps(2, {"strategy_entropy": 0.05})
    assert run.guard.note_checkpoint(17) == 12  # still wanted
    assert run.guard.take_rollback() == 12 and run.guard.take_rollback() is None
    assert run.guard.phase == "healthy"
    assert run.guard.stop_reason == ""
    run.steps(60, {"strategy_entropy": 0.05})
    assert [action for _, action, _ in run.done] == ["rollback", "stop"]
    assert run.guard.stop_reason.startswith("exploration guard: strategy entropy is 0.05 nats")
    assert run.done[1][0] - run.done[0][0] >= 20


def test_without_a_healthy_checkpoint_a_rollback_is_passed_over() -> None:
    run = Run(("rollback", "lower_learning_rate")).steps(12).steps(5, {"strategy_entropy": 0.05})
    assert [action for _, action, _ in run.done] == ["lower_learning_rate"]
    assert Run(("lower_learning_rate",)).steps(5).guard.note_checkpoint(5) is None


def test_a_guard_that_only_warns_turns_nothing() -> None:
    run = Run(()).steps(10).steps(60, collapse)
    assert run.guard.phase == "collapsing" and run.guard.knobs == Knobs() and run.done == []
    assert "nothing is done" in run.told[0][1]


# memory


def test_a_state_of_plain_json_goes_on_as_the_guard_itself() -> None:
    for count in (5, 30, 45, 90):
        whole = Run(DEFAULT).steps(10).steps(count, collapse)
        resumed = Run(DEFAULT)
        resumed.guard.load_state_dict(json.loads(json.dumps(whole.guard.state_dict())))
        resumed.step = whole.step
        assert resumed.guard.knobs == whole.guard.knobs
        for run in (whole, resumed):
            run.told.clear()
            run.steps(50, lambda i, n=count: collapse(n + i))
        assert resumed.told == whole.told
        assert resumed.guard.state_dict() == whole.guard.state_dict()
        assert resumed.guard.figures() == whole.guard.figures()


def test_the_state_does_not_grow() -> None:
    run = Run().steps(10).steps(150, collapse)
    size = len(json.dumps(run.guard.state_dict()))
    run.steps(300, lambda i: collapse(150 + i))
    assert len(json.dumps(run.guard.state_dict())) < 1.3 * size


def test_a_state_that_nobody_wrote_is_told() -> None:
    with pytest.raises(CheckpointError, match="exploration guard in the checkpoint: field 'phase'"):
        Run().guard.load_state_dict({"phase": "asleep"})


def test_unknown_figures_say_nothing() -> None:
    nothing: Figures = dict.fromkeys(SOUND)
    run = Run().steps(50, nothing).steps(20, {"entropy": math.nan})
    assert run.guard.phase == "healthy" and run.told == []


# courses and the law


def test_a_direction_needs_values_and_more_than_chance() -> None:
    course = Course()
    for value in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4):
        course.add(value, reference_steps=4)
    assert course.moves(0.0) == 0  # seven
    course.add(0.3, reference_steps=4)
    assert course.moves(0.0) == -1 and course.moves(1.0) == 0
    assert course.total / course.count == pytest.approx(0.85)
    noise = Course()
    for i in range(20):
        noise.add(0.5 + 0.4 * (-1) ** i + 0.001 * i, reference_steps=4)
    assert noise.moves(0.0) == 0


def test_a_spent_law_is_a_sign_of_collapse_that_is_not_acted_on_alone() -> None:
    # R = .66 - .2 e^H exactly but for noise, and H runs out
    def spend(i: int) -> Figures:
        entropy = max(1.0 - i / 60, 0.0)
        return {"entropy": entropy, "success": 0.66 - 0.2 * math.exp(entropy) + 0.01 * (-1) ** i}

    run = Run(min_entropy=0.001).steps(64, spend)
    assert run.guard.phase == "collapsing" and run.done == []
    assert "promises only" in run.told[0][1]
    figures = run.guard.figures()
    assert figures["exploration/law_a"] == pytest.approx(0.2, abs=0.01)
    assert figures["exploration/law_b"] == pytest.approx(0.66, abs=0.01)
    assert figures["exploration/headroom"] < 0.02


# spec 9.9


def test_vector_9_9_the_guard_leaves_healthy_within_its_window() -> None:
    """A softmax of five tokens whose reward follows its probabilities: healthy until its entropy has fallen to a fifth,
    and no longer than the recent steps and the sustained ones after that."""
    run, pi, reached = Run(reference_steps=4), torch.tensor(PI, dtype=torch.float64), None
    first: list[float] = []
    while run.guard.phase == "healthy" and run.step < 400:
        now = nats(pi)
        first = first if len(first) == 4 else [*first, now]
        if reached is None and len(first) == 4 and now < 0.2 * sum(first) / 4:
            reached = run.step
        run.steps(1, {"entropy": now, "success": float(pi[0])})
        pi = step_by_clip(pi, pi, pi - (pi * pi).sum(), clip_high=0.2, eta=0.5)
    assert reached is not None and 0 <= run.step - reached <= 8
    assert run.guard.phase == str(Phase.COLLAPSING) and run.done == []  # success rises: told, not acted on
