"""What a policy of the search world does: success by kind, which name it asks by, and what many tries together reach.

Owns: a plain sampler of episodes and the figures made of them. Must not know: the loop, engines, how documents are
found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from critique_rl.lab.measure import LabPolicy, sample
from critique_rl.lab.search.corpus import MAX_TURNS
from critique_rl.lab.search.world import HOPS, MALFORMED, NOTHING, REGISTERS, Hop, Person

MAX_TURN_TOKENS = 8
_CALL = re.compile(r"<(?P<tag>search|answer)>\s*(?P<argument>[^<]*?)\s*</(?P=tag)>")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchMeasurement:
    """Rates of episodes at temperature 1: `success` and `solved_once` (any sample of a question right) by kind.

    `first_name` are the shares of first queries that are the person's given, family or nick name alone; `repeated` is
    how many of the queries after an empty result say the same again.
    """

    success: Mapping[str, float]
    solved_once: Mapping[str, float]
    first_name: Mapping[str, float]
    repeated: float
    episodes: int


def measure_searches(
    policy: LabPolicy, people: Sequence[Person], *, find: Callable[[str], str], samples: int, seed: int
) -> SearchMeasurement:
    """The figures of `samples` episodes for each question about each of `people`."""
    asked: list[tuple[Person, Hop]] = [(person, hop) for hop in HOPS for person in people for _ in range(samples)]
    played = play_all(policy, [person.question(hop) for person, hop in asked], find=find, seed=seed)
    right = [
        bool(calls) and calls[-1] == ("answer", person.answer(hop))
        for (person, hop), calls in zip(asked, played, strict=True)
    ]
    by_kind = {hop: [ok for (_, other), ok in zip(asked, right, strict=True) if other == hop] for hop in HOPS}
    firsts = [
        REGISTERS[person.names.index(calls[0][1])]
        for (person, _), calls in zip(asked, played, strict=True)
        if calls and calls[0][0] == "search" and calls[0][1] in person.names
    ]
    after_nothing = [
        b == a for calls in played for a, b in pairwise(calls) if a[0] == b[0] == "search" and _empty(find(a[1]))
    ]
    groups = {hop: [oks[i : i + samples] for i in range(0, len(oks), samples)] for hop, oks in by_kind.items()}
    return SearchMeasurement(
        success={hop: sum(oks) / len(oks) for hop, oks in by_kind.items()},
        solved_once={hop: sum(map(any, of)) / len(of) for hop, of in groups.items()},
        first_name={name: firsts.count(name) / len(asked) for name in REGISTERS},
        repeated=sum(after_nothing) / max(1, len(after_nothing)),
        episodes=len(asked),
    )


def play_all(
    policy: LabPolicy, questions: Sequence[str], *, find: Callable[[str], str], seed: int
) -> list[list[tuple[str, str]]]:
    """One episode a question: its calls, each ("search" or "answer", argument), or ("", words) without a call."""
    contexts = list(questions)
    calls: list[list[tuple[str, str]]] = [[] for _ in questions]
    live = list(range(len(questions)))
    for turn in range(MAX_TURNS):
        said = sample(policy, [contexts[i] for i in live], max_tokens=MAX_TURN_TOKENS, seed=seed * MAX_TURNS + turn)
        going_on: list[int] = []
        for i, text in zip(live, said, strict=True):
            found = _CALL.search(text)
            calls[i].append((found["tag"], found["argument"]) if found else ("", text))
            if found and found["tag"] == "answer":
                continue
            reply = find(found["argument"]) if found else f"<result> {MALFORMED} </result>"
            contexts[i] += f" {text} <eos> {reply}"
            going_on.append(i)
        live = going_on
    return calls


def _empty(reply: str) -> bool:
    return reply.split()[1:2] == [NOTHING]
