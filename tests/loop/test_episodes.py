"""Episodes: one call a round, ids never re-encoded, masks at the tool's words, and every way to end."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from critique_rl.errors import ConfigError
from critique_rl.loop.episodes import Episode, FirstTurns, sample_answers, transcript
from critique_rl.types import Completion, Task
from tests.loop.episode_fakes import Echo, HearingPolicy, Saying, by_turn
from tests.loop.fakes import END, CharPolicy, decode, encode, task


def play(
    engine: Saying,
    count: int,
    *,
    environment: Echo | None = None,
    policy: HearingPolicy | None = None,
    max_tokens: int = 60,
    first_turns: FirstTurns | None = None,
    heard: list[int] | None = None,
) -> list[Episode]:
    size = 1 if first_turns is None else first_turns.group_size
    tasks: list[Task] = [task(str(i // size)) for i in range(count)]
    answers = sample_answers(
        tasks,
        [encode(f"{i // size}:") for i in range(count)],
        environment=environment or Echo(),
        policy=policy or HearingPolicy(),
        engine=engine,
        max_tokens=max_tokens,
        temperature=1.0,
        seed=5,
        on_done=None if heard is None else lambda i, _: heard.append(i),
        first_turns=first_turns,
    )
    found = [answer for answer in answers if isinstance(answer, Episode)]
    assert len(found) == count
    return found


def test_every_round_samples_all_live_episodes_in_one_call() -> None:
    engine, heard = Saying(by_turn(["cat", "DONE"], ["A"], ["dog", "fox", "B"])), list[int]()
    episodes = play(engine, 3, heard=heard)
    assert [len(prompts) for prompts, _, _ in engine.calls] == [3, 2, 1]
    assert heard == [1, 0, 2]
    assert [e.text for e in episodes] == ["cat\nCAT\nDONE", "A", "dog\nDOG\nfox\nFOX\nB"]
    assert [e.finished for e in episodes] == [True, True, True]
    assert len({seed for _, _, seed in engine.calls}) == 3
    assert engine.calls[0][2] == 5


def test_the_next_turn_is_sampled_behind_the_very_ids_before_it() -> None:
    policy = HearingPolicy()
    engine = Saying(by_turn(["cat", "dog", "DONE"]))
    (episode,) = play(engine, 1, policy=policy)
    whole = (*encode("0:"), *episode.completion_ids)
    for prompts, _, _ in engine.calls:
        assert whole[: len(prompts[0])] == prompts[0]
    assert decode(engine.calls[2][0][0]) == "0:cat[CAT]dog[DOG]"
    assert episode.completion_ids == (*encode("cat"), END, *encode("[CAT]dog"), END, *encode("[DOG]DONE"), END)
    assert policy.after == [END, END]


def test_the_tools_words_are_masked_and_have_no_log_prob() -> None:
    (episode,) = play(Saying(by_turn(["cat", "DONE"])), 1)
    said = [decode([i]) if own else "." for i, own in zip(episode.completion_ids, episode.policy_mask, strict=True)]
    assert "".join(said) == "cat.....DONE"  # the end tokens decode to nothing
    tool = [x for x, own in zip(episode.behaviour_logprobs, episode.policy_mask, strict=True) if not own]
    assert tool == [0.0] * 5
    first, second = episode.turns
    assert [(t.start, t.end, t.text) for t in (first, second)] == [(0, 4, "cat"), (9, 14, "DONE")]
    assert (first.action, first.argument, first.observation, first.documents) == ("search", "cat", "CAT", ("CAT",))
    assert (second.action, second.observation) == ("answer", "")


def test_an_episode_without_an_answer_ends_with_its_last_turn() -> None:
    (episode,) = play(Saying(by_turn(["a", "b", "c"])), 1, environment=Echo(max_turns=2))
    assert [t.text for t in episode.turns] == ["a", "b"]
    assert not episode.finished
    assert episode.turns[-1].documents == ("B",)
    assert episode.turns[-1].observation == ""
    assert decode(episode.completion_ids) == "a[A]b"


def test_words_without_a_call_are_answered_and_recorded() -> None:
    (episode,) = play(Saying(by_turn(["huh?", "A"])), 1)
    assert (episode.turns[0].action, episode.turns[0].observation) == ("", "what")
    assert episode.finished


def test_a_turn_that_is_cut_off_is_answered_but_an_answer_so_cut_is_not_finished() -> None:
    (episode,) = play(Saying(by_turn(["cat~", "DONE~"])), 1)
    assert episode.completion_ids == (*encode("cat[CAT]DONE"),)
    assert [t.action for t in episode.turns] == ["search", "answer"]
    assert not episode.finished


@pytest.mark.parametrize(
    ("max_tokens", "said", "finished"),
    [
        (3, "cat", False),  # the turn itself is cut
        (9, "cat", False),  # cat, end and [CAT] are 9 ids: none is left for another turn
        (10, "cat[CAT]D", False),
        (13, "cat[CAT]DONE", False),
        (14, "cat[CAT]DONE", True),
    ],
)
def test_an_episode_ends_where_its_room_ends(max_tokens: int, said: str, finished: bool) -> None:
    (episode,) = play(Saying(by_turn(["cat", "DONE"])), 1, max_tokens=max_tokens)
    assert decode(episode.completion_ids) == said
    assert len(episode.completion_ids) <= max_tokens
    assert episode.finished is finished


def test_the_models_positions_bound_an_episode_too() -> None:
    engine = Saying(by_turn(["cat", "DONE"]))
    (episode,) = play(engine, 1, policy=HearingPolicy(max_positions=12))  # the prompt takes 2
    assert len(episode.completion_ids) == 10
    assert engine.calls[0][1] == 10


def test_a_turn_has_a_bound_of_its_own() -> None:
    engine = Saying(by_turn(["cat", "DONE"]))
    (episode,) = play(engine, 1, environment=Echo(max_turn_tokens=2))
    assert [limit for _, limit, _ in engine.calls] == [2, 2]
    assert [t.text for t in episode.turns] == ["ca", "DO"]


def test_rooms_of_their_own_are_kept_though_one_call_samples_all() -> None:
    # A long first turn leaves little for the second; the call asks for what the roomiest episode may have.
    engine = Saying(by_turn(["a", "x" * 20], ["a" * 12, "x" * 20]))
    short, long = play(engine, 2, max_tokens=30)
    assert len(short.completion_ids) == 26
    assert decode(long.completion_ids) == "a" * 12 + "[" + "A" * 12 + "]" + "xxx"
    assert len(long.completion_ids) == 30
    assert not long.finished
    assert long.turns[-1].text == "xxx"


def test_without_an_environment_the_engine_alone_is_asked() -> None:
    engine, heard = Saying(lambda prompt, i: f"{prompt}{i}"), list[int]()
    answers = sample_answers(
        [task("a"), task("b")],
        [encode("p"), encode("q")],
        environment=None,
        policy=CharPolicy(),
        engine=engine,
        max_tokens=7,
        temperature=1.0,
        seed=3,
        on_done=lambda i, _: heard.append(i),
    )
    assert engine.calls == [([encode("p"), encode("q")], 7, 3)]
    assert [type(answer) for answer in answers] == [Completion, Completion]
    assert heard == [0, 1]


def test_a_policy_that_cannot_hear_is_refused() -> None:
    with pytest.raises(ConfigError, match="CharPolicy has no encode_observation"):
        sample_answers(
            [task("a")],
            [encode("p")],
            environment=Echo(),
            policy=CharPolicy(),
            engine=Saying(lambda *_: "A"),
            max_tokens=7,
            temperature=1.0,
            seed=3,
        )


def test_divinit_begins_a_group_with_its_most_different_candidates() -> None:
    queries = ["red cat", "red cat", "red dog", "blue fish"]  # of each group; red cat and blue fish share no word
    answers = iter([*queries, *queries])
    engine = Saying(lambda prompt, _: next(answers) if prompt.endswith(":") else "A")
    episodes = play(engine, 4, first_turns=FirstTurns(2, 4))
    assert [len(prompts) for prompts, _, _ in engine.calls] == [8, 4]
    assert [e.turns[0].text for e in episodes] == ["red cat", "blue fish"] * 2
    first = episodes[0].turns[0]
    assert not any(episodes[0].policy_mask[first.start : first.end])
    assert episodes[0].behaviour_logprobs[0] == -0.5
    last = episodes[0].turns[-1]
    assert all(episodes[0].policy_mask[last.start : last.end])
    # "red cat" and "red dog" with an end token each were sampled for nothing, once for each group
    assert [[t.discarded_tokens for t in e.turns] for e in episodes] == [[16, 0], [0, 0], [16, 0], [0, 0]]


def test_a_transcript_says_who_said_what_in_order() -> None:
    (episode,) = play(Saying(by_turn(["cat", "DONE"])), 1)
    assert transcript(episode.turns) == episode.text == "cat\nCAT\nDONE"


WORDS = st.sampled_from(["a", "cat", "?", "B", "DONE", "long words here", "cut~"])


@settings(deadline=None, max_examples=60)
@given(
    scripts=st.lists(st.lists(WORDS, min_size=4, max_size=4), min_size=1, max_size=5),
    max_tokens=st.integers(1, 40),
    max_turns=st.integers(1, 4),
    turn_tokens=st.none() | st.integers(1, 9),
)
def test_what_holds_of_every_episode(
    scripts: Sequence[Sequence[str]], max_tokens: int, max_turns: int, turn_tokens: int | None
) -> None:
    environment = Echo(max_turns=max_turns, max_turn_tokens=turn_tokens)
    engine = Saying(by_turn(*scripts))
    for episode in play(engine, len(scripts), environment=environment, max_tokens=max_tokens):
        length = len(episode.completion_ids)
        assert 1 <= length <= max_tokens
        assert len(episode.behaviour_logprobs) == len(episode.policy_mask) == length
        spans = [t for turn in episode.turns for t in range(turn.start, turn.end)]
        assert spans == [t for t, own in enumerate(episode.policy_mask) if own]
        assert 1 <= len(episode.turns) <= max_turns
        assert all(turn.observation for turn in episode.turns[:-1])
        assert episode.turns[-1].observation == ""
        assert episode.policy_mask[-1]
        assert not episode.finished or episode.completion_ids[-1] == END
        assert not episode.finished or episode.turns[-1].action == "answer"
    assert len(engine.calls) <= max_turns
