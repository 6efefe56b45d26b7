"""Strategic phrases out of what a run recorded, or of any file of answers, as a file that `[phases]` reads.

Owns: which texts are right solutions. Must not know: how phrases are found. A run records a few whole stories a step
([report]), and equal answers of one prompt once: what it tells is a sample of its answers, each text counted once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from critique_rl.config.phases import MiningConfig
from critique_rl.embedding.by_name import Embedder, build_embedder
from critique_rl.embedding.mining import Mined, mine
from critique_rl.errors import DataError

SAMPLES = "samples.jsonl"
_FORM = 'wanted one object a line with "text" (a string) and "correct" (true or false), or a run\'s samples.jsonl'


def mine_file(source: Path, options: MiningConfig, *, seed: int = 0, embedder: Embedder | None = None) -> Mined:
    """The strategic phrases of a run directory's right answers, or a JSONL file's.

    Errors: DataError, MissingExtraError, ModelError.
    """
    solutions = right_solutions(source)
    if not solutions:
        raise DataError(f"{source} holds no right answer to mine from; record more (report.samples_per_step, every)")
    return mine(solutions, options, embedder=embedder or build_embedder(options.embedder), seed=seed)


def right_solutions(source: Path) -> list[str]:
    """The different right answers of a file, or of all runs in a directory, in their order. Errors: DataError."""
    files = sorted(source.rglob(SAMPLES)) if source.is_dir() else [source]
    if not files:
        raise DataError(f"{source} holds no {SAMPLES}; give a run's directory, or a JSONL file")
    return list(dict.fromkeys(text for path in files for text in _right(path)))


def mined_json(mined: Mined, options: MiningConfig, *, source: str, seed: int) -> dict[str, object]:
    """What was found, as `[phases] grams` reads it, with what it was found by."""
    return {
        "grams": [" ".join(gram) for gram in mined.grams],
        "solutions_with": list(mined.frequency),
        "solutions": mined.solutions,
        "candidates": mined.candidates,
        "clusters": mined.clusters,
        "planning_share": mined.share,
        "options": options.model_dump(mode="json"),
        "seed": seed,
        "source": source,
    }


def _right(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield from _right_in(line, where=f"{path}:{number}")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def _right_in(line: str, *, where: str) -> Iterator[str]:
    try:
        row: object = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not JSON ({error.msg}); {_FORM}") from None
    if not isinstance(row, dict):
        raise DataError(f"{where} holds {row!r:.80}; {_FORM}")
    record = cast("Mapping[str, object]", row)
    attempts = record.get("attempts")
    if isinstance(attempts, list):
        for attempt in cast("Sequence[Mapping[str, object]]", attempts):
            if attempt.get("status") == "ok" and float(str(attempt.get("reward", 0))) >= 1:
                yield str(attempt["text"])
        return
    text, correct = record.get("text"), record.get("correct")
    if not isinstance(text, str) or not isinstance(correct, bool):
        raise DataError(f"{where}: text is {text!r:.60} and correct is {correct!r:.20}; {_FORM}")
    if correct:
        yield text
