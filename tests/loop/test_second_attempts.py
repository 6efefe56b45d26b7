"""Second attempts: what they are sampled under, and that a hint which does not fit gets none."""

from __future__ import annotations

from collections.abc import Sequence

from critique_rl.config.run import RolloutConfig
from critique_rl.engines.scripted import ScriptedEngine
from critique_rl.loop.second_attempts import Hint, SecondAttempt, sample_again
from critique_rl.prompting.template import parse_template
from tests.loop.fakes import END, CharPolicy, decode, encode, engine, task

TEMPLATE = parse_template(
    '+++\nname = "x"\nversion = 1\ndescription = "d"\ninputs = ["question", "attempt", "directive"]\n+++\n'
    "{{ question }}|{{ attempt }}|{{ directive }}\n",
    source="x",
)


def sampled(
    hints: Sequence[Hint], answers: ScriptedEngine, *, times: int = 1, positions: int | None = None
) -> list[list[SecondAttempt]]:
    policy = CharPolicy()
    if positions is not None:
        policy.max_positions = positions  # pyright: ignore[reportAttributeAccessIssue]
    return sample_again(
        hints,
        policy=policy,
        engine=answers,
        template=TEMPLATE,
        rollout=RolloutConfig(max_tokens=10),
        seed=1,
        times=times,
    )


def test_each_hint_gets_its_own_attempts_in_order() -> None:
    hints = [Hint(task(), "41", "Carry."), Hint(task(), "40", "Add.")]
    found = sampled(hints, engine("a", "b", "c", "d"), times=2)
    assert [[one.completion.text for one in attempts] for attempts in found] == [["a", "b"], ["c", "d"]]
    assert {decode(one.prompt_ids) for one in found[0]} == {"user: 6*7=|41|Carry."}
    assert {decode(one.prompt_ids) for one in found[1]} == {"user: 6*7=|40|Add."}


def test_a_long_attempt_loses_its_middle_and_a_hint_that_does_not_fit_gets_none() -> None:
    hints = [Hint(task(), "0123456789" * 9, "Carry."), Hint(task(), "41", "Carry." * 20)]
    short, none = sampled(hints, engine("a"), positions=60)
    assert len(short[0].prompt_ids) <= 50
    assert "[...]" in decode(short[0].prompt_ids)
    assert none == []


def test_without_a_hint_nothing_is_sampled() -> None:
    def refuse(_: object, __: int) -> str:
        raise AssertionError("nothing was to be sampled")

    assert sampled([], ScriptedEngine(refuse, encode, end_id=END)) == []
    assert sampled([Hint(task(), "41", "Carry." * 20)], ScriptedEngine(refuse, encode, end_id=END), positions=60) == [
        []
    ]
