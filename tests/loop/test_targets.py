"""Teacher targets: on which rollouts, under which context, scored how often, on whose support."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from critique_rl.config.algorithm import DistillationConfig
from critique_rl.loop.targets import teach
from critique_rl.types import Group, TeacherTargets
from tests.loop.fakes import END, TEMPLATE, CharPolicy, critique, encode, group, task

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
