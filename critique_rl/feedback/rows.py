"""Rollouts and feedback as rows: flat JSON objects that programs and people can both write.

Owns: the keys of a row and their defaults. Must not know: critics, where feedback is used.
A rollout needs id, question (or messages) and attempt; feedback needs critic, and directives or scores if it is ok.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar, cast

from critique_rl.errors import DataError
from critique_rl.feedback.critique_json import critique_from_json, critique_to_json
from critique_rl.feedback.fields import Fields, shown, without_defaults
from critique_rl.feedback.row_sources import source_rows
from critique_rl.types import CriticRequest, Critique, Message, Score, ScoreStatus, Task, TokenIds

ROLLOUT_KEYS = (
    *("id", "task_id", "question", "messages", "answer", "verifier", "kind", "metadata", "attempt"),
    *("reward", "status", "extracted", "detail", "finished", "policy", "policy_version", "temperature"),
    *("prompt_ids", "completion_ids", "behaviour_logprobs", "objectives", "confidence", "confidence_start"),
)
ROW_KEYS = (*ROLLOUT_KEYS, "feedback")
UNVERIFIED = Score(reward=0.0, status=ScoreStatus.ERROR)
"""The score of an attempt that nobody verified: it contradicts no verdict and is no evidence."""
_ROLES = ("system", "user", "assistant")
_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRow:
    """One attempt as a row. `score` is None if nobody verified it; `policy` names the model that sampled it at
    `temperature`; `behaviour_logprobs` has one entry per completion id (nats)."""

    id: str
    task: Task
    attempt: str
    score: Score | None = None
    finished: bool = True
    policy: str = ""
    policy_version: int = 0
    temperature: float | None = None
    prompt_ids: TokenIds = ()
    completion_ids: TokenIds = ()
    behaviour_logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackRow:
    """One attempt with what a critic, or a person, said about it."""

    rollout: RolloutRow
    critique: Critique


def read_rollouts(source: str, *, limit: int | None = None) -> Iterator[RolloutRow]:
    """The rows of a .jsonl or .parquet file or of "hub:owner/name[:split]", ids checked to differ. Raises DataError."""
    return islice(_rows(source, ROLLOUT_KEYS, rollout_from_json, _rollout_id, skip_torn=False), limit)


def read_feedback(path: Path) -> Iterator[FeedbackRow]:
    """The rows of a feedback file; a last line that was cut off while it was written is left out. Raises DataError."""
    return _rows(str(path), ROW_KEYS, feedback_from_json, _feedback_id, skip_torn=True)


def request_of(row: RolloutRow, *, show_reference: bool) -> CriticRequest:
    """What a critic may see of a row; an attempt that nobody verified contradicts no verdict."""
    return CriticRequest(
        rollout_id=row.id,
        task=row.task,
        attempt=row.attempt,
        score=row.score or UNVERIFIED,
        reference=row.task.answer if show_reference and row.task.answer else None,
    )


def rollout_from_json(value: Mapping[str, object], *, where: str) -> RolloutRow:
    """One object as a rollout; what a feedback row has besides is passed over. Raises DataError."""
    fields = Fields(value, where, known=ROW_KEYS)
    row_id = fields.text("id", empty=False)
    ids, logprobs = fields.integers("completion_ids"), fields.numbers("behaviour_logprobs")
    if len(logprobs) not in (0, len(ids)):
        fields.refuse("behaviour_logprobs", f"one number per completion id ({len(ids)}), or leave it out")
    return RolloutRow(
        id=row_id,
        task=Task(
            id=fields.text("task_id", row_id, empty=False),
            messages=_messages(fields, value),
            answer=fields.text("answer", ""),
            verifier=fields.text("verifier", "exact", empty=False),
            kind=fields.text("kind", ""),
            metadata=fields.texts("metadata"),
        ),
        attempt=fields.text("attempt"),
        score=_score(fields),
        finished=fields.flag("finished", True),
        policy=fields.text("policy", ""),
        policy_version=fields.integer("policy_version", 0),
        temperature=fields.optional_number("temperature"),
        prompt_ids=fields.integers("prompt_ids"),
        completion_ids=ids,
        behaviour_logprobs=logprobs,
    )


def rollout_to_json(row: RolloutRow) -> dict[str, object]:
    """The object that `rollout_from_json` reads back; defaults are left out."""
    task, score = row.task, row.score
    asked: dict[str, object] = (
        {"question": task.question}
        if len(task.messages) == 1 and task.question
        else {"messages": [{"role": turn.role, "content": turn.content} for turn in task.messages]}
    )
    verified: dict[str, object] = {}
    if score is not None:
        verified = {"reward": score.reward, "status": score.status.value}
        told: dict[str, object] = {"extracted": score.extracted, "detail": score.detail}
        told |= {"objectives": dict(score.objectives), "confidence": score.confidence}
        told |= {"confidence_start": score.confidence_start}
        verified |= without_defaults(told, (None, "", {}))
    optional: dict[str, object] = {
        "answer": task.answer,
        "verifier": "" if task.verifier == "exact" else task.verifier,
        "kind": task.kind,
        "metadata": dict(task.metadata),
        "policy": row.policy,
        "temperature": row.temperature,
        "prompt_ids": list(row.prompt_ids),
        "completion_ids": list(row.completion_ids),
        "behaviour_logprobs": list(row.behaviour_logprobs),
    }
    return {
        "id": row.id,
        "task_id": task.id,
        **asked,
        "attempt": row.attempt,
        **verified,
        "finished": row.finished,
        "policy_version": row.policy_version,
        **without_defaults(optional, ("", None, [], {})),
    }


def feedback_from_json(value: Mapping[str, object], *, where: str) -> FeedbackRow:
    """One object as a rollout with its feedback. Raises DataError."""
    rollout = rollout_from_json(value, where=where)
    feedback = value.get("feedback")
    if not isinstance(feedback, Mapping):
        raise DataError(
            f"{where}: feedback is {'missing or null' if feedback is None else shown(feedback)}; wanted an object such "
            'as {"critic": "human:ann", "directives": [{"text": "Carry the one."}]}'
        )
    critique = critique_from_json(cast("Mapping[str, object]", feedback), where, path="feedback", rollout_id=rollout.id)
    return FeedbackRow(rollout=rollout, critique=critique)


def feedback_to_json(row: FeedbackRow) -> dict[str, object]:
    """The object that `feedback_from_json` reads back; defaults are left out."""
    return {**rollout_to_json(row.rollout), "feedback": critique_to_json(row.critique)}


def _rows(
    source: str,
    columns: tuple[str, ...],
    read: Callable[..., _Row],
    id_of: Callable[[_Row], str],
    *,
    skip_torn: bool,
) -> Iterator[_Row]:
    first_seen: dict[str, str] = {}
    for found in source_rows(source, columns):
        if found.torn and skip_torn:
            return
        if found.error is not None:
            raise found.error
        row = read(found.value, where=found.where)
        row_id = id_of(row)
        if row_id in first_seen:
            raise DataError(f"{found.where}: id {row_id!r} is also that of {first_seen[row_id]}; ids must differ")
        first_seen[row_id] = found.where.removeprefix(source).lstrip(", ")
        yield row


def _rollout_id(row: RolloutRow) -> str:
    return row.id


def _feedback_id(row: FeedbackRow) -> str:
    return row.rollout.id


def _messages(fields: Fields, value: Mapping[str, object]) -> tuple[Message, ...]:
    if ("question" in fields) == ("messages" in fields):
        came = "both" if "question" in fields else "neither"
        raise DataError(f"{fields.where}: wanted one of question (a text) and messages (a list of turns); got {came}")
    if "question" in fields:
        return (Message(role="user", content=fields.text("question", empty=False)),)
    turns = fields.objects("messages", lambda turn, path: _turn(turn, path, fields.where))
    if not turns or turns[-1].role != "user" or not turns[-1].content.strip():
        fields.refuse("messages", "turns of which the last is a user turn that is not empty")
    return turns


def _turn(value: Mapping[str, object], path: str, where: str) -> Message:
    turn = Fields(value, where, known=("role", "content"), prefix=f"{path}.")
    role = turn.one_of("role", _ROLES, "")
    return Message(role=cast('Literal["system", "user", "assistant"]', role), content=turn.text("content"))


def _score(fields: Fields) -> Score | None:
    if "reward" not in fields:
        told = ("status", "extracted", "detail", "objectives", "confidence", "confidence_start")
        stray = next((key for key in told if key in fields), None)
        return None if stray is None else fields.refuse("reward", f"a number from 0 to 1, because the row has {stray}")
    status = fields.one_of("status", [status.value for status in ScoreStatus], ScoreStatus.OK.value)
    if "confidence_start" in fields and "confidence" not in fields:
        fields.refuse("confidence", "a number from 0 to 1, because the row has confidence_start")
    return Score(
        reward=fields.number("reward", low=-1.0, high=1.0),
        status=ScoreStatus(status),
        extracted=fields.optional_text("extracted"),
        detail=fields.text("detail", ""),
        objectives=_objectives(fields),
        confidence=fields.optional_number("confidence", high=1.0),
        confidence_start=fields.optional_integer("confidence_start"),
    )


def _objectives(fields: Fields) -> dict[str, float]:
    """An object of finite numbers; null entries, which tables make of missing ones, are left out."""
    named = {name: item for name, item in fields.object("objectives").items() if item is not None}
    found: dict[str, float] = {}
    for name, item in named.items():
        if isinstance(item, bool) or not isinstance(item, (int, float)) or not abs(item) <= sys.float_info.max:
            fields.refuse("objectives", "an object of finite numbers")
        found[name] = float(item)
    return found
