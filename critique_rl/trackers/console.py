"""The run as a person watches it: one live panel on a terminal, plain lines anywhere else.

Owns: the layout, the rate of plain lines, the estimate of the time left. Keys are those of metrics.jsonl; everything
under tokens/, steps/, critic/ and plateau/ counts from the start of the run. Must not know: where numbers come from.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from critique_rl.trackers.figures import (
    critic_line,
    duration,
    loss_line,
    plain_line,
    progress_share,
    reward_line,
    sparkline,
    stall_line,
    token_line,
)

_EVENT_STYLES = {
    "stall": "bold yellow",
    "critic": "magenta",
    "evaluation": "cyan",
    "skipped": "yellow",
    "stop": "bold",
}


class ConsoleTracker:
    """A rich Live panel if the console is a terminal; otherwise a line for the first step, at most one every
    `plain_interval_s` seconds after that, and one for the last step. Events are printed above the panel at once."""

    def __init__(
        self,
        *,
        title: str = "",
        console: Console | None = None,
        plain_interval_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or Console(highlight=False)
        self._title = title
        self._interval_s = plain_interval_s
        self._clock = clock
        self._start_s = clock()
        self._first_share: float | None = None
        self._step = 0
        self._printed_step: int | None = None
        self._printed_s = 0.0
        self._values: dict[str, float] = {}
        self._rewards: deque[float] = deque(maxlen=240)
        self._live: Live | None = None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._step = step
        self._values.update(values)
        if "reward/mean" in values:
            self._rewards.append(values["reward/mean"])
        if self._first_share is None:
            # A resumed run starts in the middle: only what is gained from here on tells its pace.
            self._first_share = progress_share(self._step, self._values)
        if self._console.is_terminal:
            self._draw()
        elif self._printed_step is None or self._clock() - self._printed_s >= self._interval_s:
            self._print_line()

    def event(self, step: int, kind: str, message: str) -> None:
        style = _EVENT_STYLES.get(kind, "bold")
        prefix = f"{self._title} · " if self._title and not self._console.is_terminal else ""
        self._console.print(f"{escape(prefix)}step {step} [{style}]{escape(kind)}[/] {escape(message)}", soft_wrap=True)

    def sample(self, step: int, record: Mapping[str, object]) -> None:
        """Stories are too long for a console; the report shows them."""

    def close(self) -> None:
        if self._live is not None:
            self._live.update(self._panel(), refresh=True)
            self._live.stop()
            self._live = None
        elif self._values and not self._console.is_terminal and self._printed_step != self._step:
            self._print_line()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _draw(self) -> None:
        if self._live is None:
            self._live = Live(get_renderable=self._panel, console=self._console, refresh_per_second=4)
            self._live.start()

    def _print_line(self) -> None:
        self._printed_step, self._printed_s = self._step, self._clock()
        self._console.print(
            escape(plain_line(self._title, self._step, dict(self._values), self._remaining_s())), soft_wrap=True
        )

    def _remaining_s(self) -> float | None:
        share = progress_share(self._step, self._values)
        gained = share - (self._first_share or 0.0)
        if gained <= 0.0 or share >= 1.0:
            return 0.0 if share >= 1.0 else None
        return (self._clock() - self._start_s) * (1.0 - share) / gained

    def _panel(self) -> RenderableType:
        values = dict(self._values)
        share = progress_share(self._step, values)
        head = Table.grid(padding=(0, 2), expand=True)
        head.add_column(no_wrap=True)
        head.add_column(ratio=1)
        head.add_column(no_wrap=True, justify="right")
        total = values.get("steps/total")
        step = f"step {self._step}" + (f"/{total:.0f}" if total else "")
        left = self._remaining_s()
        eta = "done" if share >= 1.0 else f"{duration(left)} left" if left is not None else "…"
        head.add_row(
            Text.assemble((self._title, "bold"), "  " if self._title else "", step),
            ProgressBar(total=1.0, completed=share, complete_style="cyan", finished_style="green"),
            f"{share:.0%}  {eta}",
        )
        body = Table.grid(padding=(0, 2))
        body.add_column(style="dim", no_wrap=True)
        body.add_column()
        for name, line in (
            ("reward", Text.assemble(reward_line(values), "  ", (sparkline(list(self._rewards)), "cyan"))),
            ("stall", Text(stall_line(values), style="yellow" if values.get("plateau/plateaued") else "")),
            ("critic", Text(critic_line(values), style="red" if values.get("critic/failed") else "")),
            ("loss", Text(loss_line(values))),
            ("tokens", Text(token_line(values))),
        ):
            if line.plain.strip():
                body.add_row(name, line)
        return Group(head, body)
