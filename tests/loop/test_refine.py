"""Second attempts: which are sampled, why each is rejected, and which of the rest is trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from critique_rl.config.algorithm import RefinementConfig
from critique_rl.config.run import RolloutConfig
from critique_rl.engines.scripted import ScriptedEngine
from critique_rl.loop.guidance import Guidance
from critique_rl.loop.refine import refine
from critique_rl.prompting.template import parse_template
from critique_rl.types import Critique, Group, Refinement, TokenIds
from tests.loop.fakes import END, CharPolicy, ExactReward, critique, decode, encode, engine, group, task

TEMPLATE = parse_template(
    '+++\nname = "x"\nversion = 1\ndescription = "d"\ninputs = ["question", "attempt", "directive"]\n+++\n'
    "{{ question }} not {{ attempt }}. {{ directive }}\n",
    source="x",
)
RIGHT = "the answer follows from six groups of seven things which is 42"
PARAGRAPH = "one two three four five six seven eight nine ten"


class AnyOf(ExactReward):
    """Every text that holds the answer is right."""

    def score(self, task: object, text: str):  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().score(task, task.answer if task.answer in text else text)  # pyright: ignore


def refined(
    groups: Sequence[Group],
    engine: ScriptedEngine,
    *,
    policy: CharPolicy | None = None,
    max_tokens: int = 200,
    **options: object,
) -> list[Group]:
    return refine(
        groups,
        policy=policy or CharPolicy(),
        engine=engine,
        reward=AnyOf(),
        guidance=Guidance(config=RefinementConfig.model_validate(options), template=TEMPLATE),
        rollout=RolloutConfig(max_tokens=max_tokens),
        step=5,
        seed=1,
    )


def criticized(of: Group, *names: str, text: str = "Add the ones first.") -> Group:
    found: dict[str, Critique] = {name: critique(name, text) for name in names}
    return replace(of, critiques=found)


def reasons(found: Sequence[Refinement]) -> list[str]:
    return [r.rejected for r in found]


def test_a_refinement_is_sampled_under_the_critique_and_scored_under_the_bare_prompt() -> None:
    policy = CharPolicy()
    (found,) = refined([criticized(group(task(), "41", "42"), "t/0")], engine("42"), policy=policy)
    (refinement,) = found.refinements
    assert decode(refinement.rollout.prompt_ids) == "user: 6*7= not 41. Add the ones first."
    assert policy.scored == [("user: 6*7=", "42")]
    assert refinement.rollout.id == "5/t/refinement-0"
    assert refinement.attempt_id == "t/0" and refinement.critique.rollout_id == "t/0"
    assert refinement.rollout.completion_ids == (*encode("42"), END)
    assert refinement.bare_logprobs == (-1.0, -1.0, -1.0)
    assert refinement.rejected == "" and refinement.score.correct


def test_no_usable_critique_changes_nothing_and_asks_nobody() -> None:
    def never(prompt: TokenIds, i: int) -> str:
        raise AssertionError((prompt, i))

    groups = [group(task(), "41", "42"), criticized(group(task("u"), "41"), "u/0", text="")]
    assert refined(groups, ScriptedEngine(never, encode, end_id=END)) == groups


def test_a_correct_rollout_stays_and_nothing_is_written_over_it() -> None:
    before = criticized(group(task(), "42", "41"), "t/1")
    (after,) = refined([before], engine("42"))
    assert after.rollouts == before.rollouts and after.scores == before.scores
    assert [r.attempt_id for r in after.refinements] == ["t/1"]


@pytest.mark.parametrize(
    ("text", "directive", "max_tokens", "reason"),
    [
        ("43", "Add.", 200, "not verified"),
        ("!", "Add.", 200, "not verified"),
        (RIGHT, "Add.", 5, "truncated"),
        (f"{PARAGRAPH} 42", f"Say {PARAGRAPH}.", 200, "copies the critique"),
        (RIGHT, "Add.", 200, ""),
    ],
)
def test_reasons_of_a_single_refinement(text: str, directive: str, max_tokens: int, reason: str) -> None:
    before = criticized(group(task(), "41"), "t/0", text=directive)
    (found,) = refined([before], engine(text), max_tokens=max_tokens)
    assert reasons(found.refinements) == [reason]


def test_the_copied_share_by_hand() -> None:
    # 11 words, 4 eight-grams; the critique holds words 1 to 9, so 2 of the 4: a share of one half
    text = f"{PARAGRAPH} 42"
    directive = " ".join(PARAGRAPH.split()[:9])
    before = criticized(group(task(), "41"), "t/0", text=directive)
    assert reasons(refined([before], engine(text), max_copied=0.49)[0].refinements) == ["copies the critique"]
    assert reasons(refined([before], engine(text), max_copied=0.5)[0].refinements) == [""]


def test_a_text_shorter_than_eight_words_cannot_be_a_copy() -> None:
    before = criticized(group(task(), "41"), "t/0", text="It is 42")
    assert reasons(refined([before], engine("It is 42"), refuse_leaks=False)[0].refinements) == [""]


def mean_of(table: dict[str, float]) -> Callable[[str], float]:
    return lambda text: table[text]


def test_the_refinement_closest_to_the_policy_is_kept() -> None:
    policy = CharPolicy(mean_of({"42 a": -3.0, "42 b": -0.5, "42 c": -1.0}))
    before = criticized(group(task(), "1", "2", "3", "4"), "t/0", "t/1", "t/2", "t/3")
    (found,) = refined([before], engine("42 a", "42 b", "43", "42 c"), policy=policy)
    farther = "another refinement was closer to the policy"
    assert reasons(found.refinements) == [farther, "", "not verified", farther]
    two: dict[str, Any] = {"max_injected": 2, "max_group_share": 1.0}
    (found,) = refined([before], engine("42 a", "42 b", "43", "42 c"), policy=policy, **two)
    assert reasons(found.refinements) == [farther, "", "not verified", ""]


def test_of_equally_likely_refinements_the_shorter_then_the_earlier_is_kept() -> None:
    before = criticized(group(task(), "1", "2", "3"), "t/0", "t/1", "t/2")
    (found,) = refined([before], engine("42 long", "42 a", "42 b"))
    assert [r.rollout.text for r in found.refinements if not r.rejected] == ["42 a"]


def test_a_duplicate_never_takes_a_second_place() -> None:
    before = criticized(group(task(), "1", "2", "3"), "t/0", "t/1", "t/2")
    (found,) = refined([before], engine("42", "42", "42 so"), max_injected=3, max_group_share=1.0)
    assert reasons(found.refinements) == ["", "duplicate", ""]


def test_an_unlikely_refinement_is_dropped_and_leaves_its_place() -> None:
    policy = CharPolicy(mean_of({"42 a": -20.5, "42 b": -20.0}))
    before = criticized(group(task(), "1", "2"), "t/0", "t/1")
    (found,) = refined([before], engine("42 a", "42 b"), policy=policy)
    assert reasons(found.refinements) == ["too unlikely under the bare prompt", ""]
    (found,) = refined([before], engine("42 a", "42 b"), policy=policy, min_bare_logprob=-10.0)
    assert reasons(found.refinements) == ["too unlikely under the bare prompt"] * 2


def test_places_are_counted_per_group_and_every_refinement_stays_in_the_record() -> None:
    groups = [criticized(group(task(name), "1", "2"), f"{name}/0", f"{name}/1") for name in ("a", "b")]
    found = refined(groups, engine("42", "42 b"), per_attempt=2)
    assert [len(g.refinements) for g in found] == [4, 4]
    assert [sum(not r.rejected for r in g.refinements) for g in found] == [1, 1]
    assert all(r.score.correct and r.bare_logprobs for g in found for r in g.refinements)


def test_max_attempts_and_per_attempt_bound_the_samples() -> None:
    before = criticized(group(task(), "1", "2", "3"), "t/0", "t/1", "t/2")
    (found,) = refined([before], engine("42"), max_attempts=2, per_attempt=3)
    assert [r.attempt_id for r in found.refinements] == ["t/0"] * 3 + ["t/1"] * 3


def test_reliance_by_hand() -> None:
    # -3 under the bare prompt, -1 under the critique: two nats a token come from the hint
    (found,) = refined([criticized(group(task(), "1"), "t/0")], engine("42"), policy=CharPolicy(lambda _: -3.0))
    assert found.refinements[0].reliance == -2.0
