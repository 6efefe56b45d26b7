"""What our critic side costs over the bare openai client, and whether it keeps its word when the server misbehaves.

`python -m tests.benchmarks.critic_plane --json`: one JSON object a line; progress on stderr; `--quick` for a smoke run.

- Throughput and overhead: 64 in flight against a server in its own process with a fixed latency. Ours parses, splits
  and records every exchange; the bare client only receives it. The openai client costs 3 to 5 ms of processor, so
  one process cannot pass some 200 to 300 calls/s whatever wraps it: at 200 ms (floor: 320 calls/s) the comparison would
  measure processors. The default, 1 s, is what a short reply of a hosted model takes; its floor of 64 calls/s is one
  that the bare client reaches. `--latency-ms 500` (128 calls/s) is harder: half of a core is busy. The case without
  latency, where both are bound by the processor, is reported beside it without a target. Rounds alternate; medians
  are compared. Other work on the machine spoils these figures before any others.
- Chaos: shares of trouble as in tests.servers.chat.CHAOS; scores are checked against the one right reply of each
  attempt, and the server's own list of answers against the critiques. Runs first, in a process without torch, so that
  resident memory is that of the critic side alone.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import NamedTuple

import openai
import psutil

from critique_rl.config.critic import OpenAICriticConfig
from critique_rl.critics.base import asker_from
from critique_rl.critics.openai_compatible import openai_critic
from critique_rl.critics.remote import RemoteCritic
from critique_rl.feedback.schema import wire_schema
from critique_rl.feedback.store import ExchangeStore
from critique_rl.types import CriticOutcome, CriticRequest, Critique, Message, Score, Task
from tests.benchmarks.results import Row, save
from tests.servers.chat import CHAOS, ChatOptions, ChatProcess, expected_reply

IN_FLIGHT = 64
MODEL = "chat"
CHAOS_LATENCY_S = 0.02
CHAOS_TIMEOUT_S = 3.0
HANG_S = 180.0
BACKLOG = 512
STATEMENT = "Two trains leave at the same time, {number} km apart, and meet after {number} minutes. How fast are they?"
STEP = "Step {step}: the distance they close in a minute is one kilometre, so I keep that and go on with the next."


class Sizes(NamedTuple):
    """How much work a run does: calls a round, rounds, calls under chaos after the warm-up ones."""

    calls: int
    saturated_calls: int
    rounds: int
    chaos_calls: int
    warm_up_calls: int


FULL = Sizes(calls=960, saturated_calls=640, rounds=5, chaos_calls=20_000, warm_up_calls=2_000)
QUICK = Sizes(calls=256, saturated_calls=128, rounds=2, chaos_calls=1_000, warm_up_calls=500)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def request_for(label: str, number: int) -> CriticRequest:
    """An attempt of about 900 characters; no two in a run are equal, so nothing can be shared or cached."""
    question = Message(role="user", content=STATEMENT.format(number=number + 100))
    task = Task(id=f"{label}-{number}", messages=(question,), answer="sixty", verifier="exact")
    attempt = f"Attempt {label}-{number}.\n" + "\n".join(STEP.format(step=step) for step in range(8))
    score = Score(reward=0.0, detail="The answer is not equal to the reference.")
    return CriticRequest(rollout_id=f"{label}-{number}", task=task, attempt=attempt, score=score)


def requests_for(label: str, count: int) -> list[CriticRequest]:
    return [request_for(label, number) for number in range(count)]


def config_for(url: str, *, timeout_s: float = 60.0) -> OpenAICriticConfig:
    return OpenAICriticConfig(
        kind="openai",
        model=MODEL,
        base_url=url,
        max_in_flight=IN_FLIGHT,
        timeout_s=timeout_s,
        stage_deadline_s=None,
        seed=1,
    )


def right(critique: Critique, request: CriticRequest) -> bool:
    """Whether an ok critique is word for word the one right reply, and any other carries nothing."""
    if critique.rollout_id != request.rollout_id:
        return False
    if critique.outcome is not CriticOutcome.OK:
        return not critique.evaluative and not critique.directives
    expected = expected_reply(request.attempt)
    scores = {e.criterion: e.value for e in critique.evaluative}
    return scores == dict(expected.scores) and [d.text for d in critique.directives] == [expected.directive]


class Chaos(NamedTuple):
    """What went wrong in a run under chaos, and what it took."""

    wrong: int
    hung: int
    lost: int
    paid_twice: int
    uncounted: int
    outcomes: Mapping[str, int]
    sends: int
    rss_growth: float
    wall_s: float


class _Tally:
    """What came of each request, as its future ends; keeps the few that were unanswered or slow, or it would itself be
    what grows."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.wrong = 0
        self.hung = 0
        self.unanswered: set[str] = set()
        self.slow: set[str] = set()

    def take(self, request: CriticRequest, future: Future[Critique]) -> None:
        try:
            # Far above all attempts and waits that the limits allow: what is not back by then never comes.
            critique = future.result(timeout=HANG_S)
        except TimeoutError:
            future.cancel()
            self.hung += 1
            return
        self.outcomes[critique.outcome] += 1
        self.wrong += not right(critique, request)
        mark = expected_reply(request.attempt).mark
        if critique.outcome is not CriticOutcome.OK:
            self.unanswered.add(mark)
        if critique.latency_s >= CHAOS_TIMEOUT_S:
            self.slow.add(mark)


def run_chaos(sizes: Sizes, *, seed: int) -> Chaos:
    """Submit attempts one by one with a bounded backlog, as a run does, with the exchanges recorded; resident memory
    at the last submission is compared with that after the warm-up calls."""
    options = ChatOptions(latency_s=CHAOS_LATENCY_S, latency_sigma=0.5, seed=seed, chaos=CHAOS)
    total = sizes.warm_up_calls + sizes.chaos_calls
    tally, started = _Tally(), time.monotonic()
    backlog: deque[tuple[CriticRequest, Future[Critique]]] = deque()
    base_bytes = last_bytes = 0
    with ChatProcess(options) as server, tempfile.TemporaryDirectory() as folder:
        store = ExchangeStore(Path(folder) / "exchanges.jsonl")
        critic = openai_critic(config_for(server.url, timeout_s=CHAOS_TIMEOUT_S), store=store)
        for number in range(1, total + 1):
            request = request_for("chaos", number)
            backlog.append((request, critic.submit(request)))
            if len(backlog) >= BACKLOG:
                tally.take(*backlog.popleft())
            if number == sizes.warm_up_calls:
                base_bytes = resident_bytes()
            if number == total:
                last_bytes = resident_bytes()
            if number % 1000 == 0:
                say(f"chaos: {number} of {total} sent, {resident_bytes() / 1e6:.1f} MB, {tally.outcomes}")
        while backlog:
            tally.take(*backlog.popleft())
        wall_s = time.monotonic() - started
        sends, stats = critic.spent.calls, server.stats()
        critic.close()
    # An answer that came after our clock had run out was rightly given up.
    answered = {mark: met.count("ok") for mark, met in stats.requests.items() if mark not in tally.slow}
    return Chaos(
        wrong=tally.wrong,
        hung=tally.hung,
        lost=sum(answers > 0 and mark in tally.unanswered for mark, answers in answered.items()),
        paid_twice=sum(answers > 1 for answers in answered.values()),
        uncounted=max(0, stats.total - sends),
        outcomes=tally.outcomes,
        sends=sends,
        rss_growth=last_bytes / base_bytes - 1,
        wall_s=wall_s,
    )


def resident_bytes() -> int:
    gc.collect()
    return psutil.Process().memory_info().rss


class Round(NamedTuple):
    """Seconds on the wall, and of processor, for one round of calls."""

    wall_s: float
    cpu_s: float


def timed(work: Callable[[], None]) -> Round:
    gc.collect()
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    work()
    return Round(time.perf_counter() - wall_s, time.process_time() - cpu_s)


async def _bare(client: openai.AsyncOpenAI, config: OpenAICriticConfig, requests: Sequence[CriticRequest]) -> None:
    """The same requests as our critic sends, by the client alone under a semaphore."""
    asker, slots = asker_from(config), asyncio.Semaphore(IN_FLIGHT)
    schema = {"name": "critique", "strict": True, "schema": wire_schema(config.criteria)}

    async def one(request: CriticRequest) -> None:
        async with slots:
            completion = await client.chat.completions.create(
                model=config.model,
                messages=[{"role": m.role, "content": m.content} for m in asker.messages(request)],  # type: ignore[misc]
                temperature=config.temperature,
                max_tokens=config.max_tokens,
                seed=config.seed,
                response_format={"type": "json_schema", "json_schema": schema},  # type: ignore[arg-type]
            )
            assert expected_reply(request.attempt).directive in str(completion.choices[0].message.content)

    await asyncio.gather(*(one(request) for request in requests))


class Compared(NamedTuple):
    """Medians over rounds: calls per second of ours over the bare client's, wall seconds, processor ms per call."""

    ratio: float
    wall_s: float
    bare_wall_s: float
    cpu_ms: float
    bare_cpu_ms: float


def compare(calls: int, rounds: int, *, latency_s: float) -> Compared:
    """Alternate rounds of our critic and of the bare client on one server, each first in every second pair; a pair that
    is not counted opens the connections."""
    pairs: list[tuple[Round, Round]] = []
    options = ChatOptions(latency_s=latency_s)
    with ChatProcess(options) as server, tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
        config = config_for(server.url)
        critic = openai_critic(config, store=ExchangeStore(Path(folder) / "exchanges.jsonl"))
        client = openai.AsyncOpenAI(api_key="none", base_url=server.url, max_retries=0, timeout=60.0)
        for index in range(-1, rounds):
            count = IN_FLIGHT if index < 0 else calls
            review = partial(_review, critic, requests_for(f"ours{latency_s}-{index}", count))
            receive = partial(_receive, runner, client, config, requests_for(f"bare{latency_s}-{index}", count))
            if index % 2:
                bare, ours = timed(receive), timed(review)
            else:
                ours, bare = timed(review), timed(receive)
            if index >= 0:
                pairs.append((ours, bare))
                say(f"{latency_s * 1000:g} ms, round {index + 1}: ours {ours.wall_s:.2f} s, bare {bare.wall_s:.2f} s")
        runner.run(client.close())
        critic.close()
    ours_s, bare_s = (statistics.median(pair[who].wall_s for pair in pairs) for who in (0, 1))
    ours_cpu, bare_cpu = (statistics.median(pair[who].cpu_s for pair in pairs) for who in (0, 1))
    return Compared(bare_s / ours_s, ours_s, bare_s, 1000 * ours_cpu / calls, 1000 * bare_cpu / calls)


def _review(critic: RemoteCritic, requests: Sequence[CriticRequest]) -> None:
    critiques = critic.review(requests)
    assert all(c.outcome is CriticOutcome.OK and right(c, r) for c, r in zip(critiques, requests, strict=True))


def _receive(
    runner: asyncio.Runner, client: openai.AsyncOpenAI, config: OpenAICriticConfig, requests: Sequence[CriticRequest]
) -> None:
    runner.run(_bare(client, config, requests))


def at_least(name: str, value: float, unit: str, bound: float) -> Row:
    return Row(name, round(value, 4), unit, f">= {bound:g}", value >= bound)


def at_most(name: str, value: float, unit: str, bound: float) -> Row:
    return Row(name, round(value, 4), unit, f"<= {bound:g}", value <= bound)


def chaos_rows(chaos: Chaos, calls: int) -> list[Row]:
    critiques = sum(chaos.outcomes.values())
    return [
        at_most("chaos/wrong_critiques", chaos.wrong, "critiques", 0),
        at_most("chaos/hangs", chaos.hung, "requests", 0),
        at_most("chaos/lost_replies", chaos.lost, "replies", 0),
        at_most("chaos/missing_critiques", calls - critiques - chaos.hung, "requests", 0),
        at_most("chaos/paid_twice", chaos.paid_twice, "replies", 0),
        at_most("chaos/uncounted_sends", chaos.uncounted, "sends", 0),
        at_most("chaos/rss_growth", chaos.rss_growth, "share of resident memory", 0.05),
        Row("chaos/ok_share", round(chaos.outcomes[CriticOutcome.OK] / calls, 4), "of requests"),
        Row("chaos/sends_per_request", round(chaos.sends / calls, 4), "sends"),
        Row("chaos/rate", round(critiques / chaos.wall_s, 1), "requests/s"),
    ]


def measure(sizes: Sizes, *, latency_s: float, seed: int) -> list[Row]:
    """Every figure of the benchmark, chaos first."""
    calls = sizes.warm_up_calls + sizes.chaos_calls
    rows = chaos_rows(run_chaos(sizes, seed=seed), calls)
    one = compare(sizes.calls, sizes.rounds, latency_s=latency_s)
    floor_s = sizes.calls * latency_s / IN_FLIGHT
    rows += [
        at_least("throughput_ratio", one.ratio, "ours / bare openai client", 0.9),
        at_most("overhead_over_floor", one.wall_s / floor_s - 1, "share of n*latency/C", 0.10),
        Row("bare_overhead_over_floor", round(one.bare_wall_s / floor_s - 1, 4), "share of n*latency/C"),
        Row("rate", round(sizes.calls / one.wall_s, 1), "requests/s"),
        Row("cpu_per_call", round(one.cpu_ms, 3), "ms"),
        Row("bare_cpu_per_call", round(one.bare_cpu_ms, 3), "ms"),
    ]
    full = compare(sizes.saturated_calls, sizes.rounds, latency_s=0.0)
    return [
        *rows,
        Row("saturated/throughput_ratio", round(full.ratio, 4), "ours / bare openai client"),
        Row("saturated/rate", round(sizes.saturated_calls / full.wall_s, 1), "requests/s"),
        Row("saturated/cpu_per_call", round(full.cpu_ms, 3), "ms"),
        Row("saturated/bare_cpu_per_call", round(full.bare_cpu_ms, 3), "ms"),
    ]


def main() -> int:
    """Print every row; exit code 1 if one that has a target misses it."""
    parser = argparse.ArgumentParser(description="the critic side against a loopback server")
    parser.add_argument("--json", action="store_true", help="one JSON object a line (default: a table)")
    parser.add_argument("--quick", action="store_true", help="a smoke run; its figures mean little")
    parser.add_argument("--calls", type=int, help="calls a round in the throughput part")
    parser.add_argument("--latency-ms", type=float, default=1000.0)
    parser.add_argument("--seed", type=int, default=0, help="of the server's trouble")
    parser.add_argument("--save", type=Path, metavar="FILE", help="also write the run in the form of docs/results")
    known = parser.parse_args()
    sizes = QUICK if known.quick else FULL
    started = time.monotonic()
    rows = measure(sizes._replace(calls=known.calls or sizes.calls), latency_s=known.latency_ms / 1000, seed=known.seed)
    for row in rows:
        shown = f"{row.name:<34} {row.value:>10} {row.unit}  {row.target or ''}  {row.holds}"
        print(json.dumps(row._asdict()) if known.json else shown)
    if known.save:
        title = "The critic side against a loopback server"
        wall_time_s = time.monotonic() - started
        save(known.save, rows, name="critic_plane", title=title, seed=known.seed, wall_time_s=wall_time_s)
    return 0 if all(row.holds is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
