"""Paid answers on disk: kept once put, shared, and never mixed up with another program's file."""

from __future__ import annotations

import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from critique_rl.errors import DataError
from critique_rl.feedback.cache import AnswerCache, CachedAnswer
from critique_rl.types import Usage


def kept(text: str = "{}") -> CachedAnswer:
    usage = Usage(prompt_tokens=3, completion_tokens=4, cost_usd=0.1 + 0.2)
    return CachedAnswer(text=text, finish_reason="stop", model="m", usage=usage, latency_s=1 / 3)


def test_what_is_put_is_found_exactly_and_by_a_later_run(tmp_path: Path) -> None:
    path = tmp_path / "new" / "cache.sqlite"
    answer = kept("\u00fc\n\x00 \U0001f600")
    with closing(AnswerCache(path)) as cache:
        assert cache.get("k") is None and len(cache) == 0
        cache.put("k", answer)
        assert cache.get("k") == answer and len(cache) == 1
    with closing(AnswerCache(path)) as cache:
        assert cache.get("k") == answer
        assert cache.get("other") is None


def test_the_first_answer_to_a_key_stays(tmp_path: Path) -> None:
    with closing(AnswerCache(tmp_path / "c")) as cache:
        cache.put("k", kept("first"))
        cache.put("k", kept("second"))
        assert cache.get("k") == kept("first") and len(cache) == 1


def test_files_are_the_owners_alone_and_written_through(tmp_path: Path) -> None:
    path = tmp_path / "c"
    with closing(AnswerCache(path)) as cache:
        cache.put("k", kept())
        assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}
        # 2 is FULL.
        assert cache._connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert cache._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_another_programs_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "theirs.sqlite"
    with closing(sqlite3.connect(path)) as theirs:
        theirs.execute("CREATE TABLE answers (key TEXT, value TEXT)")
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"theirs\.sqlite: this is another program's database"):
        AnswerCache(path)
    assert path.read_bytes() == before


def test_what_is_no_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes\n" * 200)
    with pytest.raises(DataError, match=r"notes\.txt: the answer cache cannot be read or written: .*not a database"):
        AnswerCache(path)
    assert path.read_text() == "my notes\n" * 200
    with pytest.raises(DataError, match="cannot be opened"):
        AnswerCache(tmp_path)


def test_a_later_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c"
    AnswerCache(path).close()
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 9")
    with pytest.raises(DataError, match="version 9; this program reads 1"):
        AnswerCache(path)


def test_a_damaged_file_or_value_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "c"
    with closing(AnswerCache(path)) as cache:
        cache.put("k", kept())
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE answers SET value = '{\"text\": 1}'")
        database.commit()
    with closing(AnswerCache(path)) as cache, pytest.raises(DataError, match=r"key k: text: .*not a kept answer"):
        cache.get("k")
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)
    with closing(AnswerCache(path)) as cache, pytest.raises(DataError, match="malformed"):
        cache.get("k")


def test_threads_share_one_cache(tmp_path: Path) -> None:
    with closing(AnswerCache(tmp_path / "c")) as cache:

        def work(name: int) -> None:
            for number in range(25):
                cache.put(f"{name}-{number}", kept(str(number)))
                assert cache.get(f"{name}-{number}") == kept(str(number))

        threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(cache) == 100


WRITER = """
import sys
from pathlib import Path
from critique_rl.feedback.cache import AnswerCache, CachedAnswer
from critique_rl.types import Usage
name, count = sys.argv[2], int(sys.argv[3])
cache = AnswerCache(Path(sys.argv[1]))
for number in range(count):
    answer = CachedAnswer(text=name, finish_reason="", model="", usage=Usage(), latency_s=0.0)
    cache.put(f"{name}-{number}", answer)
    print(number, flush=True)
"""


def start(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", WRITER, str(path), name, str(count)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_processes_share_one_cache_from_its_first_moment(tmp_path: Path) -> None:
    running = [start(tmp_path / "c", f"p{n}", 40) for n in range(3)]
    for process in running:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    with closing(AnswerCache(tmp_path / "c")) as cache:
        assert len(cache) == 120
        found = cache.get("p2-39")
        assert found is not None and found.text == "p2"


def test_what_was_put_survives_a_kill(tmp_path: Path) -> None:
    process = start(tmp_path / "c", "p", 1_000_000)
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(200)]
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate(timeout=30)
    finished = [int(line) for line in "".join([*said, rest]).split("\n")[:-1]]
    assert len(finished) >= 200
    with closing(AnswerCache(tmp_path / "c")) as cache:
        assert [number for number in finished if cache.get(f"p-{number}") is None] == []
        # One more may have been committed and not yet said.
        assert len(cache) in (len(finished), len(finished) + 1)
        cache.put("after", kept())
