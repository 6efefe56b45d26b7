"""How a crew of two ends: `ending.py HOW` with the environment of a rank."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import torch.distributed as dist

from critique_rl.errors import CritiqueRLError
from critique_rl.policy import crew as crews
from critique_rl.policy.crew import Crew, join_crew

THREADS_LEFT = "threads left: "


def work(how: str) -> str:
    leads = os.environ["RANK"] == "0"
    if how == "a follower dies" and not leads:
        os._exit(3)
    if how == "the leader dies" and leads:
        os._exit(3)
    if how == "a leader's error" and leads:
        raise ZeroDivisionError("by nothing")
    if how == "Ctrl-C" and leads:
        signal.raise_signal(signal.SIGINT)
    return how


def tell_threads() -> None:
    print(f"{THREADS_LEFT}{len(crews._gloo_threads())}")  # pyright: ignore[reportPrivateUsage]


def main(how: str) -> int:
    faulthandler.dump_traceback_later(100, exit=True)  # a hang says where
    crew = join_crew(cpu=True)
    dist.all_reduce(torch.ones(3))  # on the group of all processes, as a training step does
    call = crew.duty("work", work)
    if not crew.leads:
        try:
            crew.follow()
        finally:
            tell_threads()
        return 0
    return lead(crew, lambda: call([how, how]))


def lead(crew: Crew, call: Callable[[], object]) -> int:
    try:
        call()
    except KeyboardInterrupt:
        return 130
    except CritiqueRLError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        crew.release()
        crew.release()
        tell_threads()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
