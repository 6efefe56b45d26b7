"""Which of several directives the teacher is shown: the candidates, the choice by overlap, its passes and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from critique_rl.config.algorithm import DistillationConfig
from critique_rl.loop.hints import HintTally, Rivals, candidates, choose
from critique_rl.loop.readings import Pair
from critique_rl.loop.targets import TeacherTally, teach
from critique_rl.types import CriticOutcome, Critique, Directive, Group, TeacherTargets, TokenIds
from tests.loop.fakes import TEMPLATE, CharPolicy, decode, group, task

OWN = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
FIRST = [[1, 2, 9], [4, 5, 6], [7, 1, 2]]
SECOND = [[1, 2, 3], [4, 1, 2], [1, 2, 3]]
"""Three tokens' top three of the policy, and of the teacher under two hints: they share 2 + 3 + 1 and 3 + 1 + 0."""


class Hinted(CharPolicy):
    """The policy's top three are OWN, the teacher's those of the hint that its context ends in, else OWN; the i-th id
    of a teacher has the log-prob -1 - i, and of the policy -2 - i."""

    def __init__(self, hints: dict[str, list[list[int]]] | None = None) -> None:
        super().__init__()
        self.hints = {"first": FIRST, "second": SECOND} if hints is None else hints

    def topk_logprobs(
        self,
        contexts: Sequence[TokenIds],
        completions: Sequence[TokenIds],
        *,
        k: int,
        who: Literal["policy", "teacher"],
        support: Sequence[TeacherTargets] | None = None,
    ) -> list[TeacherTargets]:
        plain = super().topk_logprobs(contexts, completions, k=k, who=who, support=support)
        found: list[TeacherTargets] = []
        for i, (targets, context) in enumerate(zip(plain, contexts, strict=True)):
            said = [ids for hint, ids in self.hints.items() if who == "teacher" and decode(context).endswith(hint)]
            ids = np.array((said or [OWN])[0])[:, :k] if support is None else support[i].ids_TK
            lead = 1.0 if who == "teacher" else 2.0
            # Under "second" the teacher is surer of all it says.
            lead -= 0.5 * (who == "teacher" and decode(context).endswith("second"))
            logprobs = np.tile(-lead - np.arange(ids.shape[1]), (len(ids), 1))
            found.append(replace(targets, ids_TK=ids, logprobs_TK=logprobs, sampled_logprobs_T=np.full(len(ids), -9.0)))
        return found


def told(rollout_id: str, *texts: str) -> Critique:
    said = tuple(Directive(text=text) for text in texts)
    return Critique(rollout_id=rollout_id, critic="c", outcome=CriticOutcome.OK, directives=said)


def hinted(*texts: str, attempts: int = 1) -> Group:
    """Attempts of two characters and the end, each with the same directives."""
    of = group(task(), *(["41"] * attempts))
    return replace(of, critiques={r.id: told(r.id, *texts) for r in of.rollouts})


def taught(of: Group, teacher: Hinted | None = None, /, **options: object) -> tuple[Group, TeacherTally, Hinted]:
    policy = Hinted() if teacher is None else teacher
    config = DistillationConfig.model_validate({"k": 3, "support": "student"} | options)
    tally = TeacherTally()
    (found,) = teach([of], policy=policy, template=TEMPLATE, config=config, tally=tally)
    return found, tally, policy


def shown(of: Group) -> str:
    return decode(of.targets["t/0"].context_ids).removeprefix("user: 6*7= ")


def test_the_choice_by_hand() -> None:
    rollout = group(task(), "41").rollouts[0]
    contexts = [CharPolicy().encode(task().messages) + tuple(map(ord, hint)) for hint in ("first", "second")]
    rivals = Rivals(tuple(Pair(context, rollout.completion_ids) for context in contexts), rollout)
    tally, config = HintTally(), DistillationConfig(k=3, hint_choice="sequence_overlap")
    (choice,) = choose([rivals], policy=Hinted(), config=config, tally=tally).made
    # O = (2 3 1), sum 6, and (3 1 0), sum 4: the first over all; token by token the second, then the first twice
    assert choice.best == 0
    assert choice.by_token_T.tolist() == [1, 0, 0]
    assert (tally.tokens, tally.chosen, tally.mean) == (3.0, pytest.approx(6 / 3), pytest.approx(5 / 3))


def test_the_whole_attempts_best_hint_is_shown() -> None:
    for order in (("first", "second"), ("second", "first")):
        found, tally, _ = taught(hinted(*order), hint_choice="sequence_overlap")
        assert shown(found) == "first"
        assert found.targets["t/0"].ids_TK.tolist() == OWN
        figures = {name: value for name, value in tally.figures().items() if name.startswith("hint/")}
        # 6 shared of 9, and on average (6 + 4) / 2
        assert figures == pytest.approx(
            {
                "hint/candidates": 2.0,
                "hint/scored": 2.0,
                "hint/overlap": 6 / 9,
                "hint/overlap_best_minus_mean": 1 / 9,
            }
        )


def test_each_token_may_have_a_hint_of_its_own() -> None:
    found, tally, _ = taught(hinted("first", "second"), hint_choice="token_overlap")
    targets = found.targets["t/0"]
    assert shown(found) == "first"  # the best over all
    assert targets.logprobs_TK[:, 0].tolist() == [-0.5, -1.0, -1.0]
    assert tally.figures()["hint/overlap"] == pytest.approx((3 + 3 + 1) / 9)
    # at the teacher's own ids: the second's three, then the first's
    own = taught(hinted("first", "second"), hint_choice="token_overlap", support="teacher")[0].targets["t/0"]
    assert own.ids_TK.tolist() == [SECOND[0], FIRST[1], FIRST[2]]
    surrogate = {"divergence": "topk_surrogate", "support": "overlap"}
    both = taught(hinted("first", "second"), hint_choice="token_overlap", **surrogate)[0].targets["t/0"]
    assert both.student_logprobs_TK is not None
    assert np.isfinite(both.logprobs_TK).tolist() == [[True] * 3, [True] * 3, [True, False, False]]
    assert np.isfinite(both.student_logprobs_TK).tolist() == np.isfinite(both.logprobs_TK).tolist()


@pytest.mark.parametrize(
    ("options", "passes"),
    [
        # the policy's and the teacher's top K choose, and one more pass scores the chosen one at the policy's ids
        ({"support": "student"}, [("policy", 1, False), ("teacher", 2, False), ("teacher", 1, True)]),
        # what was read to choose is what is learned from
        ({"support": "teacher"}, [("policy", 1, False), ("teacher", 2, False)]),
        ({"support": "overlap", "divergence": "topk_surrogate"}, [("policy", 1, False), ("teacher", 2, False)]),
        ({"support": "sampled"}, [("policy", 1, False), ("teacher", 2, False)]),
    ],
)
def test_what_a_choice_costs(options: dict[str, object], passes: list[tuple[str, int, bool]]) -> None:
    _, _, policy = taught(hinted("first", "second", attempts=3), hint_choice="sequence_overlap", **options)
    seen = [(who, len(contexts), given) for who, contexts, _, given in policy.topk_calls]
    assert seen == passes


@pytest.mark.parametrize("choice", ["joined", "sequence_overlap", "token_overlap", "shortest", "random"])
@pytest.mark.parametrize("support", ["teacher", "student", "sampled"])
def test_one_directive_is_shown_as_ever_and_costs_no_pass_more(choice: str, support: str) -> None:
    k = 20 if support == "sampled" else 3
    found, _, policy = taught(hinted("first"), support=support, k=k, hint_choice=choice)
    plain, _, before = taught(hinted("first"), support=support, k=k)
    assert policy.topk_calls == before.topk_calls
    mine, theirs = found.targets["t/0"], plain.targets["t/0"]
    assert mine.context_ids == theirs.context_ids
    assert np.array_equal(mine.logprobs_TK, theirs.logprobs_TK) and np.array_equal(mine.ids_TK, theirs.ids_TK)


def test_joined_is_what_it_was_and_has_no_figures() -> None:
    found, tally, policy = taught(hinted("first", "second"), support="teacher")
    assert shown(found) == "first second"
    assert len(policy.topk_calls) == 1
    assert not [name for name in tally.figures() if name.startswith("hint/")]


def test_the_shortest_and_one_at_random_take_no_pass_to_choose() -> None:
    found, tally, policy = taught(
        hinted("a longer first", "second", "second"), hint_choice="shortest", support="teacher"
    )
    assert shown(found) == "second"
    assert [len(contexts) for _, contexts, _, _ in policy.topk_calls] == [1]
    assert {n: v for n, v in tally.figures().items() if n.startswith("hint/")} == {
        "hint/candidates": 2.0,
        "hint/scored": 0.0,
    }
    again = {shown(taught(hinted("first", "second"), hint_choice="random", support="teacher")[0]) for _ in range(3)}
    assert len(again) == 1


def test_a_draw_depends_on_the_rollout_and_every_hint_is_drawn() -> None:
    of = group(task(), "41").rollouts[0]
    said = told("t/0", "first", "second", "first")
    draws = [candidates(said, replace(of, id=f"t/{i}"), "random") for i in range(40)]
    assert set(draws) == {("first",), ("second",)}
    assert draws[3] == candidates(said, replace(of, id="t/3"), "random")
    newer = [candidates(said, replace(of, policy_version=v), "random") for v in range(40)]
    assert len(set(newer)) == 2
    assert candidates(said, of, "token_overlap") == ("first", "second")
    assert candidates(said, of, "joined") == ("first second first",)


def test_masked_and_unread_tokens_count_for_nobody() -> None:
    of = hinted("first", "second")
    # the middle token, which speaks for the first hint, was written by a tool: 2 + 1 against 3 + 0
    tool = replace(of, rollouts=(replace(of.rollouts[0], policy_mask=(1, 0, 1)),))
    assert shown(taught(tool, hint_choice="sequence_overlap")[0]) == "first"
    assert shown(taught(of, hint_choice="sequence_overlap", max_tokens=1)[0]) == "second"

    class Blind(Hinted):
        """Its teacher cannot read the middle token under the first hint."""

        def topk_logprobs(self, *arguments: object, **options: object) -> list[TeacherTargets]:  # pyright: ignore
            found = super().topk_logprobs(*arguments, **options)  # pyright: ignore[reportArgumentType]
            ends = [decode(t.context_ids).endswith("first") for t in found]
            lost = [t.mask_T * ([1, 0, 1] if end else [1, 1, 1]) for t, end in zip(found, ends, strict=True)]
            return [replace(t, mask_T=mask_T) for t, mask_T in zip(found, lost, strict=True)]

    assert shown(taught(of, Blind(), hint_choice="sequence_overlap")[0]) == "second"  # 3 against 4


def test_a_hint_whose_context_does_not_fit_is_no_candidate() -> None:
    class Placed(Hinted):
        max_positions = len("user: 6*7= second") + 3

    of = hinted("first, at some length, first", "second")
    found, tally, policy = taught(of, Placed(), hint_choice="sequence_overlap")
    assert shown(found) == "second"
    assert (tally.over_budget, len(policy.topk_calls)) == (0, 2)
    none, tally, _ = taught(hinted("first, at some length, first"), Placed(), hint_choice="sequence_overlap")
    assert (none.targets, tally.over_budget) == ({}, 1)


def test_equal_attempts_choose_alike_and_are_scored_once() -> None:
    found, tally, _ = taught(hinted("first", "second", attempts=2), hint_choice="sequence_overlap")
    assert found.targets["t/0"] is found.targets["t/1"]
    assert (tally.scored, tally.hints.scored) == (1, 2)
