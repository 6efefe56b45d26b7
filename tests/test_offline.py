"""An offline run: what is asked, what is kept, what is asked again; limits, shards, budgets, the estimate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from critique_rl import offline
from critique_rl.errors import ConfigError, DataError
from critique_rl.feedback.batch_spec import batch_spec
from critique_rl.feedback.rows import read_feedback
from critique_rl.feedback.run_record import SpentRecord
from critique_rl.feedback.spending import rest_of_budget
from critique_rl.offline import estimate_batch, run_batch
from critique_rl.types import CriticOutcome
from tests.batch_fakes import OPENAI, Reviewer, Streamer, ids, record_of, spec
from tests.servers.chat import ChatOptions, ChatServer, expected_reply


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Reviewer], Reviewer]:
    """Every critic that is built from here on is the one given."""

    def put(critic: Reviewer) -> Reviewer:
        monkeypatch.setattr(offline, "build_critic", lambda config, ask=None: critic)
        return critic

    return put


@pytest.fixture
def console() -> Console:
    return Console(quiet=True)


@pytest.mark.parametrize("kind", [Reviewer, Streamer])
def test_every_row_ends_in_input_order_and_nothing_is_asked_twice(
    tmp_path: Path, use: Callable[[Reviewer], Reviewer], console: Console, kind: type[Reviewer]
) -> None:
    critic = use(kind())
    batch = spec(tmp_path, rows=21)
    end = run_batch(batch, console=console)
    assert ids(batch.out_path) == [f"r{n}" for n in range(21)]
    assert end == (21, 0, {"ok": 21}, 0, SpentRecord(calls=21, tokens=210, cost_usd=10.5), False)
    assert record_of(batch)["state"] == "complete"
    assert critic.closed == 1
    before = batch.out_path.read_bytes()
    assert run_batch(batch, console=console) == end
    assert batch.out_path.read_bytes() == before
    assert len(critic.asked) == 21
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.jsonl", "f.run.json", "rollouts.jsonl"]


def test_only_a_window_of_rows_is_open(tmp_path: Path, use: Callable[[Reviewer], Reviewer], console: Console) -> None:
    critic = use(Streamer())
    run_batch(spec(tmp_path, rows=40), console=console)
    assert isinstance(critic, Streamer)
    assert 2 <= critic.most_open <= offline.WINDOWS * 2
    chunked = use(Reviewer())
    run_batch(spec(tmp_path, out=str(tmp_path / "g.jsonl")), console=console)
    assert max(chunked.chunks) == offline.WINDOWS * 2


def test_a_finished_row_is_in_the_file_while_others_are_open(
    tmp_path: Path, use: Callable[[Reviewer], Reviewer], console: Console
) -> None:
    seen: list[int] = []
    batch = spec(tmp_path, rows=30)
    use(Streamer(on_submit=lambda _: seen.append(len(ids(batch.out_path)) if batch.out_path.exists() else 0)))
    run_batch(batch, console=console)
    assert max(seen) > 0


@pytest.mark.parametrize("retry_failed", [False, True])
def test_only_outcomes_that_say_nothing_are_asked_again(
    tmp_path: Path, use: Callable[[Reviewer], Reviewer], console: Console, retry_failed: bool
) -> None:
    outcomes = list(CriticOutcome)
    first = use(Reviewer(lambda request: outcomes[int(request.rollout_id[1:])]))
    batch = spec(tmp_path, rows=len(outcomes))
    end = run_batch(batch, console=console)
    assert len(first.asked) == len(outcomes)
    failed = [row for row in read_feedback(batch.beside("failed.jsonl"))]
    assert end.failed == len(failed) == len(outcomes) - 2
    assert all(row.critique.reason == "because" for row in failed)
    second = use(Reviewer())
    end = run_batch(spec(tmp_path, retry_failed=retry_failed), console=console)
    again = {CriticOutcome.TIMED_OUT, CriticOutcome.RATE_LIMITED, CriticOutcome.OVER_BUDGET, CriticOutcome.FAILED}
    again |= {CriticOutcome.MALFORMED, CriticOutcome.REFUSED} if retry_failed else set()
    assert {outcomes[int(name[1:])] for name in second.asked} == again
    assert ids(batch.out_path) == [f"r{n}" for n in range(len(outcomes))]
    # What the replaced replies had cost is not forgotten: 8 first asks, and each second one.
    assert end.spent.cost_usd == 0.5 * (len(outcomes) + len(again))
    assert batch.beside("failed.jsonl").exists() is not retry_failed


def test_a_failed_file_is_an_input(tmp_path: Path, use: Callable[[Reviewer], Reviewer], console: Console) -> None:
    use(Reviewer(lambda request: CriticOutcome.FAILED if request.rollout_id == "r2" else CriticOutcome.OK))
    batch = spec(tmp_path)
    run_batch(batch, console=console)
    other = use(Reviewer())
    again = spec(tmp_path, rollouts=str(batch.beside("failed.jsonl")), out=str(tmp_path / "g.jsonl"))
    run_batch(again, console=console)
    assert other.asked == ["r2"]


def test_a_bad_row_is_refused_before_anything_is_asked(
    tmp_path: Path, use: Callable[[Reviewer], Reviewer], console: Console
) -> None:
    critic = use(Reviewer())
    batch = spec(tmp_path)
    with Path(batch.rollouts).open("a") as file:
        file.write('{"id": "bad", "question": "q"}\n')
    with pytest.raises(DataError, match=r"line 7: attempt is missing"):
        run_batch(batch, console=console)
    assert not critic.asked
    assert not batch.out_path.exists()


def test_a_limit_may_be_raised_and_shards_part_the_rows(
    tmp_path: Path, use: Callable[[Reviewer], Reviewer], console: Console
) -> None:
    critic = use(Reviewer())
    run_batch(spec(tmp_path, rows=30, limit=4), console=console)
    run_batch(spec(tmp_path, limit=7), console=console)
    assert critic.asked == [f"r{n}" for n in range(7)]
    parts: list[str] = []
    for part in (1, 2, 3):
        batch = spec(tmp_path, shard=f"{part}/3", out=str(tmp_path / f"s{part}.jsonl"))
        run_batch(batch, console=console)
        parts += ids(batch.out_path)
    assert sorted(parts) == sorted(f"r{n}" for n in range(30))
    with pytest.raises(ConfigError, match="shard"):
        run_batch(spec(tmp_path, shard="1/2", out=str(tmp_path / "s1.jsonl")), console=console)


@pytest.mark.parametrize("change", [{"temperature": 0.9}, {"model": "other"}, {"criteria": ["style"]}])
def test_another_critic_is_refused(
    tmp_path: Path, use: Callable[[Reviewer], Reviewer], console: Console, change: dict[str, object]
) -> None:
    use(Reviewer())
    run_batch(spec(tmp_path), console=console)
    with pytest.raises(ConfigError, match=rf"critic\.{next(iter(change))}.*--out"):
        run_batch(spec(tmp_path, critic={**OPENAI, **change}), console=console)


def test_what_shapes_no_reply_may_change(tmp_path: Path, use: Callable[[Reviewer], Reviewer], console: Console) -> None:
    use(Reviewer())
    run_batch(spec(tmp_path), console=console)
    run_batch(spec(tmp_path, critic={**OPENAI, "timeout_s": 5, "max_calls": 9, "parse_retries": 3}), console=console)


def test_another_input_is_refused(tmp_path: Path, use: Callable[[Reviewer], Reviewer], console: Console) -> None:
    use(Reviewer())
    batch = spec(tmp_path)
    run_batch(batch, console=console)
    Path(batch.rollouts).write_text('{"id": "r9", "question": "q", "attempt": "a"}\n')
    with pytest.raises(ConfigError, match="other content"):
        run_batch(batch, console=console)


def test_a_file_of_someone_else_is_not_overwritten(
    tmp_path: Path, use: Callable[[Reviewer], Reviewer], console: Console
) -> None:
    use(Reviewer())
    batch = spec(tmp_path)
    row = {"id": "x", "question": "q", "attempt": "a", "feedback": {"critic": "human:ann", "scores": []}}
    batch.out_path.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match="no run here wrote it"):
        run_batch(batch, console=console)
    with pytest.raises(ConfigError, match="also the input"):
        run_batch(spec(tmp_path, rollouts=batch.out), console=console)


def test_a_torn_last_line_is_asked_again(tmp_path: Path, use: Callable[[Reviewer], Reviewer], console: Console) -> None:
    critic = use(Reviewer())
    batch = spec(tmp_path)
    run_batch(batch, console=console)
    batch.out_path.write_bytes(batch.out_path.read_bytes()[:-20])
    run_batch(batch, console=console)
    assert critic.asked[6:] == ["r5"]
    assert ids(batch.out_path) == [f"r{n}" for n in range(6)]


def test_a_budget_holds_over_all_sittings() -> None:
    tree = {**OPENAI, "max_calls": 10, "max_total_tokens": 100, "max_cost_usd": 1.0}
    prices = {"usd_per_million_prompt_tokens": 1, "usd_per_million_completion_tokens": 1}
    config = batch_spec({"rollouts": "r.jsonl", "out": "f.jsonl", "critic": {**tree, **prices}}, source="t").critic
    left = rest_of_budget(config, {"openai:stub": SpentRecord(calls=4, tokens=130, cost_usd=0.25)})
    assert left.model_dump() == config.model_dump() | {"max_calls": 6, "max_total_tokens": 0, "max_cost_usd": 0.75}
    assert rest_of_budget(config, {"someone else": SpentRecord(calls=4)}) == config


def test_the_estimate_counts_what_is_still_to_ask(
    tmp_path: Path, use: Callable[[Reviewer], Reviewer], console: Console
) -> None:
    critic = use(Reviewer())
    prices = {"usd_per_million_prompt_tokens": 1, "usd_per_million_completion_tokens": 2, "max_tokens": 100}
    batch = spec(tmp_path, critic={**OPENAI, **prices})
    first = estimate_batch(batch)
    (one,) = first.critics
    assert (first.rows, first.asked, one.max_completion_tokens) == (6, 6, 600)
    # asked * 1e-6 + 600 * 2e-6
    assert one.max_cost_usd == pytest.approx(one.prompt_tokens * 1e-6 + 0.0012)
    assert not critic.asked
    assert [path.name for path in tmp_path.iterdir()] == ["rollouts.jsonl"]
    run_batch(spec(tmp_path, critic={**OPENAI, **prices}, limit=4), console=console)
    assert (estimate_batch(batch).asked, estimate_batch(batch).critics[0].max_completion_tokens) == (2, 200)
    unpriced = estimate_batch(spec(tmp_path, out=str(tmp_path / "g.jsonl")))
    assert unpriced.critics[0].max_cost_usd is None
    assert "no price known" in "\n".join(unpriced.lines())


def test_no_password_of_an_address_is_recorded(
    tmp_path: Path, use: Callable[[Reviewer], Reviewer], console: Console
) -> None:
    use(Reviewer())
    secret = {**OPENAI, "base_url": "https://ann:hunter22@host.example:8/v1?token=hunter22"}
    batch = spec(tmp_path, critic={"kind": "panel", "members": [secret, OPENAI]})
    run_batch(batch, console=console)
    assert not any(b"hunter22" in path.read_bytes() for path in tmp_path.iterdir())
    assert "https://host.example:8/v1" in batch.beside("run.json").read_text()


def test_the_policy_as_the_critic_needs_a_run_file(tmp_path: Path, console: Console) -> None:
    with pytest.raises(ConfigError, match=r"which policy.*--run"):
        run_batch(spec(tmp_path, critic={"kind": "policy"}), console=console)


def test_over_real_sockets_each_attempt_gets_its_own_reply(tmp_path: Path, console: Console) -> None:
    with ChatServer(ChatOptions(latency_s=0.005)) as server:
        batch = spec(tmp_path, rows=40, critic={**OPENAI, "base_url": server.url, "max_in_flight": 8})
        assert run_batch(batch, console=console).outcomes == {"ok": 40}
        for row in read_feedback(batch.out_path):
            assert [one.text for one in row.critique.directives] == [expected_reply(row.rollout.attempt).directive]
        # The output is lost, the answers are not.
        batch.out_path.unlink()
        end = run_batch(batch, console=console)
        assert (end.rows, end.spent.calls) == (40, 0)
        assert all(row.critique.cached for row in read_feedback(batch.out_path))
        assert server.stats().total == 40
