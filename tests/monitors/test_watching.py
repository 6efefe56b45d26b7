"""All monitors together: what is measured when, names of figures, messages once, a state that goes on alike."""

from __future__ import annotations

import json
from typing import get_args

import pytest

from critique_rl.config.monitors import Metric, MonitorsConfig
from critique_rl.errors import CheckpointError
from critique_rl.monitors.detectors import Rules, by_patterns
from critique_rl.monitors.watching import RunMonitors
from tests.monitors.answers import PATTERNS, answers, batch

GROUPS = [answers("p", ("A: 1 2", 1.0), ("B: 3 4", 0.0)), answers("q", ("A: 5 6", 0.0), ("A: 5 6", 0.0))]


def monitors(**options: object) -> RunMonitors:
    config = MonitorsConfig.model_validate(options)
    return RunMonitors(config, classifier=lambda: Rules(by_patterns(PATTERNS)), kl_weight=0.0)


def test_figures_are_named_by_stream() -> None:
    watch = monitors(probe_tasks=2)
    watch.observe(0, GROUPS)
    watch.observe_probe(0, GROUPS)
    assert set(watch.figures()) == {key.replace("/probe/", "/batch/") for key in watch.probe_figures()}
    assert watch.figures()["monitor/batch/pass@1"] == 0.25
    assert watch.figures()["monitor/batch/format/share/a"] == 0.75
    assert watch.probe_figures()["monitor/probe/pass@2"] == 0.5


SIGNS: dict[str, str] = {
    "token_entropy": "token_entropy",
    "distinct_n": "distinct_1",
    "vendi": "vendi",
    "answer_entropy": "answer_semantic_entropy",
    "step_decay": "step_beta",
    "pass_at_k": "pass@1",
    "zero_std": "frac_zero_std",
    "formats": "format/entropy",
    "trajectory_clusters": "clusters_correct",
}


@pytest.mark.parametrize("metric", SIGNS)
def test_each_metric_can_be_turned_off_and_be_the_only_one(metric: str) -> None:
    sign = f"monitor/batch/{SIGNS[metric]}"
    steps = [answers("p", ("A: 1 2 3. B. B.", 1.0), ("A: 4 5. B.", 0.0))]
    every = list(get_args(Metric))
    alone, without = monitors(metrics=[metric]), monitors(metrics=every, without=[metric])
    for watch in (alone, without):
        watch.observe(0, steps)
    assert sign in alone.figures()
    assert sign not in without.figures()
    assert not set(alone.figures()) & set(without.figures())


def test_every_so_many_steps_and_nothing_left_over_between() -> None:
    watch = monitors(every=3)
    seen: list[bool] = []
    for step in range(5):
        watch.observe(step, GROUPS)
        seen.append(bool(watch.figures()))
    assert seen == [True, False, False, True, False]
    off = monitors(batch=False, probe_tasks=1)
    off.observe(0, GROUPS)
    assert off.figures() == {}


def test_when_probes_are_due() -> None:
    watch = monitors(probe_tasks=2, probe_every=4)
    assert [step for step in range(10) if watch.probe_due(step)] == [0, 4, 8]
    assert watch.probe_due(9, last=True)
    watch.observe_probe(4, GROUPS)
    assert not watch.probe_due(4)  # resumed at it
    assert not watch.probe_due(4, last=True)
    assert not any(monitors().probe_due(step, last=True) for step in range(20))


def test_messages_name_their_stream_and_come_once() -> None:
    watch = monitors(probe_tasks=1)
    watch.observe(0, batch([0.28, 0.62, 0.10], [0.35, 0.20, 0.10], samples=300))
    watch.observe(1, batch([0.80, 0.20, 0.00], [0.35, 0.20, 0.10]))
    (told,) = watch.messages()
    assert told.startswith("batch: the format 'a' has risen")
    assert watch.messages() == []


def test_the_batch_and_the_probe_have_references_of_their_own() -> None:
    watch = monitors(probe_tasks=1)
    watch.observe(0, batch([0.28, 0.62, 0.10], [0.35, 0.20, 0.10], samples=300))
    watch.observe_probe(0, batch([0.80, 0.20, 0.00], [0.35, 0.20, 0.10]))
    assert watch.messages() == []
    assert watch.probe_figures()["monitor/probe/format/tv"] == 0.0


def test_a_resumed_run_has_equal_figures_and_messages() -> None:
    def first(watch: RunMonitors) -> None:
        watch.observe(0, batch([0.28, 0.62, 0.10], [0.35, 0.20, 0.10], samples=300))
        watch.observe_probe(0, batch([0.28, 0.62, 0.10], [0.35, 0.20, 0.10], samples=300))

    def later(watch: RunMonitors) -> object:
        watch.observe(1, batch([0.80, 0.20, 0.00], [0.4, 0.20, 0.10], samples=300))
        watch.observe_probe(5, batch([0.80, 0.20, 0.00], [0.4, 0.20, 0.10], samples=300))
        return dict(watch.figures()), dict(watch.probe_figures()), watch.messages(), watch.state_dict()

    straight, broken, resumed = (monitors(probe_tasks=1) for _ in range(3))
    first(straight)
    first(broken)
    resumed.load_state_dict(json.loads(json.dumps(broken.state_dict())))
    assert later(resumed) == later(straight)


def test_the_state_does_not_grow() -> None:
    watch = monitors(probe_tasks=1)
    sizes: list[int] = []
    for step in range(6):
        watch.observe(step, batch([0.28, 0.62, 0.10], [0.35, 0.20, 0.10], samples=200))
        watch.observe_probe(step, GROUPS)
        sizes.append(len(json.dumps(watch.state_dict())))
    assert sizes[-1] == sizes[1]


@pytest.mark.parametrize("state", [{}, {"batch": 3, "probe": {}}, {"batch": {"warnings": {"first": 1}}, "probe": {}}])
def test_states_that_it_did_not_write(state: dict[str, object]) -> None:
    with pytest.raises(CheckpointError):
        monitors().load_state_dict(state)


def test_no_groups_are_no_observation() -> None:
    watch = monitors()
    watch.observe(0, [])
    assert watch.figures() == {}
    watch.observe(1, GROUPS)
    assert watch.figures()["monitor/batch/format/tv"] == 0.0
