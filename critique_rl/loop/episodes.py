"""Plays a batch of episodes: the policy says a turn, the environment answers, until it has nothing more to say.

Owns: how turns and tool outputs become one completion with a mask, and when an episode has no room left. Sampled ids
are never encoded again: what a tool says is appended to them. Every round samples the next turn of all live episodes
in one call. Must not know: what a turn means, rewards, training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple, Protocol, cast

from critique_rl.errors import ConfigError
from critique_rl.loop.parts import Environment
from critique_rl.loop.seeds import derive_seed
from critique_rl.protocols import Policy, RolloutEngine
from critique_rl.stats.spread import most_different
from critique_rl.types import Completion, Task, TokenIds, Turn

OnDone = Callable[[int, Completion], None]


class Hears(Protocol):
    """A policy that can be told what a tool says."""

    def encode_observation(self, text: str, *, after: int) -> TokenIds: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode(Completion):
    """A completion with the tool's ids among its own: log-prob 0 and False in `policy_mask` there.

    `text` is a transcript of words and observations in a row. `finished`: the last turn ended by an end token or a stop
    string, and got no observation; an episode that ran out of turns or room is not finished.
    """

    policy_mask: tuple[bool, ...] = ()
    turns: tuple[Turn, ...] = ()


class FirstTurns(NamedTuple):
    """Have each group of `group_size` episodes begin with the most different of `candidates` first turns."""

    group_size: int
    candidates: int


def sample_answers(
    tasks: Sequence[Task],
    prompts: Sequence[TokenIds],
    *,
    environment: Environment | None,
    policy: Policy,
    engine: RolloutEngine,
    max_tokens: int,
    temperature: float,
    seed: int,
    on_done: OnDone | None = None,
    first_turns: FirstTurns | None = None,
) -> list[Completion]:
    """One answer to each prompt, the i-th of which asks the i-th task: a completion, or with an environment an episode
    of at most `max_tokens` ids in all. `on_done(i, answer)` hears of each as soon as it has ended."""
    if environment is None:
        return engine.generate(prompts, max_tokens=max_tokens, temperature=temperature, seed=seed, on_done=on_done)
    player = _Player(environment, policy, engine, max_tokens=max_tokens, temperature=temperature, seed=seed)
    return player.play(tasks, prompts, on_done=on_done, first_turns=first_turns)


@dataclass(slots=True, kw_only=True)
class _Live:
    """An episode that goes on."""

    task: Task
    prompt: TokenIds
    room: int
    ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    mask: list[bool] = field(default_factory=list[bool])
    turns: list[Turn] = field(default_factory=list[Turn])
    closed: bool = False
    ended: bool = False
    finished: bool = False

    @property
    def left(self) -> int:
        return self.room - len(self.ids)

    def add(self, ids: Sequence[int], logprobs: Sequence[float], *, own: bool) -> None:
        self.ids += ids
        self.logprobs += logprobs
        self.mask += [own] * len(ids)


class _Player:
    def __init__(
        self,
        environment: Environment,
        policy: Policy,
        engine: RolloutEngine,
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
    ) -> None:
        self._environment = environment
        self._policy = policy
        self._hears = hearing(policy)
        self._engine = engine
        self._max_tokens = max_tokens
        self._temperature = temperature
        self._seed = seed

    def play(
        self,
        tasks: Sequence[Task],
        prompts: Sequence[TokenIds],
        *,
        on_done: OnDone | None,
        first_turns: FirstTurns | None,
    ) -> list[Completion]:
        positions = getattr(self._policy, "max_positions", None)
        bound = positions if isinstance(positions, int) else None
        episodes = [
            _Live(
                task=task,
                prompt=prompt,
                room=self._max_tokens if bound is None else max(1, min(self._max_tokens, bound - len(prompt))),
            )
            for task, prompt in zip(tasks, prompts, strict=True)
        ]
        done: dict[int, Completion] = {}
        for turn in range(self._environment.max_turns):
            live = [i for i in range(len(episodes)) if i not in done]
            if not live:
                break
            if turn == 0 and first_turns is not None:
                self._begin_apart(episodes, first_turns)
            else:
                for i, said in zip(live, self._sample([episodes[i] for i in live], turn), strict=True):
                    self._take(episodes[i], said, own=True)
            for i in live:
                self._hear(episodes[i], last=turn + 1 == self._environment.max_turns)
                if episodes[i].ended:
                    done[i] = self._whole(episodes[i])
                    if on_done is not None:
                        on_done(i, done[i])
        return [done[i] for i in range(len(episodes))]

    def _sample(self, episodes: Sequence[_Live], turn: int) -> list[Completion]:
        longest = max(episode.left for episode in episodes)
        limit = self._environment.max_turn_tokens
        prompts = [(*episode.prompt, *episode.ids) for episode in episodes]
        max_tokens = longest if limit is None else min(limit, longest)
        seed = self._seed if turn == 0 else derive_seed(self._seed, turn, "turn")
        sample = partial(self._engine.generate, max_tokens=max_tokens, temperature=self._temperature, seed=seed)
        # Not every engine that a user brings along knows of stop strings.
        return sample(prompts, stop=self._environment.stop) if self._environment.stop else sample(prompts)

    def _begin_apart(self, episodes: Sequence[_Live], first_turns: FirstTurns) -> None:
        """Give every group the most different of its candidates. Choosing has changed what they are likely to be, and
        their log-probs do not say how: these turns are played, and never trained on."""
        size, count = first_turns
        heads = episodes[::size]
        said = iter(self._sample([head for head in heads for _ in range(count)], 0))
        for g, head in enumerate(heads):
            candidates = [next(said) for _ in range(count)]
            asked = [self._call_of(head, one) for one in candidates]
            chosen = most_different(asked, size)
            left_out = [len(one.completion_ids) for i, one in enumerate(candidates) if i not in chosen]
            for k, i in enumerate(chosen):
                episode = episodes[g * size + k]
                self._take(episode, candidates[i], own=False)
                if k == 0:
                    episode.turns[-1] = replace(episode.turns[-1], discarded_tokens=sum(left_out))

    def _call_of(self, head: _Live, said: Completion) -> str:
        turn = Turn(start=0, end=len(said.completion_ids), text=said.text)
        read = self._environment.answer(head.task, [turn])
        return f"{read.action} {read.argument}" if read.action else said.text

    def _take(self, episode: _Live, said: Completion, *, own: bool) -> None:
        start, room = len(episode.ids), episode.left
        ids = said.completion_ids[:room]
        cut = len(ids) < len(said.completion_ids)
        episode.add(ids, said.behaviour_logprobs[:room], own=own)
        text = self._policy.decode(ids) if cut else said.text
        episode.turns.append(Turn(start=start, end=len(episode.ids), text=text))
        episode.closed = said.finished and not cut

    def _hear(self, episode: _Live, *, last: bool) -> None:
        """Have the environment answer, and append what it says; an episode that has no room for that ends here."""
        answered = self._environment.answer(episode.task, tuple(episode.turns))
        ids = ()
        if answered.observation and not last:
            ids = self._hears.encode_observation(answered.observation, after=episode.ids[-1])
        if ids and len(ids) < episode.left:  # the next turn needs a token at least
            episode.turns[-1] = answered
            episode.add(ids, [0.0] * len(ids), own=False)
            return
        episode.turns[-1] = replace(answered, observation="")
        episode.ended = True
        episode.finished = episode.closed and not answered.observation

    def _whole(self, episode: _Live) -> Episode:
        return Episode(
            completion_ids=tuple(episode.ids),
            behaviour_logprobs=tuple(episode.logprobs),
            text=transcript(episode.turns),
            finished=episode.finished,
            policy_mask=tuple(episode.mask),
            turns=tuple(episode.turns),
        )


def hearing(policy: Policy) -> Hears:
    """The policy as one that can be told what a tool says. Errors: ConfigError."""
    if not hasattr(policy, "encode_observation"):
        raise ConfigError(
            f"tasks: a task with a tool needs a policy that can be told what the tool says; {type(policy).__name__} "
            "has no encode_observation"
        )
    return cast(Hears, policy)


def transcript(turns: Sequence[Turn]) -> str:
    """What was said, by policy and tool, each on lines of its own: what critics, refinements and reports read."""
    return "\n".join(part for turn in turns for part in (turn.text, turn.observation) if part)
