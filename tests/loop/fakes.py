"""A policy of characters, builders of records, and a tracker that remembers: one seam each, all in plain Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from critique_rl.engines.scripted import ScriptedEngine
from critique_rl.prompting.template import parse_template
from critique_rl.protocols import StepReport
from critique_rl.types import (
    Array,
    CriticOutcome,
    Critique,
    Directive,
    Evaluative,
    Group,
    Knobs,
    Message,
    Rollout,
    Score,
    ScoreStatus,
    Task,
    TeacherTargets,
    TokenIds,
    TrainSample,
)

END = 0
TEMPLATE = parse_template(
    '+++\nname = "x"\nversion = 1\ndescription = "d"\ninputs = ["question", "directive"]\n+++\n'
    "{{ question }} {{ directive }}\n",
    source="x",
)


def encode(text: str) -> TokenIds:
    return tuple(ord(c) for c in text)


def decode(ids: Sequence[int]) -> str:
    return "".join(chr(i) for i in ids if i != END)


class CharPolicy:
    """One id per character. `mean_logprob` gives the bare log-prob of every token of a completion's text."""

    def __init__(self, mean_logprob: Callable[[str], float] = lambda _: -1.0) -> None:
        self.version = 0
        self.mean_logprob = mean_logprob
        self.scored: list[tuple[str, str]] = []
        self.topk_calls: list[tuple[str, list[str], list[str], bool]] = []
        self.trained: list[list[TrainSample]] = []
        self.knobs: list[Knobs] = []

    def encode(self, messages: Sequence[Message]) -> TokenIds:
        return encode("\n".join(f"{m.role}: {m.content}" for m in messages))

    def encode_completion(self, text: str) -> TokenIds:
        return (*encode(text), END)

    def decode(self, ids: Sequence[int]) -> str:
        return decode(ids)

    def logprobs(self, prompts: Sequence[TokenIds], completions: Sequence[TokenIds]) -> list[Array]:
        self.scored += [(decode(p), decode(c)) for p, c in zip(prompts, completions, strict=True)]
        return [np.full(len(c), self.mean_logprob(decode(c))) for c in completions]

    def topk_logprobs(
        self,
        contexts: Sequence[TokenIds],
        completions: Sequence[TokenIds],
        *,
        k: int,
        who: Literal["policy", "teacher"],
        support: Sequence[TeacherTargets] | None = None,
    ) -> list[TeacherTargets]:
        """Uniform over K ids: 1, 2, ... for the policy and 101, 102, ... for the teacher, unless `support` is given."""
        self.topk_calls.append((who, [decode(c) for c in contexts], [decode(c) for c in completions], bool(support)))
        first = 1 if who == "policy" else 101
        own = [np.tile(np.arange(first, first + k, dtype=np.int64), (len(c), 1)) for c in completions]
        ids = own if support is None else [s.ids_TK for s in support]
        return [
            TeacherTargets(
                ids_TK=ids_TK,
                logprobs_TK=np.full(ids_TK.shape, -np.log(k)),
                sampled_logprobs_T=np.full(len(c), -np.log(k)),
                mask_T=np.ones(len(c)),
                context_ids=context,
            )
            for ids_TK, context, c in zip(ids, contexts, completions, strict=True)
        ]

    def step(self, samples: Sequence[TrainSample], *, refresh_teacher: bool | None = None) -> StepReport:
        self.version += 1
        self.trained.append(list(samples))
        return StepReport(1.0, 1.0, 0.0, 0.0, 0.5, 8, True, "", {})

    def set_knobs(self, knobs: Knobs) -> None:
        self.knobs.append(knobs)

    def save(self, directory: Path) -> None:
        (directory / "weights.txt").write_text(str(self.version))

    def restore(self, directory: Path) -> None:
        self.version = int((directory / "weights.txt").read_text())


class ExactReward:
    """1 for the task's answer, unparsed for "?", a verifier error for "!"; counts what it is asked."""

    def score(self, task: Task, text: str) -> Score:
        if text == "!":
            return Score(reward=0.0, status=ScoreStatus.ERROR)
        if text == "?":
            return Score(reward=0.0, status=ScoreStatus.UNPARSED)
        return Score(reward=float(text == task.answer), extracted=text, detail="checked")


class Memory:
    """A tracker that keeps all it is told, in order."""

    def __init__(self) -> None:
        self.logs: list[tuple[int, Mapping[str, float]]] = []
        self.events: list[tuple[int, str, str]] = []
        self.samples: list[tuple[int, Mapping[str, object]]] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.logs.append((step, values))

    def event(self, step: int, kind: str, message: str) -> None:
        self.events.append((step, kind, message))

    def sample(self, step: int, record: Mapping[str, object]) -> None:
        self.samples.append((step, record))

    def close(self) -> None:
        pass

    def steps(self) -> list[Mapping[str, float]]:
        """What was logged of whole steps, without evaluations."""
        return [values for _, values in self.logs if "loss/total" in values]


def engine(*texts: str) -> ScriptedEngine:
    """Answers the i-th prompt of every call with `texts[i]`, over and over."""
    return ScriptedEngine(lambda _, i: texts[i % len(texts)], encode, end_id=END)


def task(name: str = "t", *, answer: str = "42", question: str = "6*7=", kind: str = "", system: str = "") -> Task:
    turns = (Message(role="system", content=system),) if system else ()
    return Task(
        id=name,
        messages=(*turns, Message(role="user", content=question)),
        answer=answer,
        verifier="exact",
        kind=kind,
    )


def group(of: Task, *texts: str, plateaued: bool = True, reward: ExactReward | None = None) -> Group:
    """A group of finished rollouts "t/0", "t/1", ... with these texts, each verified."""
    prompt = CharPolicy().encode(of.messages)
    rollouts = tuple(
        Rollout(
            id=f"{of.id}/{i}",
            task_id=of.id,
            prompt_ids=prompt,
            completion_ids=(*encode(text), END),
            behaviour_logprobs=(-1.0,) * (len(text) + 1),
            text=text,
            finished=True,
            policy_version=0,
        )
        for i, text in enumerate(texts)
    )
    scores = tuple((reward or ExactReward()).score(of, text) for text in texts)
    return Group(task=of, rollouts=rollouts, scores=scores, plateaued=plateaued)


def critique(rollout_id: str, text: str = "Add the ones first.", outcome: CriticOutcome = CriticOutcome.OK) -> Critique:
    said = (Directive(text=text),) if outcome is CriticOutcome.OK and text else ()
    scores = (Evaluative(criterion="correctness", value=0.25),) if outcome is CriticOutcome.OK else ()
    return Critique(rollout_id=rollout_id, critic="c", outcome=outcome, directives=said, evaluative=scores)
