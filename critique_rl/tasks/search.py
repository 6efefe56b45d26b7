"""Questions that are answered by searching a corpus: the task source, and the tool that answers the policy's calls.

Owns: how a call is written and read, what the tool says to it, and what an episode loses for how it was played.
Must not know: policies, tokens, what judges an answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypedDict, cast

from critique_rl.errors import ConfigError, DataError
from critique_rl.tasks.corpus import Document
from critique_rl.tasks.order import epoch_batch, held_apart, split_by_prompt
from critique_rl.tasks.rows import parse_row, read_rows
from critique_rl.types import Task, Turn

SEARCH, ANSWER = "search", "answer"


class Index(Protocol):
    """What finds documents."""

    def search(self, query: str, k: int) -> list[Document]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """How the policy writes its calls, and what the tool says; `show` writes one document found. `spaced`: the tool's
    tags stand apart from its words, for a tokenizer that knows whole words only."""

    search: str = "search"
    answer: str = "answer"
    result: str = "result"
    nothing: str = "No document has any of these words. Try other ones."
    malformed: str = ""
    show: Callable[[Document], str] | None = None
    spaced: bool = False

    @property
    def help(self) -> str:
        """What the tool says where it could read no call."""
        return self.malformed or (
            f"No call could be read. Write <{self.search}>words to look for</{self.search}> to search, or "
            f"<{self.answer}>your answer</{self.answer}> to answer."
        )

    @property
    def answer_pattern(self) -> str:
        """A regular expression whose one group is the answer."""
        return rf"(?s)<{self.answer}>(.*?)</{self.answer}>"


class EpisodeOptions(TypedDict):
    """What every kind of task with a tool can set."""

    max_turns: int
    max_turn_tokens: int | None
    no_answer_penalty: float
    malformed_penalty: float


class SearchEnvironment:
    """`loop.parts.Environment` over an index: the first complete call of a turn counts, an answer ends the episode.

    A turn without a call is told so (action ""). A repeated query gets the same documents again: what it was stands in
    `Turn.argument`, where the diversity of queries is read. `no_answer_penalty` is taken from the reward of an episode
    that ends without an answer, `malformed_penalty` for every turn without a call: what is judged by F1 learns to avoid
    answers unless the actions themselves cost something (arXiv 2602.19526; known to us from its abstract only).
    `stop_at_calls` ends a turn with the tag that closes a call: what came after it would be no part of any call.
    Errors: ConfigError for tags that are equal.
    """

    def __init__(
        self,
        index: Index,
        *,
        top_k: int = 3,
        max_turns: int = 4,
        max_turn_tokens: int | None = None,
        wording: Wording | None = None,
        max_result_chars: int | None = None,
        no_answer_penalty: float = 0.0,
        malformed_penalty: float = 0.0,
        stop_at_calls: bool = True,
    ) -> None:
        self._index = index
        self._top_k = top_k
        self.max_turns = max_turns
        self.max_turn_tokens = max_turn_tokens
        self._wording = wording or Wording()
        self.stop = (f"</{self._wording.search}>", f"</{self._wording.answer}>") if stop_at_calls else ()
        self._max_result_chars = max_result_chars
        self._no_answer_penalty = no_answer_penalty
        self._malformed_penalty = malformed_penalty
        tags = (self._wording.search, self._wording.answer, self._wording.result)
        if len(set(tags)) < len(tags):
            raise ConfigError(f"tasks: the tags {list(tags)} must differ, or no call could be told from another")
        calls = f"{re.escape(tags[0])}|{re.escape(tags[1])}"
        self._call = re.compile(rf"<({calls})>((?:(?!</?(?:{calls})>).)*)</\1>", re.DOTALL)
        self._tags = re.compile(rf"</?(?:{calls}|{re.escape(tags[2])})\b[^>]*>")

    def answer(self, task: Task, turns: Sequence[Turn]) -> Turn:
        """The last turn with what was read from its words and what the tool says; an answer gets no observation."""
        turn = turns[-1]
        found = self._call.search(turn.text)
        argument = " ".join(found[2].split()) if found else ""
        if found is None or not argument:
            return replace(turn, action="", observation=self._within(self._wording.help))
        if found[1] == self._wording.answer:
            return replace(turn, action=ANSWER, argument=argument)
        documents = self._index.search(argument, self._top_k)
        return replace(
            turn,
            action=SEARCH,
            argument=argument,
            observation=self.told(documents),
            documents=tuple(document.id for document in documents),
        )

    def find(self, query: str) -> str:
        """What the tool says to a search for `query`."""
        return self.told(self._index.search(query, self._top_k))

    def told(self, documents: Sequence[Document]) -> str:
        """The tool's words about what was found."""
        if not documents:
            return self._within(self._wording.nothing)
        return "\n".join(map(self._shown, documents))

    def penalty(self, task: Task, turns: Sequence[Turn]) -> float:
        """What an episode that is not right loses, 0 or more."""
        unread = sum(turn.action == "" for turn in turns)
        avoided = not turns or turns[-1].action != ANSWER
        return self._malformed_penalty * unread + self._no_answer_penalty * avoided

    def _shown(self, document: Document) -> str:
        if self._wording.show is not None:
            return self._wording.show(document)
        # A document that holds the tool's own tags could end its result or seem to be a call.
        text = f"{document.title}\n{document.text}" if document.title else document.text
        while self._tags.search(text):  # what is left around a tag that was taken out can be another one
            text = self._tags.sub("", text)
        tag, limit = self._wording.result, self._max_result_chars
        cut = text if limit is None or len(text) <= limit else f"{text[:limit].rstrip()}..."
        return f'<{tag} id="{document.id}">{cut}</{tag}>'

    def _within(self, text: str) -> str:
        tag, space = self._wording.result, " " if self._wording.spaced else ""
        return f"<{tag}>{space}{text}{space}</{tag}>"


SYSTEM = (
    "Answer the question by searching. Write <{search}>words to look for</{search}> and stop: the tool then shows "
    "what it found. Search again as often as you need. When you know the answer, write "
    "<{answer}>your answer</{answer}>."
)
"""What the policy is told of the calls unless `tasks.system` says otherwise."""
QUESTION = "question"


class SearchTasks:
    """A `TaskSource` over questions in JSONL: rows as `tasks.rows` reads them, where `question` may stand for `prompt`.

    Evaluation uses the rows of `held_out_path`, or `held_out_fraction` of the questions in `path`. No held-out question
    is ever trained on. Errors: DataError with file and line.
    """

    def __init__(
        self,
        path: Path,
        *,
        verifier: str,
        held_out_path: Path | None = None,
        held_out_fraction: float = 0.0,
        system: str = "",
    ) -> None:
        rows = read_questions(path, verifier=verifier, system=system)
        if held_out_path is None:
            self._train, self._held_out = split_by_prompt(rows, held_out_fraction)
            return
        self._train, self._held_out = held_apart(
            rows,
            read_questions(held_out_path, verifier=verifier, system=system),
            told=lambda task, row: (
                f"held-out row {task.id!r} of {held_out_path} asks what row {row.id!r} of {path} asks"
            ),
        )

    def batch(self, step: int, size: int, *, seed: int) -> Sequence[Task]:
        """`size` different training questions; a pure function of (seed, step, size)."""
        return epoch_batch(self._train, step, size, seed=seed)

    def training(self) -> Sequence[Task]:
        """Every question that is trained on."""
        return self._train

    def held_out(self) -> Sequence[Task]:
        """The questions kept for evaluation, in file order."""
        return self._held_out


def read_questions(path: Path, *, verifier: str, system: str = "") -> list[Task]:
    """Every row of a file of questions, in order. Errors: DataError naming the file, the line and what was wanted."""

    def read(line: bytes, where: str, number: int) -> Task:
        row = _as_prompt(line, where)
        return parse_row(row, where, default_id=f"{path.stem}:{number}", verifier=verifier, system=system)

    return read_rows(path, read, wanted='{"question": "...", "answer": "..."} a line')


def _as_prompt(line: bytes, where: str) -> bytes:
    """The row with its `question` called `prompt`; any other line as it is, for its reader to judge."""
    try:
        value: object = json.loads(line)
    except (ValueError, RecursionError):
        return line
    if not isinstance(value, dict) or QUESTION not in value:
        return line
    row = dict(cast("dict[str, object]", value))
    if "prompt" in row or "messages" in row:
        raise DataError(f"{where}: wanted exactly one of question, prompt and messages")
    return json.dumps({"prompt": row.pop(QUESTION), **row}).encode()
