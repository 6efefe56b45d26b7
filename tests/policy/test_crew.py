"""A crew of one: direct calls, results in order, errors as they come. tests/ranks has crews of two."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator

import pytest

from critique_rl.errors import ConfigError, CriticRateLimitError, MissingExtraError, ModelError
from critique_rl.policy import crew as crews
from critique_rl.policy.crew import Crew, join_crew


def test_alone_a_duty_is_a_direct_call() -> None:
    crew = Crew()
    double = crew.duty("double", lambda x: 2 * x)
    assert double([21]) == [42]
    marker = object()
    assert crew.duty("same", lambda x: x)([marker])[0] is marker  # nothing is copied


def test_alone_rows_are_worked_on_in_their_order() -> None:
    seen: list[list[str]] = []

    def shout(suffix: str, rows: list[str]) -> list[str]:
        seen.append(rows)
        return [row.upper() + suffix for row in rows]

    call = Crew().row_duty("shout", shout)
    assert call("!", ["long", "a", "bb"], [4, 1, 2]) == ["LONG!", "A!", "BB!"]
    assert seen == [["long", "a", "bb"]]
    assert call("!", [], []) == []


def test_alone_errors_come_as_they_are() -> None:
    def fails(_: None) -> None:
        raise ZeroDivisionError("by nothing")

    with pytest.raises(ZeroDivisionError, match="by nothing"):
        Crew().duty("fail", fails)([None])
    with pytest.raises(ZeroDivisionError), Crew().together():
        raise ZeroDivisionError


def test_alone_sums_are_the_values_and_release_is_nothing() -> None:
    crew = Crew()
    assert crew.total([1.5, 2.0]) == [1.5, 2.0]
    assert crew.largest(3) == 3
    crew.release()
    crew.release()
    assert crew.leads


def test_a_process_that_nobody_launched_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert join_crew(cpu=True).size == 1


def test_forgotten_duties_are_gone_but_for_one() -> None:
    crew = Crew(size=2)
    for name in ("build", "step"):
        crew.duty(name, lambda x: x)
    crew.forget(but="build")
    assert list(crew._duties) == ["build"]


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ConfigError("loss.kl_weight came"), ConfigError, "rank 3: loss.kl_weight came"),
        (CriticRateLimitError("slower", 2.0), CriticRateLimitError, "rank 3: slower"),
        # made of three things, so it cannot be made anew from one message
        (MissingExtraError("peft", "peft", "policy.lora"), ModelError, "rank 3: policy.lora needs peft"),
    ],
)
def test_an_error_is_told_with_its_rank(error: Exception, kind: type[Exception], message: str) -> None:
    told = crews._told_by(3, crews._Failed(type(error), str(error)))  # pyright: ignore[reportArgumentType]
    assert type(told) is kind
    assert str(told).startswith(message)


@pytest.fixture
def pressed() -> Callable[[], None]:
    return lambda: signal.raise_signal(signal.SIGINT)


def test_a_ctrl_c_is_held_to_the_end_of_an_exchange(pressed: Callable[[], None]) -> None:
    done = False
    with pytest.raises(KeyboardInterrupt), crews._interrupts_held():
        pressed()
        done = True
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_ctrl_c_is_felt_in_the_leaders_own_share(pressed: Callable[[], None]) -> None:
    with pytest.raises(KeyboardInterrupt), crews._interrupts_held() as hold, hold.felt():
        pressed()
        pytest.fail("it should have been felt")


def test_a_ctrl_c_from_before_is_felt_when_the_share_begins(pressed: Callable[[], None]) -> None:
    with pytest.raises(KeyboardInterrupt), crews._interrupts_held() as hold:
        pressed()
        with hold.felt():
            pytest.fail("it should have been felt")


def looks(*states: dict[str, str]) -> Iterator[dict[str, str]]:
    yield from states
    while True:
        yield states[-1]


@pytest.mark.parametrize(
    ("states", "count"),
    [
        ([{}], 2),
        ([{"8": "S (sleeping) 5"}], 2),
        ([{"8": "S (sleeping) 5"}, {"8": "S (sleeping) 6"}], 3),  # it was awake in between
        ([{"8": "R (running) 5"}] * 3 + [{"8": "S (sleeping) 6"}], 5),  # ready to run, but it was not its turn
        ([{"8": "S (sleeping) 5", "9": "S (sleeping) 5"}, {"8": "S (sleeping) 5"}], 3),  # one has ended
    ],
)
def test_threads_are_idle_when_they_sleep_through_two_looks(
    states: list[dict[str, str]], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, taken = looks(*states), 0

    def look() -> dict[str, str]:
        nonlocal taken
        taken += 1
        return next(seen)

    monkeypatch.setattr(crews, "_gloo_threads", look)
    crews._await_idle_threads(60.0)
    assert taken == count


def test_busy_threads_are_not_awaited_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crews, "_gloo_threads", lambda: {"8": "R (running) 5"})
    began = time.monotonic()
    crews._await_idle_threads(0.05)
    assert time.monotonic() >= began + 0.05


def test_an_exchange_without_a_peer_is_told_in_the_runs_words() -> None:
    crew = Crew(size=2)
    wanted = r"a following process has ended \(Connection closed\), .*--resume"
    with pytest.raises(ModelError, match=wanted) as told, crew._followers_needed():
        raise RuntimeError("Connection closed")
    context = told.value.__context__
    assert context is not None and context.__traceback__ is None  # its frames would hold the group
    assert crew._broken
