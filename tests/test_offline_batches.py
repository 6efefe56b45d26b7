"""A file of rollouts through a provider's batch endpoint, on loopback."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from critique_rl.critics.batch_driver import BatchLimits
from critique_rl.critics.batched import BatchedCritic
from critique_rl.errors import ConfigError, DataError
from critique_rl.feedback.batch_spec import BatchSpec
from critique_rl.feedback.cache import AnswerCache
from critique_rl.feedback.rows import read_rollouts, request_of
from critique_rl.offline_batches import BatchOptions, cancel, gather, take_result_file, write_request_file
from critique_rl.types import CriticOutcome, Critique
from tests.servers.batches import BatchServer, Script
from tests.servers.scripted_chat import chat_completion

FAST = BatchOptions(limits=BatchLimits(max_shard_lines=3, poll_s=0.01, settle_s=0.1))
NO_WAIT = BatchOptions(wait=False, limits=FAST.limits)
PRICES = {
    "usd_per_million_prompt_tokens": 1.0,
    "usd_per_million_completion_tokens": 2.0,
}


@pytest.fixture
def server() -> Iterator[BatchServer]:
    one = BatchServer()
    yield one
    one.close()


@pytest.fixture
def rollouts(tmp_path: Path) -> Path:
    """Eight rows; the last two are equal but for their ids."""
    path = tmp_path / "rollouts.jsonl"
    sums = [10, 11, 12, 13, 14, 15, 16, 16]
    rows = [
        {
            "id": f"r{number}",
            "task_id": f"t{given}",
            "question": f"What is {given} + 15?",
            "answer": str(given + 15),
            "attempt": f"{given} + 15 = {given + 5}",
            "reward": 0.0,
        }
        for number, given in enumerate(sums)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def spec(rollouts: Path, server: BatchServer, **critic: object) -> BatchSpec:
    section = {"kind": "openai", "model": "m", "base_url": server.url, **critic}
    return BatchSpec.model_validate(
        {"rollouts": str(rollouts), "out": str(rollouts.with_name("FEEDBACK.jsonl")), "critic": section}
    )


def reviewed(critic: BatchedCritic, rollouts: Path) -> list[Critique]:
    try:
        return critic.review([request_of(row, show_reference=False) for row in read_rollouts(str(rollouts))])
    finally:
        critic.close()


def test_every_row_gets_its_critique_at_half_the_price(rollouts: Path, server: BatchServer) -> None:
    half = spec(rollouts, server, batch_price_factor=0.5, **PRICES)
    gathered = gather(half, options=FAST)
    critiques = reviewed(gathered.critic(), rollouts)
    assert {critique.outcome for critique in critiques} == {CriticOutcome.OK}
    assert [critique.rollout_id for critique in critiques] == [f"r{number}" for number in range(8)]
    assert server.chat_calls == 0 and set(server.answered.values()) == {1} and len(server.answered) == 7
    # 100 prompt and 20 completion tokens: (100 x 1 + 20 x 2) / 1e6 / 2; equal rows are one request
    assert gathered.spent.cost_usd == pytest.approx(7 * 70e-6)
    assert sum(critique.usage.cost_usd or 0.0 for critique in critiques) == pytest.approx(7 * 70e-6)
    assert gathered.message() == "batches: 7 requests answered, 0 given up"


def test_without_a_batch_price_the_price_is_unknown(rollouts: Path, server: BatchServer) -> None:
    critiques = reviewed(gather(spec(rollouts, server, **PRICES), options=FAST).critic(), rollouts)
    assert critiques[0].usage.cost_usd is None and critiques[0].usage.prompt_tokens == 100


def test_a_money_budget_without_a_batch_price_is_refused(rollouts: Path, server: BatchServer) -> None:
    with pytest.raises(ConfigError, match="batch_price_factor"):
        gather(spec(rollouts, server, max_cost_usd=1.0, **PRICES), options=FAST)
    assert not server.files


def test_answers_lie_where_the_online_critic_finds_them(rollouts: Path, server: BatchServer) -> None:
    from critique_rl.critics.openai_compatible import openai_critic

    one = spec(rollouts, server)
    gather(one, options=FAST)
    cache = AnswerCache(one.beside("cache.sqlite"))
    assert one.critic.kind == "openai"
    critic = openai_critic(one.critic, cache=cache)
    critiques = critic.review([request_of(row, show_reference=False) for row in read_rollouts(str(rollouts))])
    critic.close()
    cache.close()
    assert all(critique.cached and critique.outcome is CriticOutcome.OK for critique in critiques)
    assert server.chat_calls == 0


def test_submit_now_and_collect_later(rollouts: Path, server: BatchServer) -> None:
    server.script.polls = 2
    first = gather(spec(rollouts, server), options=NO_WAIT)
    assert not first.report.finished and "3 under way with 7 requests" in first.message()
    second = gather(spec(rollouts, server), options=NO_WAIT)
    third = gather(spec(rollouts, server), options=NO_WAIT)
    assert not second.report.finished and third.report.finished
    assert len(server.batches) == 3
    assert {critique.outcome for critique in reviewed(third.critic(), rollouts)} == {CriticOutcome.OK}


def test_a_second_run_sends_nothing(rollouts: Path, server: BatchServer) -> None:
    gather(spec(rollouts, server), options=FAST)
    again = gather(spec(rollouts, server), options=FAST)
    assert again.report.finished and len(server.batches) == 3


def test_a_lost_cache_is_paid_for_again_and_nothing_else_is(rollouts: Path, server: BatchServer) -> None:
    one = spec(rollouts, server)
    gather(one, options=FAST)
    with sqlite3.connect(one.beside("cache.sqlite")) as database:
        key = database.execute("SELECT min(key) FROM answers").fetchone()[0]
        database.execute("DELETE FROM answers WHERE key = ?", (key,))
    database.close()
    gather(one, options=FAST)
    assert server.answered[key] == 2 and sum(server.answered.values()) == 8


def test_malformed_and_failed_answers_are_outcomes_with_reasons(rollouts: Path, server: BatchServer) -> None:
    def answer(body: dict[str, object]) -> dict[str, object]:
        text = json.dumps(body["messages"])
        if "What is 10 +" in text:
            return chat_completion("no idea what you mean")
        return chat_completion(finish_reason="content_filter") if "What is 11 +" in text else chat_completion()

    server.answer = answer
    gathered = gather(spec(rollouts, server), options=FAST)
    critiques = reviewed(gathered.critic(), rollouts)
    assert [critique.outcome for critique in critiques[:3]] == [
        CriticOutcome.MALFORMED,
        CriticOutcome.REFUSED,
        CriticOutcome.OK,
    ]
    assert critiques[1].reason and critiques[0].reply == "no idea what you mean"
    assert server.chat_calls == 0
    gather(spec(rollouts, server), options=FAST)
    assert len(server.batches) == 3  # a refusal is not asked about again


def test_what_failed_is_sent_again_by_the_next_run_but_not_by_a_poll(rollouts: Path, server: BatchServer) -> None:
    server.script = Script(end="failed")
    gathered = gather(spec(rollouts, server), options=FAST)
    assert gathered.report.counts.failed == 7 and len(server.batches) == 9  # three files, three attempts each
    assert {critique.outcome for critique in reviewed(gathered.critic(), rollouts)} == {CriticOutcome.FAILED}
    server.script = Script()
    assert gather(spec(rollouts, server), options=FAST).report.counts.answered == 7


def test_only_the_part_that_was_asked_for(rollouts: Path, server: BatchServer) -> None:
    few = spec(rollouts, server).model_copy(update={"limit": 2})
    assert gather(few, options=FAST).report.counts.answered == 2


def test_rows_with_feedback_are_left_alone(rollouts: Path, server: BatchServer) -> None:
    from critique_rl.feedback.rows import FeedbackRow, feedback_to_json

    one = spec(rollouts, server)
    row = next(iter(read_rollouts(str(rollouts))))
    done = Critique(rollout_id=row.id, critic="openai:m", outcome=CriticOutcome.ABSTAINED)
    one.out_path.write_text(json.dumps(feedback_to_json(FeedbackRow(rollout=row, critique=done))) + "\n")
    assert gather(one, options=FAST).report.counts.answered == 6


def test_an_interrupt_leaves_batches_running_or_ends_them(
    rollouts: Path, server: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.script = Script(polls=99)
    said: list[str] = []

    def interrupt(line: str) -> None:
        said.append(line)
        if "3 submitted" in line and sum("interrupted" in text for text in said) == 0:
            said.append("interrupted")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gather(spec(rollouts, server), options=FAST, say=interrupt)
    assert "go on" in said[-1]
    assert {batch["status"] for batch in server.batches.values()} == {"validating"}
    said.clear()

    def interrupt_while_polling(line: str) -> None:
        said.append(line)
        if "lines done" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        options = BatchOptions(cancel_on_exit=True, limits=FAST.limits)
        gather(spec(rollouts, server), options=options, say=interrupt_while_polling)
    assert {batch["status"] for batch in server.batches.values()} == {"cancelled"}
    assert "cancelled" in said[-1]


def test_cancelling_from_outside(rollouts: Path, server: BatchServer) -> None:
    server.script = Script(polls=99, leave_out=9)
    gather(spec(rollouts, server), options=NO_WAIT)
    assert cancel(spec(rollouts, server)) == 3
    assert {batch["status"] for batch in server.batches.values()} == {"cancelled"}
    server.script = Script()
    assert gather(spec(rollouts, server), options=FAST).report.counts.answered == 7


def test_a_critic_without_a_server_has_no_batches(rollouts: Path, server: BatchServer) -> None:
    scripted = BatchSpec.model_validate(
        {
            "rollouts": str(rollouts),
            "out": str(rollouts.with_name("FEEDBACK.jsonl")),
            "critic": {"kind": "scripted", "replies": ["x"]},
        }
    )
    with pytest.raises(ConfigError, match="no batch endpoint"):
        gather(scripted)


def test_the_key_is_in_none_of_the_files(rollouts: Path, server: BatchServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "very-secret-9876")
    server.answer = lambda _body: chat_completion("very-secret-9876 is what you sent")
    one = spec(rollouts, server)
    said: list[str] = []
    critiques = reviewed(gather(one, options=FAST, say=said.append).critic(), rollouts)
    write_request_file(one, rollouts.with_name("requests.jsonl"))
    assert "Bearer very-secret-9876" in server.keys
    for file in rollouts.parent.iterdir():
        assert b"very-secret" not in file.read_bytes(), file
    assert "very-secret" not in repr((said, critiques)) and "[redacted]" in critiques[0].reply


def test_by_way_of_files_as_a_local_batch_runner_does_it(rollouts: Path, server: BatchServer) -> None:
    """Results as vLLM's runner writes them: one file, errors inline and nested twice, no body."""
    one = spec(rollouts, server)
    requests, results = rollouts.with_name("requests.jsonl"), rollouts.with_name("results.jsonl")
    assert write_request_file(one, requests) == 7
    lines = [json.loads(line) for line in requests.read_text().splitlines()]
    assert {(line["method"], line["url"]) for line in lines} == {("POST", "/v1/chat/completions")}
    assert lines[0]["body"]["model"] == "m" and len(lines[0]["custom_id"]) == 64
    ok = [
        {
            "id": "vllm-1",
            "custom_id": line["custom_id"],
            "response": {"status_code": 200, "request_id": "q", "body": chat_completion()},
            "error": None,
        }
        for line in lines[1:6]
    ]
    overflow = {"error": {"message": "maximum context length exceeded", "type": "BadRequestError", "code": 400}}
    bad = {
        "id": "vllm-2",
        "custom_id": lines[0]["custom_id"],
        "response": {"status_code": 400, "request_id": "q", "body": None},
        "error": {"error": overflow},
    }
    stranger = {**ok[0], "custom_id": "from another run"}
    results.write_text("".join(json.dumps(line) + "\n" for line in [*reversed(ok), bad, stranger, ok[0]]))
    taken = take_result_file(one, results)
    assert taken[:6] == (5, 1, 1, 1, 0, 1)
    critiques = reviewed(taken.critic(), rollouts)
    assert [critique.outcome.value for critique in critiques] == ["failed", *["ok"] * 5, "failed", "failed"]
    assert "longer than the model's context" in critiques[0].reason
    assert "no answer" in critiques[7].reason
    assert write_request_file(one, requests) == 2  # only what is still wanted
    assert server.chat_calls == 0


def test_two_processes_do_not_work_on_one_output(rollouts: Path, server: BatchServer) -> None:
    one = spec(rollouts, server)

    def meddle(_line: str) -> None:
        with pytest.raises(DataError, match="another process"):
            gather(one, options=FAST)

    gather(one, options=FAST, say=meddle)


def test_progress_tells_what_happens(rollouts: Path, server: BatchServer) -> None:
    said: list[str] = []
    gather(spec(rollouts, server), options=FAST, say=said.append)
    assert "batch 1 submitted [0 of 7 answered]" in said
    assert said[-1].startswith("batch 3 done: 1 answers, 0 lines without one [7 of 7 answered]")
