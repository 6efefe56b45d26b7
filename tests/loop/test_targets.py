"""Teacher targets: on which rollouts, under which context, scored how often, on whose support."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from critique_rl.config.algorithm import DistillationConfig
from critique_rl.loop.contexts import CUT
from critique_rl.loop.targets import TeacherTally, teach
from critique_rl.ops.divergences import topk_tail_divergence
from critique_rl.policy.hf import HFPolicy
from critique_rl.prompting.template import parse_template
from critique_rl.types import Group, Rollout, TeacherTargets
from tests.loop.fakes import END, TEMPLATE, CharPolicy, critique, encode, group, task
from tests.tiny import V, gradient, sample, step_config, tiny_policy

CONTEXT = "user: 6*7= Add the ones first."


def taught(groups: Sequence[Group], policy: CharPolicy, **options: object) -> list[Group]:
    return teach(groups, policy=policy, template=TEMPLATE, config=DistillationConfig.model_validate(options))


def criticized(of: Group, *names: str) -> Group:
    return replace(of, critiques={name: critique(name) for name in names})


def test_equal_completions_are_scored_once_and_share_their_targets() -> None:
    policy = CharPolicy()
    (found,) = taught([criticized(group(task(), "41", "40", "41", "42"), "t/0", "t/1", "t/2")], policy, k=3)
    assert policy.topk_calls == [("teacher", [CONTEXT, CONTEXT], ["41", "40"], False)]
    assert sorted(found.targets) == ["t/0", "t/1", "t/2"]
    assert found.targets["t/0"] is found.targets["t/2"]
    assert found.targets["t/0"].ids_TK.tolist() == [[101, 102, 103]] * 3  # "4", "1" and the end
    assert found.targets["t/0"].context_ids == encode(CONTEXT)


def test_equal_texts_of_different_ids_are_two_completions() -> None:
    policy = CharPolicy()
    before = criticized(group(task(), "41", "41"), "t/0", "t/1")
    other = replace(before.rollouts[1], completion_ids=(777, END))  # the same text, tokenised otherwise
    (found,) = taught([replace(before, rollouts=(before.rollouts[0], other))], policy)
    assert len(policy.topk_calls[0][2]) == 2
    assert [len(found.targets[name].mask_T) for name in ("t/0", "t/1")] == [3, 2]


def test_the_same_attempt_under_two_directives_is_scored_twice() -> None:
    policy = CharPolicy()
    before = group(task(), "41", "41")
    said = {"t/0": critique("t/0"), "t/1": critique("t/1", "Start with the tens.")}
    taught([replace(before, critiques=said)], policy)
    assert policy.topk_calls[0][1] == [CONTEXT, "user: 6*7= Start with the tens."]


def test_the_student_chooses_the_support_under_the_bare_prompt() -> None:
    policy = CharPolicy()
    (found,) = taught([criticized(group(task(), "41"), "t/0")], policy, k=2, support="student")
    assert policy.topk_calls == [("policy", ["user: 6*7="], ["41"], False), ("teacher", [CONTEXT], ["41"], True)]
    assert found.targets["t/0"].ids_TK.tolist() == [[1, 2]] * 3


def test_max_tokens_masks_the_tail_and_moves_nothing_else() -> None:
    groups = [criticized(group(task(), "4000", "4"), "t/0", "t/1")]
    (whole,) = taught(groups, CharPolicy())
    (cut,) = taught(groups, CharPolicy(), max_tokens=2)
    assert whole.targets["t/0"].mask_T.tolist() == [1, 1, 1, 1, 1]
    assert cut.targets["t/0"].mask_T.tolist() == [1, 1, 0, 0, 0]
    assert cut.targets["t/1"].mask_T.tolist() == [1, 1]
    assert np.array_equal(cut.targets["t/0"].logprobs_TK, whole.targets["t/0"].logprobs_TK)


class HalfBlind(CharPolicy):
    """Its teacher has nothing usable at the first token."""

    def topk_logprobs(self, *arguments: object, **options: object) -> list[TeacherTargets]:  # pyright: ignore
        found = super().topk_logprobs(*arguments, **options)  # pyright: ignore[reportArgumentType]
        return [replace(t, mask_T=t.mask_T * (np.arange(len(t.mask_T)) > 0)) for t in found]


def test_a_masked_token_stays_masked() -> None:
    (found,) = taught([criticized(group(task(), "41"), "t/0")], HalfBlind(), max_tokens=2)
    assert found.targets["t/0"].mask_T.tolist() == [0, 1, 0]


def test_nothing_to_teach_asks_nobody() -> None:
    policy = CharPolicy()
    groups = [group(task(), "41"), replace(group(task("u"), "41"), critiques={"u/0": critique("u/0", "")})]
    assert taught(groups, policy) == groups
    assert policy.topk_calls == []


def test_an_anchor_holds_right_attempts_to_what_the_teacher_says_without_a_directive() -> None:
    policy = CharPolicy()
    mixed = criticized(group(task(), "41", "42", "?"), "t/0")
    (found,) = teach([mixed], policy=policy, template=TEMPLATE, config=DistillationConfig(), anchor=True)
    bare = CharPolicy().decode(mixed.rollouts[1].prompt_ids)
    assert policy.topk_calls == [("teacher", [CONTEXT, bare], ["41", "42"], False)]
    assert sorted(found.targets) == ["t/0", "t/1"]  # the wrong one that nobody spoke about is left alone
    (without,) = taught([mixed], CharPolicy())
    assert sorted(without.targets) == ["t/0"]


def test_the_teacher_runs_on_rows_with_a_directive_and_on_no_other() -> None:
    policy, tally = CharPolicy(), TeacherTally()
    groups = [
        criticized(group(task(), "41", "40", "41", "42"), "t/0", "t/2"),  # one pair, twice
        group(task("u"), "41", "40"),
        criticized(group(task("v"), "7", "8", "9"), "v/1"),
    ]
    found = teach(groups, policy=policy, template=TEMPLATE, config=DistillationConfig(), tally=tally)
    assert [len(completions) for _, _, completions, _ in policy.topk_calls] == [2]  # of nine rows
    assert [sorted(g.targets) for g in found] == [["t/0", "t/2"], [], ["v/1"]]
    counts = {name: value for name, value in tally.figures().items() if name.startswith("teacher/")}
    zero = dict.fromkeys(("teacher/shortened", "teacher/over_budget", "teacher/unscored"), 0.0)
    assert counts == {"teacher/scored": 2.0, **zero}


# -- the context's budget ---------------------------------------------------------------------------------------------


class Placed(CharPolicy):
    """Has `max_positions` positions."""

    def __init__(self, max_positions: int) -> None:
        super().__init__()
        self.max_positions = max_positions


LONG = "0123456789" * 3
SHOWN = parse_template(
    '+++\nname = "x"\nversion = 1\ndescription = "d"\ninputs = ["question", "attempt", "directive"]\n+++\n'
    "{{ question }} {{ attempt }} {{ directive }}\n",
    source="x",
)


def test_a_row_whose_context_does_not_fit_beside_its_completion_gets_no_target_and_is_counted() -> None:
    groups = [criticized(group(task(), "41", "4000", "40"), "t/0", "t/1")]
    for positions, taught_ids, over in [(len(CONTEXT) + 5, ["t/0", "t/1"], 0), (len(CONTEXT) + 4, ["t/0"], 1)]:
        policy, tally = Placed(positions), TeacherTally()
        (found,) = teach(groups, policy=policy, template=TEMPLATE, config=DistillationConfig(), tally=tally)
        assert sorted(found.targets) == taught_ids
        assert (tally.over_budget, tally.scored) == (over, len(taught_ids))


def test_max_context_tokens_bounds_the_context_alone() -> None:
    groups = [criticized(group(task(), "41"), "t/0")]
    for limit, rows in [(len(CONTEXT), 1), (len(CONTEXT) - 1, 0)]:
        (found,) = taught(groups, CharPolicy(), max_context_tokens=limit)
        assert len(found.targets) == rows
    policy = CharPolicy()
    assert taught(groups, policy, max_context_tokens=1)[0].targets == {} and policy.topk_calls == []


def test_a_long_attempt_is_cut_in_the_context_and_scored_whole() -> None:
    policy, tally = Placed(80), TeacherTally()
    groups = [criticized(group(task(), LONG), "t/0")]  # 11 + 30 + 20 ids of context and 31 of completion
    (found,) = teach(groups, policy=policy, template=SHOWN, config=DistillationConfig(), tally=tally)
    ((_, (context,), (completion,), _),) = policy.topk_calls
    assert len(context) == 80 - 31 and completion == LONG
    assert context.startswith("user: 6*7= 0") and context.endswith("9 Add the ones first.") and CUT in context
    assert len(found.targets["t/0"].mask_T) == 31
    assert (tally.shortened, tally.over_budget) == (1, 0)


def test_an_anchor_is_as_long_as_what_the_policy_trains_on() -> None:
    groups = [group(task(), "42")]
    config = DistillationConfig(max_context_tokens=1)
    (found,) = teach(groups, policy=CharPolicy(), template=TEMPLATE, config=config, anchor=True)
    assert sorted(found.targets) == ["t/0"]


# -- the splice -------------------------------------------------------------------------------------------------------


class Splicer(CharPolicy):
    """Its teacher answers for something else than it was asked."""

    def __init__(self, **changed: object) -> None:
        super().__init__()
        self.changed = changed

    def topk_logprobs(self, *arguments: object, **options: object) -> list[TeacherTargets]:  # pyright: ignore
        found = super().topk_logprobs(*arguments, **options)  # pyright: ignore[reportArgumentType]
        return [replace(t, **self.changed) for t in found]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"context_ids": encode("user: 6*7=")}, "context ids differ: 10 came, 30 were sent"),
        ({"mask_T": np.ones(2)}, r"rows of \[2, 3\] tokens came; wanted 3"),
        ({"ids_TK": np.array([[52], [49], [END]]), "logprobs_TK": np.array([[-1.0], [-3.0], [-2.0]]),
          "sampled_logprobs_T": np.array([-1.0, -2.0, -3.0])}, "token 1 of the completion has two log-probs, 1 nats"),
    ],
)  # fmt: skip
def test_targets_of_other_tokens_are_an_internal_error(changed: dict[str, object], fault: str) -> None:
    groups = [criticized(group(task(), "41"), "t/0")]
    with pytest.raises(AssertionError, match=rf"internal error: teacher targets of rollout 't/0' .*: .*{fault}"):
        taught(groups, Splicer(**changed), k=1)


def test_a_masked_token_may_hold_anything() -> None:
    changed = {
        "ids_TK": np.array([[52], [49], [END]]),
        "logprobs_TK": np.array([[-1.0], [np.nan], [-np.inf]]),
        "sampled_logprobs_T": np.array([-1.0, -2.0, -np.inf]),
        "mask_T": np.array([1.0, 0.0, 0.0]),
    }
    (found,) = taught([criticized(group(task(), "41"), "t/0")], Splicer(**changed), k=1)
    assert found.targets["t/0"].mask_T.tolist() == [1, 0, 0]


# -- the sampled token alone, and a real policy -----------------------------------------------------------------------


def test_the_sampled_token_alone() -> None:
    policy = CharPolicy()
    (found,) = taught([criticized(group(task(), "41"), "t/0")], policy, support="sampled")
    assert policy.topk_calls == [("teacher", [CONTEXT], ["41"], False)]
    assert found.targets["t/0"].ids_TK.tolist() == [[52], [49], [END]]
    assert found.targets["t/0"].logprobs_TK.tolist() == [[0.0]] * 3  # its own, at K = 1 of a uniform fake


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"support": "sampled", "k": 5}, r'k = 5 has no effect with support = "sampled"'),
        ({"support": "sampled", "tail": False}, "tail = false leaves a single id"),
        ({"k": 1, "tail": False}, "tail = false leaves a single id"),
    ],
)
def test_supports_that_cannot_teach_are_refused(options: dict[str, object], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        DistillationConfig.model_validate(options)


def tiny_group(policy: HFPolicy) -> Group:
    """One criticised attempt "w7 w8 <eos>" at "w5 w6"."""
    of = task(question="w5 w6")
    rollout = Rollout(
        id="t/0",
        task_id="t",
        prompt_ids=policy.encode(of.messages),
        completion_ids=(7, 8, 2),
        behaviour_logprobs=(-1.0,) * 3,
        text="w7 w8",
        finished=True,
        policy_version=0,
    )
    scores = group(of, "41").scores
    return Group(task=of, rollouts=(rollout,), scores=scores, critiques={"t/0": critique("t/0", "w9")})


BARE = parse_template(
    '+++\nname = "x"\nversion = 1\ndescription = "d"\ninputs = ["question"]\n+++\n{{ question }}\n', source="x"
)


@pytest.mark.parametrize("support", ["teacher", "student", "sampled"])
@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
def test_a_teacher_without_the_directive_teaches_nothing_and_with_it_something(support: str, divergence: str) -> None:
    config = step_config(distillation={"support": support, "divergence": divergence})
    policy = tiny_policy(config)
    (before,) = [tiny_group(policy)]
    rollout = before.rollouts[0]
    for template, moves in ((BARE, False), (TEMPLATE, True)):
        (found,) = teach([before], policy=policy, template=template, config=config.distillation)
        row = sample(rollout.prompt_ids, rollout.completion_ids, distill=1.0, teacher=found.targets["t/0"])
        largest = float(gradient(policy, [row]).abs().max())
        assert largest > 1e-3 if moves else largest < 1e-12


def test_the_sampled_loss_is_the_divergence_of_two_bins() -> None:
    config = step_config(distillation={"support": "sampled", "divergence": "reverse"})
    policy = tiny_policy(config)
    before = tiny_group(policy)
    rollout = before.rollouts[0]
    (found,) = teach([before], policy=policy, template=TEMPLATE, config=config.distillation)
    row = sample(rollout.prompt_ids, rollout.completion_ids, distill=1.0, teacher=found.targets["t/0"])
    report = policy.train_step.accumulate([row])
    assert report is not None
    p_T = np.exp(policy.logprobs([rollout.prompt_ids], [rollout.completion_ids])[0])
    q_T = np.exp(policy.logprobs([policy.encode(task(question="w5 w6 w9").messages)], [rollout.completion_ids])[0])
    by_hand = p_T * np.log(p_T / q_T) + (1 - p_T) * np.log((1 - p_T) / (1 - q_T))
    assert report.distill_loss == pytest.approx(by_hand.mean(), abs=1e-12)
    wide = step_config(distillation={"divergence": "reverse", "k": V})
    whole_policy = tiny_policy(wide)
    (full,) = teach([before], policy=whole_policy, template=TEMPLATE, config=wide.distillation)
    whole = whole_policy.train_step.accumulate([replace(row, teacher=full.targets["t/0"])])
    assert whole is not None and report.distill_loss < whole.distill_loss  # merging bins only hides differences


def test_only_a_support_with_the_better_token_pulls_a_policy_that_is_sure_of_a_wrong_one() -> None:
    # S_0 = 1 - 4 e^-20, T = [.1, .6, .1, .1, .1]; full forward gradient S - T = [.9, -.6, ...]
    teacher_V = torch.tensor([[0.1, 0.6, 0.1, 0.1, 0.1]], dtype=torch.float64).log()

    def pull(*ids: int) -> list[float]:
        z_V = torch.tensor([[20.0, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
        student = z_V.log_softmax(dim=-1)[:, ids]
        topk_tail_divergence(student, teacher_V[:, ids], kind="forward").sum().backward()
        assert z_V.grad is not None
        return z_V.grad[0].tolist()

    assert pull(1, 0)[1] == pytest.approx(-0.6, abs=1e-6)
    assert max(abs(x) for x in pull(0)) < 1e-6


def test_a_real_teacher_scores_the_very_ids_of_a_completion_that_no_encoder_would_give_back() -> None:
    policy = tiny_policy()
    before = tiny_group(policy)
    odd = replace(before.rollouts[0], completion_ids=(3, 3, 7, 2, 8), text="w7 w8")  # not what its text encodes to
    (found,) = teach([replace(before, rollouts=(odd,))], policy=policy, template=TEMPLATE, config=DistillationConfig())
    context = policy.encode(task(question="w5 w6 w9").messages)
    (wanted,) = policy.logprobs([context], [odd.completion_ids])
    assert found.targets["t/0"].context_ids == context
    assert np.allclose(found.targets["t/0"].sampled_logprobs_T, wanted, rtol=0, atol=1e-12)
