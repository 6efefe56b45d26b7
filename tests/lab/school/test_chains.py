from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critique_rl.errors import ConfigError, DataError
from critique_rl.lab.school.chains import Chain, Step, all_chains, combined, read_attempt, select_chains

CHAIN = Chain.parse("c 3-4-2=")


def chain_of(numbers: list[int], signs: list[str]) -> Chain:
    return Chain(numbers=tuple(numbers), signs="".join(signs))


chains = st.integers(1, 5).flatmap(
    lambda n: st.builds(
        chain_of,
        st.lists(st.integers(0, 9), min_size=n + 1, max_size=n + 1),
        st.lists(st.sampled_from("+-"), min_size=n, max_size=n),
    )
)


def test_a_chain_by_hand() -> None:
    # 3-4 = -1 -> 9, 9-2 = 7; from the right 4-2 = 2, 3-2 = 1; at once 4-2 = 2
    assert Chain(numbers=(3, 4, 2), signs="--") == CHAIN
    assert CHAIN.solution == "step by step: 3-4=9; 9-2=7; so 7"
    assert CHAIN.solution_steps == ("step by step:", " 3-4=9;", " 9-2=7;", " so 7")
    assert CHAIN.answer == "7"
    assert CHAIN.steps("from the right") == (Step(4, "-", 2, 2), Step(3, "-", 2, 1))
    assert CHAIN.steps("at once") == (Step(4, "-", 2, 2),)
    assert CHAIN.steps("from the left") == CHAIN.steps("step by step")
    assert CHAIN.is_asked


def test_a_chain_that_a_failing_plan_solves_is_not_asked() -> None:
    # only additions: from the right comes to the same
    assert not Chain.parse("c 1+2+3=").is_asked
    # at once: 5-2 = 3, and 5-5+5-2 = 3
    assert not Chain.parse("c 5-5+5-2=").is_asked


@given(chains)
def test_the_answer_is_the_plain_loops(chain: Chain) -> None:
    value = chain.numbers[0]
    for sign, number in zip(chain.signs, chain.numbers[1:], strict=True):
        value += number if sign == "+" else -number
    assert chain.answer == str(value % 10)
    right = chain.numbers[-1]
    for number, sign in zip(chain.numbers[-2::-1], chain.signs[::-1], strict=True):
        right = number + right if sign == "+" else number - right
    assert chain.steps("from the right")[-1].result == right % 10
    assert Chain.parse(chain.question) == chain
    assert "".join(chain.solution_steps) == chain.solution


@given(chains, st.data())
def test_slips_never_cancel_out(chain: Chain, data: st.DataObject) -> None:
    slips = data.draw(st.lists(st.booleans(), min_size=len(chain.signs), max_size=len(chain.signs)))
    value = chain.numbers[0]
    for slip, sign, number in zip(slips, chain.signs, chain.numbers[1:], strict=True):
        value = (combined(value, sign, number) + slip) % 10
    assert (str(value) == chain.answer) == (not any(slips))


def test_attempts_are_read_as_they_are_written() -> None:
    read = read_attempt(CHAIN.solution)
    assert read is not None
    assert (read.plan, read.steps, read.answer) == ("step by step", CHAIN.steps("step by step"), 7)
    once = read_attempt("at once: 2")
    assert once is not None
    assert (once.plan, once.steps, once.answer) == ("at once", (), 2)
    slipped = read_attempt("from the left: 3-4=0; so 0")
    assert slipped is not None
    assert slipped.steps == (Step(3, "-", 4, 0),)
    assert slipped.steps[0].right_result == 9


@pytest.mark.parametrize(
    "text",
    ["", "7", "at once: so 2", "at once: 3-4=9; so 9", "step by step: 7", "step by step: 3-4=9 so 9", "by step: so 7"],
)
def test_what_is_no_attempt_is_not_read(text: str) -> None:
    assert read_attempt(text) is None


@pytest.mark.parametrize("question", ["", "c 3=", "3-4=", "c 3-4", "c 3*4=", "c 12-4=", "s 12+4="])
def test_what_is_no_chain_is_refused(question: str) -> None:
    with pytest.raises(DataError, match="wanted a chain of digits such as"):
        Chain.parse(question)


def test_selected_chains_are_asked_and_their_splits_are_apart() -> None:
    found = {split: select_chains(split, 4, 60) for split in ("build", "train", "held_out")}
    questions = [c.question for chosen in found.values() for c in chosen]
    assert len(set(questions)) == 180
    assert all(c.is_asked and c.split == split and len(c.signs) == 4 for split, cs in found.items() for c in cs)
    assert select_chains("train", 4, 10) == found["train"][:10]


def test_bad_lengths_and_too_many_chains_are_refused() -> None:
    with pytest.raises(ConfigError, match="chain_length: came 2, wanted 3 to 5"):
        next(all_chains(2))
    with pytest.raises(ConfigError, match="500000 chains of length 3 were asked of the split 'train', which has"):
        select_chains("train", 3, 500_000)
