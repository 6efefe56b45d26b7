"""The record of exchanges: written, read back, torn, and found again."""

from __future__ import annotations

import gc
import stat
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from critique_rl.errors import DataError
from critique_rl.feedback.store import Exchange, ExchangeStore, SamplingValue, StoreTotals, request_key
from critique_rl.types import CriticOutcome, Message, Usage

ASKED = (Message(role="system", content="s"), Message(role="user", content="\u00fc?"))
SAMPLING: dict[str, SamplingValue] = {"temperature": 0.3, "max_tokens": 8, "seed": None}


def key(**changes: object) -> str:
    arguments: dict[str, object] = {
        "endpoint": "h/v1",
        "model": "m",
        "messages": ASKED,
        "sampling": SAMPLING,
        **changes,
    }
    return request_key(**arguments)  # type: ignore[arg-type]


def exchange(rollout_id: str = "r1", reply: str = "{}", outcome: CriticOutcome = CriticOutcome.OK) -> Exchange:
    return Exchange(
        key=key(),
        rollout_id=rollout_id,
        critic="c",
        model="m",
        messages=ASKED,
        sampling=SAMPLING,
        outcome=outcome,
        reply=reply,
        usage=Usage(prompt_tokens=3, completion_tokens=4, cost_usd=None),
        latency_s=0.5,
    )


def test_the_key_is_sha256_of_the_canonical_json() -> None:
    # By sha256sum of the line:
    # {"endpoint":"h","messages":[["user","q"]],"model":"m","sample_index":0,"sampling":{"t":1},"version":2}
    found = request_key(endpoint="h", model="m", messages=[Message(role="user", content="q")], sampling={"t": 1})
    assert found == "a336af95467ddad40ab264f18c48466d5943bca888f59914c56a0fa62a3e23d2"


def test_the_key_changes_with_what_shapes_a_reply_and_with_nothing_else() -> None:
    changed = [
        key(endpoint="g/v1"),
        key(model="n"),
        key(messages=ASKED[1:]),
        key(sampling={**SAMPLING, "temperature": 0.4}),
        key(sample_index=1),
    ]
    assert len({key(), *changed}) == 6
    assert key(sampling=dict(reversed(SAMPLING.items()))) == key()


def test_round_trip_through_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run" / "exchanges.jsonl"
    store = ExchangeStore(path)
    written = [exchange("r1", "\u00fc\n{}"), exchange("r2", "", CriticOutcome.TIMED_OUT)]
    for one in written:
        store.append(one)
    store.close()
    assert list(ExchangeStore(path)) == written == list(store)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_rollouts_own_exchange_comes_first_then_any_with_the_key(tmp_path: Path) -> None:
    store = ExchangeStore(tmp_path / "e.jsonl")
    for rollout_id, reply in (("r1", "one"), ("r2", "two"), ("r2", "two again")):
        store.append(exchange(rollout_id, reply))
    found = [store.find(key(), rollout_id=name) for name in ("r1", "r2", "r9")]
    assert [one.reply for one in found if one] == ["one", "two again", "one"]
    assert store.find("0" * 64, rollout_id="r1") is None
    store.close()


@pytest.mark.parametrize("cut", [1, 30])
def test_a_torn_last_line_is_left_out_and_overwritten(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "e.jsonl"
    store = ExchangeStore(path)
    store.append(exchange("r1"))
    store.append(exchange("r2"))
    store.close()
    path.write_bytes(path.read_bytes()[:-cut])
    again = ExchangeStore(path)
    assert [one.rollout_id for one in again] == ["r1"]
    again.append(exchange("r3"))
    again.close()
    assert [one.rollout_id for one in ExchangeStore(path)] == ["r1", "r3"]


def test_a_bad_line_inside_is_an_error_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    store = ExchangeStore(path)
    store.append(exchange())
    store.close()
    good = path.read_bytes()
    path.write_bytes(good + b'{"key": 1}\n' + good)
    with pytest.raises(DataError, match=r"e\.jsonl, line 2: .*not a recorded exchange"):
        ExchangeStore(path)
    path.write_bytes(good.replace(b'"version": 2', b'"version": 9'))
    with pytest.raises(DataError, match="line 1: record version 9; this program reads 2"):
        ExchangeStore(path)


def test_a_missing_file_is_an_empty_store_and_is_not_made_by_reading(tmp_path: Path) -> None:
    assert len(ExchangeStore(tmp_path / "e.jsonl")) == 0
    assert not (tmp_path / "e.jsonl").exists()


def test_threads_write_whole_lines(tmp_path: Path) -> None:
    store = ExchangeStore(tmp_path / "e.jsonl")
    threads = [
        threading.Thread(target=lambda n=n: [store.append(exchange(f"{n}-{i}", "x" * 5_000)) for i in range(20)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()
    assert len(ExchangeStore(store.path)) == 80


def test_what_is_written_is_not_kept_in_memory(tmp_path: Path) -> None:
    store = ExchangeStore(tmp_path / "e.jsonl")
    tracemalloc.start()
    store.append(exchange("first"))
    before, _ = tracemalloc.get_traced_memory()
    for number in range(2_000):
        store.append(exchange(f"r{number}", "x" * 1_000))
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # 2 MB were written.
    assert after - before < 50_000
    assert len(store) == 2_001 and store.path.stat().st_size > 2_000_000
    store.close()


def test_totals_run_along_and_are_read_back(tmp_path: Path) -> None:
    store = ExchangeStore(tmp_path / "e.jsonl")
    priced = replace(exchange(), attempts=2, usage=Usage(prompt_tokens=10, completion_tokens=5, cost_usd=0.25))
    for one in (exchange(), priced):
        store.append(one)
    store.close()
    # 3 + 4 tokens without a price, 15 with one.
    wanted = StoreTotals(attempts=2, tokens=22, cost_usd=0.25, unpriced=1)
    assert store.totals == ExchangeStore(store.path).totals == wanted


def test_a_look_up_sees_what_is_appended_after_it(tmp_path: Path) -> None:
    store = ExchangeStore(tmp_path / "e.jsonl")
    assert store.find(key()) is None
    store.append(exchange("r1"))
    assert store.find(key()) == exchange("r1")
    assert store.find(key(), rollout_id="r2", own=True) is None
    assert store.find(key(), rollout_id="r1", own=True) == exchange("r1")
    store.close()


def test_a_store_that_was_closed_goes_on_where_it_was(tmp_path: Path) -> None:
    store = ExchangeStore(tmp_path / "e.jsonl")
    for name in ("r1", "r2"):
        store.append(exchange(name))
        store.close()
    assert [one.rollout_id for one in store] == ["r1", "r2"]
