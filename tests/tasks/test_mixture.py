"""A mixture of sources: who is asked how often, under which names, the same at every look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from critique_rl.build_tasks import build_tasks
from critique_rl.config.load import validate
from critique_rl.config.mixture import part_of
from critique_rl.errors import ConfigError
from critique_rl.tasks.mixture import MixtureTasks, split_batch
from critique_rl.tasks.order import epoch_batch
from critique_rl.types import Message, Task


class Pool:
    """Numbered tasks of one kind; the last two are held out."""

    def __init__(self, kind: str, count: int = 40) -> None:
        self.tasks = [
            Task(
                id=f"t{n}",
                messages=(Message(role="user", content=f"{kind} {n}"),),
                answer=str(n),
                verifier="exact",
                kind=kind,
            )
            for n in range(count)
        ]

    def batch(self, step: int, size: int, *, seed: int) -> Sequence[Task]:
        return epoch_batch(self.tasks[:-2], step, size, seed=seed)

    def held_out(self) -> Sequence[Task]:
        return self.tasks[-2:]


def mixture(**shares: float) -> MixtureTasks:
    return MixtureTasks({"a": Pool("easy"), "b": Pool("b"), "c": Pool("")}, shares=shares)


def parts(batch: Sequence[Task]) -> dict[str, int]:
    return dict(Counter(part_of(task.kind) for task in batch))


def test_ids_and_kinds_tell_the_source() -> None:
    batch = mixture(a=1, b=1, c=1).batch(0, 3, seed=0)
    assert [task.kind for task in batch] == ["a:easy", "b", "c"]
    assert [task.id.partition(":")[0] for task in batch] == ["a", "b", "c"]
    # Nothing else of a task is touched: its answer and its messages are the source's own.
    assert batch[0].messages[0].content == f"easy {batch[0].answer}"


def test_all_are_held_out_also_those_that_are_not_trained_on() -> None:
    some = mixture(b=1)
    assert parts(some.held_out()) == {"a": 2, "b": 2, "c": 2}
    assert parts(some.batch(3, 8, seed=1)) == {"b": 8}


def test_a_batch_is_a_function_of_seed_step_and_size() -> None:
    one, two = mixture(a=1, b=2), mixture(a=1, b=2)
    assert one.batch(7, 8, seed=3) == two.batch(7, 8, seed=3)
    two.batch(1, 8, seed=3)
    assert one.batch(7, 8, seed=3) == two.batch(7, 8, seed=3)
    assert one.batch(7, 8, seed=3) != one.batch(7, 8, seed=4)
    assert one.batch(7, 8, seed=3) != one.batch(8, 8, seed=3)


def test_sources_of_one_kind_are_not_permuted_alike() -> None:
    twins = MixtureTasks({"a": Pool(""), "b": Pool("")}, shares={"a": 1, "b": 1})
    batch = twins.batch(0, 16, seed=0)
    assert [task.answer for task in batch[:8]] != [task.answer for task in batch[8:]]


def test_equal_shares_that_divide_the_batch_are_met_at_every_step() -> None:
    for step in range(50):
        assert parts(mixture(a=1, b=1).batch(step, 8, seed=0)) == {"a": 4, "b": 4}


def test_a_source_is_asked_for_each_of_its_tasks_once_an_epoch() -> None:
    # 38 tasks of a, 4 a step: 9 steps make an epoch, in which no task comes twice.
    some = mixture(a=1, b=1)
    asked = [task.id for step in range(9) for task in some.batch(step, 8, seed=0) if part_of(task.kind) == "a"]
    assert len(asked) == len(set(asked)) == 36


@given(shares=st.lists(st.integers(1, 9), min_size=1, max_size=5), size=st.integers(1, 12), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_shares_are_kept(shares: list[int], size: int, seed: int) -> None:
    wanted = {f"s{n}": share / sum(shares) for n, share in enumerate(shares)}
    total: Counter[str] = Counter()
    steps = 200
    for step in range(steps):
        counts = split_batch(wanted, step, size, seed=seed)
        assert sum(count for count, _ in counts.values()) == size
        for name, (count, most) in counts.items():
            assert abs(count - wanted[name] * size) < 1 + 1e-9
            assert count <= most < wanted[name] * size + 1 + 1e-9
            total[name] += count
    for name, share in wanted.items():
        # The golden ratio's discrepancy: a few tasks over 200 steps, however the shares lie.
        assert abs(total[name] - share * size * steps) < 8


def test_a_single_share_takes_everything() -> None:
    assert split_batch({"a": 1.0}, 5, 7, seed=2) == {"a": (7, 7)}


def test_other_shares_for_one_step() -> None:
    some = mixture(a=1)
    assert parts(some.mixed(0, 8, seed=0, shares={"a": 3, "b": 1})) == {"a": 6, "b": 2}
    assert parts(some.batch(0, 8, seed=0)) == {"a": 8}


@pytest.mark.parametrize(
    ("shares", "wanted"),
    [({}, "nothing"), ({"z": 1.0}, "'z'"), ({"a": 0.0}, "above 0"), ({"a": float("nan")}, "above")],
)
def test_bad_shares(shares: dict[str, float], wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        mixture(**shares)


def test_too_few_tasks_of_one_source_are_an_error() -> None:
    few = MixtureTasks({"a": Pool("", 5), "b": Pool("")}, shares={"a": 1, "b": 1})
    with pytest.raises(ConfigError, match="4 different tasks but there are 3"):
        few.batch(0, 8, seed=0)


def test_built_from_a_run_file() -> None:
    of = {"sums": {"kind": "lab", "hard_share": 0.25}, "guess": {"kind": "lab_guess", "held_out": 3}}
    config = validate({"tasks": {"kind": "mixture", "of": of, "only": ["sums"]}}, source="test")
    source = build_tasks(config.tasks)
    assert parts(source.batch(0, 8, seed=0)) == {"sums": 8}
    assert {task.kind for task in source.batch(0, 8, seed=0)} == {"sums:easy", "sums:hard"}
    assert set(parts(source.held_out())) == {"sums", "guess"}
