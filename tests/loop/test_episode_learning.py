"""Episodes round the loop: what is verified, paid, counted, refined and taught of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from critique_rl.algorithms.stamping import blank, stamp_imitation
from critique_rl.config.algorithm import DistillationConfig, RefinementConfig
from critique_rl.config.engine import MismatchConfig
from critique_rl.config.evaluation import EvaluationConfig
from critique_rl.config.run import RolloutConfig
from critique_rl.loop.collect import collect
from critique_rl.loop.evaluate import ask, evaluate
from critique_rl.loop.guards import vitals
from critique_rl.loop.guidance import load_guidance
from critique_rl.loop.metrics import generated_tokens, group_metrics
from critique_rl.loop.mismatch import check_mismatch
from critique_rl.loop.refine import refine
from critique_rl.loop.targets import teach
from critique_rl.types import CriticOutcome, Critique, Directive, Group
from tests.loop.episode_fakes import Echo, HearingPolicy, Saying
from tests.loop.fakes import TEMPLATE, ExactReward, task

CONFIG = RolloutConfig(group_size=2, max_tokens=40)


def say(prompt: str, i: int) -> str:
    """Of two episodes the first looks something up and answers A, the second says "huh?" and answers B."""
    if "[" not in prompt:
        return "huh?" if i % 2 else "cat"
    return "A" if "[CAT]" in prompt else "B"


def groups_of(*, cost: float = 0.0, config: RolloutConfig = CONFIG) -> list[Group]:
    return collect(
        [task("t", answer="A")],
        policy=HearingPolicy(),
        engine=Saying(say),
        reward=ExactReward(),
        config=config,
        step=2,
        seed=1,
        environment=Echo(cost=cost),
    )


def test_the_last_turn_is_what_is_verified() -> None:
    (group,) = groups_of()
    right, wrong = group.rollouts
    assert (right.text, right.answer_text) == ("cat\nCAT\nA", "A")
    assert [s.reward for s in group.scores] == [1.0, 0.0]
    assert [t.action for t in wrong.turns] == ["", "answer"]
    assert right.policy_mask.count(False) == 5


def test_actions_cost_what_is_not_right() -> None:
    engine = Saying(lambda prompt, i: "A" if i == 0 and "[" not in prompt else "cat")
    (group,) = collect(
        [task("t", answer="A")],
        policy=HearingPolicy(),
        engine=engine,
        reward=ExactReward(),
        config=CONFIG,
        step=0,
        seed=1,
        environment=Echo(cost=0.25),
    )
    assert [s.reward for s in group.scores] == [1.0, -0.25]
    assert group.scores[0].correct
    floor = collect(
        [task("t", answer="A")],
        policy=HearingPolicy(),
        engine=Saying(lambda *_: "cat"),
        reward=ExactReward(),
        config=CONFIG,
        step=0,
        seed=1,
        environment=Echo(cost=7.0),
    )
    assert {s.reward for s in floor[0].scores} == {-1.0}


def test_only_the_policys_own_tokens_count() -> None:
    groups = groups_of()
    # "cat" and "A", "huh?" and "B", with an end token each: 4 + 2 and 5 + 2
    assert [r.own_tokens for r in groups[0].rollouts] == [6, 7]
    assert generated_tokens(groups) == 13
    seen = vitals(groups)
    assert (seen.p50_tokens, seen.entropy) == (6.5, 0.5)
    assert group_metrics(groups)["policy/entropy_estimate"] == 0.5
    seeded = groups_of(config=RolloutConfig(group_size=2, max_tokens=40, first_turn_candidates=4))
    # four first turns are drawn (4 + 5 + 4 + 5), two are played
    assert generated_tokens(seeded) == 18 + 4


def test_the_engines_log_probs_are_compared_at_its_own_tokens() -> None:
    policy = HearingPolicy()
    policy.mean_logprob = lambda _: -0.5  # what the engine says of its own tokens, and not the 0 of the tool's
    checked = check_mismatch(groups_of(), policy=policy, config=MismatchConfig())
    assert checked.figures["mismatch/mean"] == 0.0


def criticised(group: Group) -> Group:
    wrong = group.rollouts[1]
    said = Critique(
        rollout_id=wrong.id, critic="c", outcome=CriticOutcome.OK, directives=(Directive(text="look it up", turn=0),)
    )
    return replace(group, plateaued=True, critiques={wrong.id: said})


def test_a_refinement_of_an_episode_is_an_episode_with_the_directive_in_its_first_prompt() -> None:
    engine = Saying(lambda prompt, _: "A" if "[" in prompt else "cat")
    options = RefinementConfig()
    (group,) = refine(
        [criticised(groups_of()[0])],
        policy=HearingPolicy(),
        engine=engine,
        reward=ExactReward(),
        guidance=load_guidance(options, TEMPLATE),
        rollout=CONFIG,
        step=0,
        seed=1,
        environment=Echo(),
    )
    (refinement,) = group.refinements
    assert "look it up" in HearingPolicy().decode(engine.calls[0][0][0])
    assert [t.action for t in refinement.rollout.turns] == ["search", "answer"]
    assert (refinement.rejected, refinement.score.correct) == ("", True)
    # bare log-probs are -1 and those of sampling -0.5 at the policy's own 6 tokens; the tool's 5 do not dilute them
    assert refinement.reliance == pytest.approx(-0.5)
    (sample,) = stamp_imitation(group, [1.0])
    assert sample.loss_mask.tolist() == [float(own) for own in refinement.rollout.policy_mask]
    assert sample.prompt_ids == group.rollouts[0].prompt_ids


def test_teacher_targets_leave_the_tools_words_out() -> None:
    (group,) = teach(
        [criticised(groups_of()[0])], policy=HearingPolicy(), template=TEMPLATE, config=DistillationConfig(k=2)
    )
    wrong = group.rollouts[1]
    assert group.targets[wrong.id].mask_T.tolist() == [float(own) for own in wrong.policy_mask]
    assert 0 < group.targets[wrong.id].mask_T.sum() < len(wrong.completion_ids)
    assert blank(wrong).loss_mask.tolist() == group.targets[wrong.id].mask_T.tolist()


def test_evaluations_play_and_say_how_episodes_searched() -> None:
    tasks = [task("t", answer="A"), task("u", answer="B")]
    options = EvaluationConfig(samples_per_task=2, pass_at=(2,))
    answers = ask(
        tasks,
        policy=HearingPolicy(),
        engine=Saying(say),
        reward=ExactReward(),
        config=options,
        max_tokens=40,
        seed=1,
        environment=Echo(cost=0.5),
    )
    assert [(a.task.id, a.text, a.score.reward) for a in answers] == [
        ("t", "cat\nCAT\nA", 1.0),
        ("t", "huh?\nwhat\nB", 0.0),
        ("u", "cat\nCAT\nA", 0.0),
        ("u", "huh?\nwhat\nB", 1.0),
    ]
    found = evaluate(
        tasks,
        policy=HearingPolicy(),
        engine=Saying(say),
        reward=ExactReward(),
        config=options,
        max_tokens=40,
        seed=1,
        environment=Echo(),
    )
    (success,) = found.values()
    assert success.rates["query_unique_ratio"].value == 1.0
    assert success.rates["answered"].value == 1.0
    assert "evidence_overlap" not in success.rates
