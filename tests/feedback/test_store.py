"""The record of exchanges: written, read back, torn, and found again."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from critique_rl.errors import DataError
from critique_rl.feedback.store import Exchange, ExchangeStore, SamplingValue, request_key
from critique_rl.types import CriticOutcome, Message, Usage

ASKED = (Message(role="system", content="s"), Message(role="user", content="\u00fc?"))
SAMPLING: dict[str, SamplingValue] = {"temperature": 0.3, "max_tokens": 8, "seed": None}


def key(**changes: object) -> str:
    arguments: dict[str, object] = {"critic": "c", "model": "m", "messages": ASKED, "sampling": SAMPLING, **changes}
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
    # {"critic":"c","messages":[["user","q"]],"model":"m","sample_index":0,"sampling":{"t":1},"version":1}
    found = request_key(critic="c", model="m", messages=[Message(role="user", content="q")], sampling={"t": 1})
    assert found == "cff12c466e5fbf5f71185c5d5c7e94ddd0a8433091aecd683dff31f20be8e7ec"


def test_the_key_changes_with_what_shapes_a_reply_and_with_nothing_else() -> None:
    changed = [
        key(critic="d"),
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
    path.write_bytes(good.replace(b'"version": 1', b'"version": 9'))
    with pytest.raises(DataError, match="line 1: record version 9; this program reads 1"):
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
