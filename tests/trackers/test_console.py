"""A live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io

from rich.console import Console

from critique_rl.trackers.console import ConsoleTracker


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def plain() -> tuple[ConsoleTracker, Clock, io.StringIO]:
    clock, out = Clock(), io.StringIO()
    console = Console(file=out, width=60, force_terminal=False)
    return ConsoleTracker(title="grpo", console=console, plain_interval_s=5.0, clock=clock), clock, out


def values(step: int) -> dict[str, float]:
    return {"reward/mean": 0.5, "steps/total": 100.0, "critic/calls": float(step), "critic/ok": float(step)}


def test_plain_lines_come_first_last_and_at_most_once_an_interval() -> None:
    tracker, clock, out = plain()
    for step in range(11):
        tracker.log(step, values(step))
        clock.now_s += 1.0
    tracker.close()
    lines = out.getvalue().splitlines()
    assert [line.split(" | ")[1] for line in lines] == ["step 0/100", "step 5/100", "step 10/100"]
    # 10 s for 10 % of the run: 90 s for the rest.
    assert lines[-1].endswith("1:30 left")


def test_the_last_line_is_not_printed_twice() -> None:
    tracker, _, out = plain()
    tracker.log(0, values(0))
    tracker.close()
    assert len(out.getvalue().splitlines()) == 1


def test_a_run_without_a_step_prints_nothing() -> None:
    tracker, _, out = plain()
    tracker.close()
    assert out.getvalue() == ""


def test_a_resumed_run_takes_its_pace_from_its_own_steps() -> None:
    tracker, clock, out = plain()
    tracker.log(50, values(50))
    clock.now_s += 10.0
    tracker.log(60, values(60))
    # 10 s for 10 % of the run: 40 s for the other 40 %.
    assert out.getvalue().splitlines()[-1].endswith("0:40 left")


def test_an_event_is_one_line_whatever_it_holds() -> None:
    tracker, _, out = plain()
    tracker.event(7, "stall", "18 of 24 [hard] prompts [/] " + "long " * 30)
    assert out.getvalue() == f"grpo · step 7 stall 18 of 24 [hard] prompts [/] {'long ' * 30}".rstrip(" ") + " \n"


def test_the_live_panel_shows_every_line_and_events_above_it() -> None:
    out = io.StringIO()
    console = Console(file=out, width=120, height=40, force_terminal=True, color_system=None, _environ={})
    tracker = ConsoleTracker(title="both [channels]", console=console)
    metrics = values(3) | {
        "reward/hard": 0.25,
        "plateau/plateaued": 2.0,
        "loss/imitate": 0.125,
        "tokens/generated": 1500.0,
        "tokens/budget": 3000.0,
    }
    tracker.log(2, metrics)
    tracker.log(3, metrics)
    tracker.event(3, "stall", "two prompts")
    tracker.sample(3, {"task_id": "t"})
    tracker.close()
    text = out.getvalue()
    for part in (
        "both [channels]  step 3/100",
        "50%",
        "hard 0.25",
        "2 plateaued",
        "3 calls · 3 ok · 0 failed · unpriced",
        "imitate 0.1250",
        "1.5k of 3k generated",
        "step 3 stall two prompts",
    ):
        assert part in text
    tracker.close()
