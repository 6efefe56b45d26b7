"""What a batch run says of itself: rate and time left by hand, plain lines at their interval."""

from __future__ import annotations

import io

from rich.console import Console

from critique_rl.trackers.batch_progress import BatchProgress


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_the_line_by_hand() -> None:
    clock = Clock()
    out = io.StringIO()
    progress = BatchProgress(total=100, kept=20, console=Console(file=out, width=200), clock=clock)
    clock.now_s += 50
    progress.start()
    clock.now_s += 4
    for number in range(8):
        progress.note("ok" if number else "failed", cost_usd=0.25, cached=number == 3)
    # 8 rows in 4 s; 72 left at 2 a second are 36 s.
    wanted = "28/100 rows (28%) · 20 from before · 2.0/s · 0:36 left · failed 1 · ok 7 · cached 1 · $2.0000"
    assert progress.line() == wanted
    assert progress.outcomes == {"failed": 1, "ok": 7}
    assert out.getvalue() == ""
    clock.now_s += 1
    progress.tick()
    assert out.getvalue().count("\n") == 1
    progress.close()
    assert out.getvalue().count("\n") == 1  # nothing new since


def test_the_end_is_always_told() -> None:
    out = io.StringIO()
    progress = BatchProgress(total=0, console=Console(file=out, width=200), clock=Clock())
    progress.close()
    assert out.getvalue() == "0/0 rows (100%)\n"


def test_a_terminal_gets_one_live_line() -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, highlight=False)
    progress = BatchProgress(total=2, console=console, clock=Clock())
    progress.say("[to ask]")
    progress.note("ok", unpriced=1)
    progress.note("ok", unpriced=1)
    progress.close()
    assert "[to ask]" in out.getvalue()
    assert "2/2 rows" in out.getvalue()
    assert "2 without a known price" in out.getvalue()
