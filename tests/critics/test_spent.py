"""A resumed run goes on with what is left of its critic budget."""

from __future__ import annotations

from pathlib import Path

from critique_rl.critics.limits import spent_in
from critique_rl.feedback.store import Exchange, ExchangeStore
from critique_rl.net import Spent
from critique_rl.types import CriticOutcome, Usage


def test_a_store_says_what_was_spent(tmp_path: Path) -> None:
    store = ExchangeStore(tmp_path / "exchanges.jsonl")
    for n, cost in enumerate((0.25, None)):
        store.append(
            Exchange(
                key=str(n),
                rollout_id=str(n),
                critic="c",
                model="m",
                messages=(),
                outcome=CriticOutcome.OK,
                attempts=n + 1,
                usage=Usage(prompt_tokens=10, completion_tokens=5, cost_usd=cost),
            )
        )
    store.close()
    assert spent_in(store) == Spent(calls=3, tokens=30, cost_usd=0.25, unpriced_calls=1)
