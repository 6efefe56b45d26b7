"""Turns that end at a stop string: closed as by an end token, answered, and never with a word behind the call."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from critique_rl.engines.scripted import ScriptedEngine
from critique_rl.loop.episodes import Episode, FirstTurns, sample_answers
from critique_rl.protocols import RolloutEngine
from critique_rl.tasks.corpus import Document
from critique_rl.tasks.search import SearchEnvironment
from critique_rl.types import Completion, TokenIds
from tests.loop.episode_fakes import Echo, HearingPolicy, Saying, by_turn
from tests.loop.fakes import END, decode, encode, task
from tests.tiny import BOS, EOS, TEMPLATE, V, tiny_engine, tiny_policy


class Recording:
    """Another engine, with the options of each call remembered."""

    def __init__(self, engine: RolloutEngine) -> None:
        self.engine = engine
        self.options: list[dict[str, object]] = []

    def generate(
        self,
        prompts: Sequence[TokenIds],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        on_done: Callable[[int, Completion], None] | None = None,
        **options: Sequence[str],
    ) -> list[Completion]:
        self.options.append(dict(options))
        return self.engine.generate(
            prompts, max_tokens=max_tokens, temperature=temperature, seed=seed, on_done=on_done, **options
        )


def play(
    *turns: str, max_tokens: int = 60, stop: tuple[str, ...] = ("!",), max_turns: int = 3
) -> tuple[Episode, HearingPolicy, Recording]:
    policy = HearingPolicy()
    say = by_turn(turns)
    engine = Recording(ScriptedEngine(lambda prompt, i: say(decode(prompt), i), encode, end_id=END))
    (answer,) = sample_answers(
        [task("0")],
        [encode("0:")],
        environment=Echo(stop=stop, max_turns=max_turns),
        policy=policy,
        engine=engine,
        max_tokens=max_tokens,
        temperature=1.0,
        seed=5,
    )
    assert isinstance(answer, Episode)
    return answer, policy, engine


def test_what_would_follow_a_call_is_not_said() -> None:
    episode, policy, engine = play("cat![DOG] so it is a dog", "DONE! and more")
    assert decode(episode.completion_ids) == "cat![CAT!]DONE!"
    assert episode.completion_ids == encode("cat![CAT!]DONE!")  # no end token anywhere
    assert [t.text for t in episode.turns] == ["cat!", "DONE!"]
    assert [t.action for t in episode.turns] == ["search", "answer"]
    assert episode.finished
    assert policy.after == [ord("!")]  # so that the template closes the turn
    assert engine.options == [{"stop": ("!",)}] * 2
    assert [decode([i]) for i, own in zip(episode.completion_ids, episode.policy_mask, strict=True) if not own] == list(
        "[CAT!]"
    )


def test_turns_that_end_by_themselves_are_as_ever() -> None:
    with_stop, policy, _ = play("cat", "DONE")
    without, _, _ = play("cat", "DONE", stop=())
    assert with_stop == without
    assert policy.after == [END]


def test_engines_hear_of_stop_strings_only_where_there_are_some() -> None:
    _, _, engine = play("cat", "DONE", stop=())
    assert engine.options == [{}, {}]


def test_an_answer_of_one_turn_has_none() -> None:
    engine = Recording(Saying(lambda prompt, i: "A"))
    sample_answers(
        [task("a")],
        [encode("p")],
        environment=None,
        policy=HearingPolicy(),
        engine=engine,
        max_tokens=7,
        temperature=1.0,
        seed=3,
    )
    assert engine.options == [{}]


@pytest.mark.parametrize(
    ("max_tokens", "said", "finished"),
    [
        (4, "cat!", False),  # the stop takes the last id of the room: the observation finds none
        (10, "cat!", False),  # cat! and [CAT!] are 10 ids: none is left for another turn
        (14, "cat![CAT!]DONE", False),
        (15, "cat![CAT!]DONE!", True),
    ],
)
def test_a_stop_at_the_edge_of_the_room(max_tokens: int, said: str, finished: bool) -> None:
    episode, _, _ = play("cat!x", "DONE!x", max_tokens=max_tokens)
    assert decode(episode.completion_ids) == said
    assert episode.finished is finished


def test_a_last_turn_that_stops_at_a_search_is_not_finished() -> None:
    episode, _, _ = play("cat!x", "dog!x", max_turns=2)
    assert decode(episode.completion_ids) == "cat![CAT!]dog!"
    assert not episode.finished


def test_chosen_first_turns_stop_too() -> None:
    queries = iter(["red cat!x", "red cat!x", "red dog!x", "blue fish!x"])
    engine = Recording(
        ScriptedEngine(lambda prompt, i: next(queries) if decode(prompt) == "0:" else "A!", encode, end_id=END)
    )
    found = sample_answers(
        [task("0"), task("0")],
        [encode("0:")] * 2,
        environment=Echo(stop=("!",)),
        policy=HearingPolicy(),
        engine=engine,
        max_tokens=60,
        temperature=1.0,
        seed=5,
        first_turns=FirstTurns(2, 4),
    )
    assert [answer.turns[0].text for answer in found if isinstance(answer, Episode)] == ["red cat!", "blue fish!"]
    assert engine.options == [{"stop": ("!",)}] * 2


class Shelf:
    def search(self, query: str, k: int) -> list[Document]:
        return [Document("d", f"about {query}")]


def test_a_call_is_read_up_to_the_tag_that_ended_its_turn() -> None:
    say = iter(
        [
            "I search. <search>red cats</search>\n<result>a dog</result><answer>dog</answer>",
            "</search>",  # closes nothing: the tool says how calls are written
            "<answer>cat</answer> or <answer>dog</answer>",
        ]
    )
    policy = HearingPolicy()
    (episode,) = sample_answers(
        [task("0")],
        [encode("0:")],
        environment=SearchEnvironment(Shelf()),
        policy=policy,
        engine=ScriptedEngine(lambda prompt, i: next(say), encode, end_id=END),
        max_tokens=600,
        temperature=1.0,
        seed=5,
    )
    assert isinstance(episode, Episode)
    assert [(t.action, t.argument) for t in episode.turns] == [("search", "red cats"), ("", ""), ("answer", "cat")]
    assert episode.turns[0].text.endswith("red cats</search>")
    assert "a dog" not in episode.text
    assert policy.after == [ord(">")] * 2
    assert episode.finished


class Ears:
    """Says w10 to whatever is said, and ends turns at whatever it is told to."""

    max_turns = 3
    max_turn_tokens = 6

    def __init__(self, stop: Sequence[str]) -> None:
        self.stop = stop

    answer = Echo(max_turns=3).answer
    penalty = Echo().penalty


def test_through_a_chat_template_a_stopped_turn_is_closed_for_the_policy_and_not_learned() -> None:
    policy = tiny_policy(chat_template=TEMPLATE)
    stop = ["w1", "w2"]  # every word from w10 to w29
    prompts: list[TokenIds] = [(BOS, 5, EOS, 4), (BOS, 6, 7, EOS, 4), (BOS, 8, EOS, 4)]
    episodes = sample_answers(
        [task(str(i)) for i in range(3)],
        prompts,
        environment=Ears(stop),
        policy=policy,
        engine=tiny_engine(policy),
        max_tokens=60,
        temperature=1.0,
        seed=5,
    )
    scored = policy.logprobs(prompts, [e.completion_ids for e in episodes])
    closed_by_the_tool = 0
    for episode, logprobs_T in zip(episodes, scored, strict=True):
        assert isinstance(episode, Episode)
        own = np.asarray(episode.policy_mask)
        np.testing.assert_allclose(np.asarray(episode.behaviour_logprobs)[own], logprobs_T[own], atol=2e-6)
        for turn, following in zip(episode.turns, episode.turns[1:], strict=False):
            said = episode.completion_ids[turn.start : turn.end]
            heard = episode.completion_ids[turn.end : following.start]
            stopped = [i for i in said if 10 <= i < 30]
            assert stopped == ([said[-1]] if stopped else [])
            if said[-1] == EOS:
                assert heard[0] == BOS
            else:
                closed_by_the_tool += 1
                assert heard[:2] == (EOS, BOS)
            assert heard[-2:] == (EOS, 4)
            assert set(said) <= set(range(V))
            assert not any(episode.policy_mask[turn.end : following.start])
    assert closed_by_the_tool >= 3
