"""The state machine against real sockets, with a service that misbehaves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from critique_rl.critics.batch_driver import BatchEvent, BatchLimits
from critique_rl.critics.batch_files import BatchLine
from critique_rl.critics.batches import BatchStatus
from critique_rl.errors import CriticError, CriticSetupError
from critique_rl.net import Budget
from critique_rl.types import CriticOutcome
from tests.servers.batch_bench import TEN, Bench, Fatal, Killed
from tests.servers.batches import BatchServer, Script


@pytest.fixture
def server() -> Iterator[BatchServer]:
    one = BatchServer()
    yield one
    one.close()


@pytest.fixture
def bench(tmp_path: Path, server: BatchServer) -> Bench:
    return Bench(tmp_path / "FEEDBACK.batches.sqlite", server)


def test_ten_lines_go_in_three_files_and_come_back_at_their_price(bench: Bench) -> None:
    report = bench.process()
    bench.check_all_answered_once()
    assert report.finished and report.counts == (0, 0, 10, 0)
    assert len(bench.server.batches) == 3
    assert bench.kept[TEN[0].key].usage.cost_usd == pytest.approx(120e-6)


def test_a_submission_whose_answer_was_lost_is_found_not_repeated(bench: Bench) -> None:
    bench.server.script.drop_after_create = 2
    bench.process()
    bench.check_all_answered_once()


def test_a_submission_that_never_arrived_is_made_again_once_it_has_had_its_time(bench: Bench) -> None:
    bench.server.script.drop_before_create = 1
    bench.process()
    bench.check_all_answered_once()
    assert sum(wait for wait in bench.clock.waits if wait <= 5.0) >= bench.limits.settle_s


def test_a_late_batch_is_found_though_the_first_look_missed_it(bench: Bench) -> None:
    """The service makes the batch only after the client has given the connection up."""
    bench.server.script.drop_before_create = 1
    made: list[str] = []
    wait = bench.clock.sleep

    def sleep(seconds: float) -> None:
        if not made:
            file_id = next(iter(bench.server.files))
            body: dict[str, object] = {
                "input_file_id": file_id,
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
                "metadata": wanted[0],
            }
            made.append(str(bench.server.create(body)["id"]))
        wait(seconds)

    wanted: list[object] = []

    class Spy(Fatal):
        def submit(self, file_id: str, metadata: Mapping[str, str]) -> str:
            wanted.append(dict(metadata))
            return super().submit(file_id, metadata)

    bench.clock.sleep = sleep  # type: ignore[method-assign]
    bench.process(wrap=lambda backend: Spy(backend, [0]))
    bench.check_all_answered_once()


def test_uploads_that_fail_and_submissions_that_come_too_fast_are_tried_again(bench: Bench) -> None:
    bench.server.script = Script(failing_uploads=2, limited_submits=2)
    bench.process()
    bench.check_all_answered_once()


def test_a_refused_submission_is_told_and_can_be_run_again(bench: Bench) -> None:
    bench.server.script.refused_submits = 1
    with pytest.raises(CriticError, match="will not do"):
        bench.process(wait=False)
    bench.process()
    bench.check_all_answered_once()


def test_a_wrong_address_stops_the_run(bench: Bench) -> None:
    bench.server.url = bench.server.url.replace("/v1", "/v2")
    with pytest.raises(CriticSetupError):
        bench.process()


@pytest.mark.parametrize("named", [False, True])
def test_an_expired_batch_gives_what_it_has_and_the_rest_goes_again(bench: Bench, named: bool) -> None:
    script = bench.server.script = Script(end="expired", leave_out=2, expired_lines_in_error_file=named)

    def mend(event: BatchEvent) -> None:
        if event.state == "expired":
            script.end, script.leave_out = "completed", 0

    bench.process(on_event=mend)
    bench.check_all_answered_once()


def test_lines_that_a_completed_batch_left_out_go_again(bench: Bench) -> None:
    script = bench.server.script = Script(leave_out=1)

    def mend(event: BatchEvent) -> None:
        if event.state == "done":
            script.leave_out = 0

    bench.process(on_event=mend)
    assert set(bench.kept) == {line.key for line in TEN}
    assert set(bench.server.answered.values()) == {1}


def test_a_line_that_expires_every_time_fails_with_the_reason(bench: Bench) -> None:
    bench.server.script = Script(end="expired", leave_out=4)
    report = bench.process(lines=TEN[:4])
    assert report.finished and report.counts.failed == 4
    assert len(bench.server.batches) == bench.limits.max_attempts
    assert {outcome for outcome, _ in bench.failures().values()} == {CriticOutcome.TIMED_OUT}


def test_error_lines_fail_at_once_or_go_again_by_what_they_say(bench: Bench) -> None:
    bad, busy = TEN[0].key, TEN[1].key
    script = bench.server.script = Script(error_status={bad: 400, busy: 500})

    def mend(event: BatchEvent) -> None:
        if event.state == "done":
            script.error_status = {bad: 400}

    report = bench.process(on_event=mend)
    assert report.counts == (0, 0, 9, 1)
    assert list(bench.failures()) == [bad]
    assert bench.server.answered[busy] == 1


def test_shuffled_doubled_unknown_and_torn_lines_change_nothing(bench: Bench) -> None:
    bench.server.script = Script(duplicate_output=2, unknown_output=3, torn_line=True)
    report = bench.process()
    bench.check_all_answered_once()
    assert (report.ignored, report.duplicates, report.unreadable) == (9, 6, 3)  # three files


def test_a_failed_batch_goes_again_and_at_last_gives_up_with_the_reason(bench: Bench) -> None:
    bench.server.script = Script(end="failed")
    report = bench.process(lines=TEN[:3])
    assert report.counts == (0, 0, 0, 3)
    assert len(bench.server.batches) == 3
    assert all("invalid_file the file is bad" in reason for _, reason in bench.failures().values())


def test_a_full_queue_holds_the_next_file_until_one_ends(bench: Bench) -> None:
    script = bench.server.script = Script(end="failed", fail_code="token_limit_exceeded", fail_reason="enqueued")

    def mend(event: BatchEvent) -> None:
        if event.state == "failed":
            script.end = "completed"

    bench.process(on_event=mend)
    assert set(bench.kept) == {line.key for line in TEN}
    assert set(bench.server.answered.values()) == {1}


def test_no_more_tokens_are_under_way_than_allowed(bench: Bench) -> None:
    bench.limits = BatchLimits(max_enqueued_tokens=350)  # each line may need 100
    bench.process()
    bench.check_all_answered_once()
    assert max(event.counts.sent for event in bench.events) == 3
    assert len(bench.server.batches) == 4


def test_a_file_stays_below_its_size(bench: Bench) -> None:
    bench.limits = BatchLimits(max_shard_bytes=500)
    bench.process()
    bench.check_all_answered_once()
    inputs = [bench.server.files[str(batch["input_file_id"])] for batch in bench.server.batches.values()]
    assert max(map(len, inputs)) <= 500 and min(content.count(b"\n") for content in inputs) == 2


def test_a_line_larger_than_any_file_fails_alone(bench: Bench) -> None:
    bench.limits = BatchLimits(max_shard_bytes=500)
    huge = BatchLine(key="h" * 64, body={"model": "m", "messages": "x" * 600}, row_ids=("h",))
    report = bench.process(lines=(*TEN, huge))
    assert report.counts == (0, 0, 10, 1)
    assert "500" in bench.failures()["h" * 64][1]


def test_the_budget_is_checked_before_a_file_goes(bench: Bench) -> None:
    bench.budget = Budget(max_cost_usd=0.0034)  # estimates 0.001 each; an answer then costs 0.00012
    report = bench.process()
    assert report.counts.answered + report.counts.failed == 10
    # 3, then 3 (0.00036 + 3 x 0.001), then 2 (0.00072 + 2 x 0.001), 2 (0.00096 + 2 x 0.001): all of them fit one by one
    assert report.counts.answered == 10
    bench.check_all_answered_once()


def test_what_no_budget_covers_is_over_budget(bench: Bench) -> None:
    bench.budget = Budget(max_calls=4)
    report = bench.process()
    assert report.counts == (0, 0, 4, 6)
    assert {outcome for outcome, _ in bench.failures().values()} == {CriticOutcome.OVER_BUDGET}
    assert len(bench.server.answered) == 4


def test_without_waiting_it_submits_and_the_next_run_collects(bench: Bench) -> None:
    first = bench.process(wait=False)
    assert (first.finished, first.under_way, first.counts) == (False, 3, (0, 10, 0, 0))
    assert bench.clock.waits == []
    second = bench.process(wait=False)
    assert second.finished
    bench.check_all_answered_once()


def test_polls_slow_down_while_nothing_happens(bench: Bench) -> None:
    bench.server.script.polls = 12
    bench.limits = BatchLimits(poll_s=10.0, poll_cap_s=40.0)
    bench.process()
    assert bench.clock.waits[:6] == [10.0, 15.0, 22.5, 33.75, 40.0, 40.0]


def test_cancelled_batches_keep_what_is_paid_and_send_no_more(bench: Bench) -> None:
    bench.server.script = Script(polls=99, leave_out=3)
    bench.process(wait=False)
    report = bench.process(cancel=True)
    assert report.halted and not report.finished
    # of 4, 4 and 2 lines the last three are left out: 1 + 1 + none
    assert report.counts == (8, 0, 2, 0)
    assert len(bench.server.batches) == 3
    bench.server.script = Script()
    assert bench.process().finished
    bench.check_all_answered_once()


def test_taking_back_what_was_never_submitted(bench: Bench) -> None:
    def die(event: BatchEvent) -> None:
        if event.state == "uploaded":
            raise Killed

    with pytest.raises(Killed):
        bench.process(on_event=die)
    report = bench.process(cancel=True)
    assert report.counts == (10, 0, 0, 0) and not bench.server.batches
    bench.process()
    bench.check_all_answered_once()


def test_a_service_that_is_away_for_a_while_does_not_end_the_wait(bench: Bench) -> None:
    class Away(Fatal):
        fails = 5

        def poll(self, batch_id: str) -> BatchStatus:
            if self.fails:
                self.fails -= 1
                raise CriticError("away")
            return super().poll(batch_id)

    bench.process(wrap=lambda backend: Away(backend, [0]))
    bench.check_all_answered_once()
