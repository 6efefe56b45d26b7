"""The journal of a batch run: order, repair, one writer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from critique_rl.errors import DataError
from critique_rl.feedback.journal import FeedbackJournal, only_writer
from critique_rl.feedback.rows import feedback_to_json
from tests.batch_fakes import ids, spec

ROOT = Path(__file__).parents[2]


def test_a_second_process_fails_at_once(tmp_path: Path) -> None:
    out = tmp_path / "f.jsonl"
    code = (
        "from pathlib import Path\nfrom critique_rl.feedback.journal import only_writer\n"
        f"with only_writer(Path({str(out)!r})): pass"
    )
    with only_writer(out):
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
        assert "another process is writing this output" in done.stderr
    with only_writer(out):
        assert (tmp_path / "f.jsonl.lock").exists()
    assert not (tmp_path / "f.jsonl.lock").exists()


def test_the_journal_rewrites_in_order_and_refuses_a_row_twice(tmp_path: Path) -> None:
    source = spec(tmp_path, rows=3)
    path = tmp_path / "j.jsonl"
    rows = []
    for line in Path(source.rollouts).read_text().splitlines():
        rows.append({**json.loads(line), "feedback": {"critic": "c", "scores": []}})
    path.write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)) + "\n")
    journal = FeedbackJournal(path)
    journal.rewrite(["r0", "r1", "r2", "elsewhere"])
    assert ids(path) == ["r0", "r1", "r2"]
    first = next(iter(journal))
    with pytest.raises(DataError, match="there already"):
        journal.append(first)
    journal.rewrite(["r2", "r1"])
    journal.append(first)
    journal.close()
    assert ids(path) == ["r2", "r1", "r0"]
    assert feedback_to_json(first)["id"] == "r0"
