"""Stop strings where we sample ourselves: the cut of what is sampled without them, and no pass more than needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from critique_rl.engines.continuous import ContinuousEngine
from critique_rl.engines.local import LocalEngine, as_completion
from critique_rl.engines.stopping import StopStrings
from critique_rl.errors import ModelError
from critique_rl.policy.hf import HFPolicy
from critique_rl.types import Completion, TokenIds
from tests.tiny import EOS, PAD, tiny_engine, tiny_policy, tiny_tokenizer

PROMPTS: list[TokenIds] = [(4, 5, 6), (7,), (8, 9, 10, 11, 12, 13), (7, 14), (15, 4, 5), (6,), (9, 9)]
ENDS = (EOS, 20, 21, 22)
ROOM = 9


def hf(policy: HFPolicy, batch_size: int) -> LocalEngine:
    return tiny_engine(policy, end_ids=ENDS, batch_size=batch_size)


def continuous(policy: HFPolicy, batch_size: int) -> LocalEngine:
    return ContinuousEngine(
        policy.model, policy.tokenizer, policy.accelerator, end_ids=ENDS, batch_size=batch_size, memory_share=0.5
    )


Made = Callable[[HFPolicy, int], LocalEngine]
BOTH = pytest.mark.parametrize("made", [hf, continuous])


def sample(engine: LocalEngine, stop: Sequence[str] = (), *, temperature: float = 1.0) -> list[Completion]:
    return engine.generate(PROMPTS, max_tokens=ROOM, temperature=temperature, seed=3, stop=stop)


def cut(whole: Completion, stop: Sequence[str], policy: HFPolicy) -> Completion:
    """What is left of a completion, prefix by prefix."""
    for count in range(1, len(whole.completion_ids) + 1):
        ids = whole.completion_ids[:count]
        if any(one in policy.decode(ids) for one in stop):
            return Completion(
                completion_ids=ids,
                behaviour_logprobs=whole.behaviour_logprobs[:count],
                text=policy.decode(ids),
                finished=True,
            )
    return whole


def expect_equal(found: list[Completion], wanted: list[Completion]) -> None:
    assert [(c.completion_ids, c.text, c.finished) for c in found] == [
        (c.completion_ids, c.text, c.finished) for c in wanted
    ]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one.behaviour_logprobs, other.behaviour_logprobs, atol=2e-6)


@BOTH
@pytest.mark.parametrize("batch_size", [1, 3, 50])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["inside a token", "across tokens", "two", "first token"])
def test_it_is_the_cut_of_what_is_sampled_without(made: Made, batch_size: int, temperature: float, kind: str) -> None:
    policy = tiny_policy()
    whole = sample(made(policy, 4), temperature=temperature)
    words = [c.text.split() for c in whole]
    across = next(f"{row[1]} {row[2]}"[1:-1] for row in words if len(row) > 3)
    stop = {
        "inside a token": ("w3",),
        "across tokens": (across,),
        "two": (across, "5"),
        "first token": (words[0][0],),
    }[kind]
    wanted = [cut(c, stop, policy) for c in whole]
    assert wanted != whole  # something was cut, or this says nothing
    expect_equal(sample(made(policy, batch_size), stop, temperature=temperature), wanted)


@BOTH
def test_the_token_that_ends_it_is_kept_whole(made: Made) -> None:
    stopped = [c for c in sample(made(tiny_policy(), 4), ["w1", "w2", "w3"]) if c.completion_ids[-1] not in ENDS]
    assert any(len(word) > 2 and c.text.endswith(word) for c in stopped for word in c.text.split()[-1:])


@BOTH
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_is_never_met_changes_nothing_at_all(made: Made, temperature: float) -> None:
    policy = tiny_policy()
    plain = sample(made(policy, 4), temperature=temperature)
    assert sample(made(policy, 4), ["</search>"], temperature=temperature) == plain
    assert sample(made(policy, 4), [], temperature=temperature) == plain


@BOTH
def test_prompts_are_not_looked_at(made: Made) -> None:
    policy = tiny_policy()
    plain = sample(made(policy, 4))
    # Where the prompt ends and the completion begins, and within the prompt (0: w4 w5 w6).
    seam = f"w6 {plain[0].text.split()[0]}"
    assert seam not in plain[0].text
    expect_equal(sample(made(policy, 4), [seam, "w4 w5 w6"]), [cut(c, [seam, "w4 w5 w6"], policy) for c in plain])


@BOTH
def test_rows_of_a_larger_call_stop_as_in_the_whole(made: Made) -> None:
    policy = tiny_policy()
    whole = sample(made(policy, 3), ["w3", "5"])
    rows = [5, 0, 2]
    part = made(policy, 3).generate_rows(
        [PROMPTS[i] for i in rows], rows, max_tokens=ROOM, temperature=1.0, seed=3, stop=["w3", "5"]
    )
    expect_equal(part, [whole[i] for i in rows])


@BOTH
def test_nothing_is_computed_beyond_the_last_stop(made: Made) -> None:
    policy = tiny_policy()
    engine = made(policy, 50)
    stops = ["w", "<"]  # every token has one of these, unless it is special, and then it ends or goes on
    lengths = [len(c.completion_ids) for c in sample(engine, stops)]
    passes: list[int] = []
    forward = policy.model.forward
    policy.model.forward = lambda **kwargs: (passes.append(1), forward(**kwargs))[1]  # pyright: ignore
    sample(engine, stops)
    assert len(passes) == max(lengths) < ROOM


@BOTH
def test_log_probs_are_the_trainers(made: Made) -> None:
    policy = tiny_policy()
    completions = sample(made(policy, 3), ["w3", "5"])
    scored = policy.logprobs(PROMPTS, [c.completion_ids for c in completions])
    for completion, logprobs_T in zip(completions, scored, strict=True):
        np.testing.assert_allclose(completion.behaviour_logprobs, logprobs_T, atol=2e-6)


@BOTH
def test_a_stop_string_that_says_nothing_is_refused(made: Made) -> None:
    with pytest.raises(ValueError, match="leave it out"):
        sample(made(tiny_policy(), 3), ["w3", ""])


@BOTH
def test_sampling_with_stop_strings_leaves_the_global_random_state_alone(made: Made) -> None:
    engine = made(tiny_policy(), 3)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = sample(engine, ["w3"])
    assert torch.equal(torch.get_rng_state(), before)
    assert sample(engine, ["w3"]) == first


def made_of(ids: Sequence[int], logprobs: Sequence[float], *stop: str) -> Completion:
    tokenizer = tiny_tokenizer()
    stops = StopStrings(stop, lambda ids: tokenizer.decode(list(ids), skip_special_tokens=True))  # pyright: ignore
    return as_completion(ids, logprobs, (EOS, 20), tokenizer, stops)


@pytest.mark.parametrize(
    ("ids", "stop", "kept", "finished"),
    [
        ((5, 6, 7), (), 3, False),
        ((5, EOS, 7), (), 2, True),
        ((5, 6, EOS, PAD), ("w6",), 2, True),  # before the end token
        ((5, EOS, 6, 7), ("w6",), 2, True),  # the end token comes first: what follows is not looked at
        ((5, 20, 6), ("w20",), 2, True),  # both at once
        ((5, 6, PAD, PAD), ("w6",), 2, True),
        ((PAD, 5, 6), ("w5",), 2, True),
        ((5, 6, 7), ("w8",), 3, False),
    ],
)
def test_a_row_ends_with_its_first_end_or_stop(
    ids: tuple[int, ...], stop: tuple[str, ...], kept: int, finished: bool
) -> None:
    logprobs = [-0.25 * (t + 1) for t in range(len(ids))]
    found = made_of(ids, logprobs, *stop)
    assert (found.completion_ids, found.behaviour_logprobs) == (ids[:kept], tuple(logprobs[:kept]))
    assert found.finished is finished
    assert found.text == " ".join(f"w{i}" for i in ids[:kept] if i > 3)


def test_log_probs_behind_the_end_are_nobodys_and_those_before_it_must_be_finite() -> None:
    assert made_of((5, 6, 7), (-1.0, -1.0, float("nan")), "w6").finished
    with pytest.raises(ModelError, match="logits are not finite"):
        made_of((5, 6, 7), (-1.0, float("nan"), -1.0), "w6")
