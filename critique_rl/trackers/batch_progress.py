"""A batch run as a person watches it: one live line on a terminal, a plain line now and then anywhere else.

Owns: rate, time left, the wording. Must not know: where critiques come from, what is written where.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from critique_rl.trackers.figures import duration


class BatchProgress:
    """Counts rows as they finish. `kept` rows were finished by an earlier run; `total` includes them."""

    def __init__(
        self,
        *,
        total: int,
        kept: int = 0,
        console: Console | None = None,
        plain_interval_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._total, self._kept = total, kept
        self._interval_s = plain_interval_s
        self._clock = clock
        self._start_s = self._printed_s = clock()
        self._finished = 0
        self._cached = 0
        self._outcomes: Counter[str] = Counter()
        self._cost_usd = 0.0
        self._unpriced = 0
        self._said = -1
        self._live: Live | None = None

    @property
    def outcomes(self) -> Mapping[str, int]:
        """Rows that finished in this run, by outcome."""
        return dict(self._outcomes)

    def start(self) -> None:
        """The first request is about to be sent: rate and time left count from here."""
        self._start_s = self._printed_s = self._clock()

    def note(self, outcome: str, *, cost_usd: float = 0.0, unpriced: int = 0, cached: bool = False) -> None:
        """One row is finished."""
        self._finished += 1
        self._outcomes[outcome] += 1
        self._cached += cached
        self._cost_usd += cost_usd
        self._unpriced += unpriced
        self.tick()

    def tick(self) -> None:
        """Show how it stands, if it is time to."""
        if self._console.is_terminal:
            if self._live is None:
                self._live = Live(get_renderable=lambda: Text(self.line()), console=self._console, refresh_per_second=4)
                self._live.start()
        elif self._clock() - self._printed_s >= self._interval_s:
            self._print()

    def say(self, message: str) -> None:
        """A line of its own, above the live one."""
        self._console.print(escape(message), soft_wrap=True)

    def close(self) -> None:
        if self._live is not None:
            self._live.refresh()
            self._live.stop()
            self._live = None
        elif not self._console.is_terminal and self._said != self._finished:
            self._print()

    def line(self) -> str:
        """Rows, rate, time left, outcomes, cached answers, money."""
        done, elapsed_s = self._kept + self._finished, self._clock() - self._start_s
        share = done / self._total if self._total else 1.0
        parts = [f"{done}/{self._total} rows ({share:.0%})"]
        if self._kept:
            parts.append(f"{self._kept} from before")
        if self._finished and elapsed_s > 0:
            rate = self._finished / elapsed_s
            parts.append(f"{rate:.1f}/s")
            if done < self._total:
                parts.append(f"{duration((self._total - done) / rate)} left")
        parts += [f"{outcome} {count}" for outcome, count in sorted(self._outcomes.items())]
        if self._cached:
            parts.append(f"cached {self._cached}")
        if self._cost_usd:
            parts.append(f"${self._cost_usd:.4f}")
        if self._unpriced:
            parts.append(f"{self._unpriced} without a known price")
        return " · ".join(parts)

    def _print(self) -> None:
        self._printed_s, self._said = self._clock(), self._finished
        self._console.print(escape(self.line()), soft_wrap=True)
