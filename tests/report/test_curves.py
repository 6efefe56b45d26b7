"""Which points are drawn, and what the drawing is made of."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

from critique_rl.report.charts import curve_svg, state_svg
from critique_rl.report.curves import Panel, StatePanel, kinds, panels, state_panels
from critique_rl.report.load import RunSet, load_run_set

MakeRun = Callable[..., Path]


def run_set_of(path: Path, lines: Sequence[Mapping[str, float | None]]) -> RunSet:
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return load_run_set(path)


def test_points_are_block_means_against_tokens(tmp_path: Path) -> None:
    lines = [{"step": s, "reward/hard": float(s % 2), "tokens/generated": 10.0 * (s + 1)} for s in range(96)]
    (panel,) = panels(run_set_of(tmp_path, lines))
    assert (panel.kind, panel.x_label) == ("hard", "generated tokens")
    # 96 steps in 48 blocks of two: rewards 0 and 1, tokens 10 and 20, then 30 and 40.
    assert panel.curves[0].training[:2] == ((15.0, 0.5), (35.0, 0.5))
    assert len(panel.curves[0].training) == 48


def test_without_token_counts_the_axis_is_steps(tmp_path: Path) -> None:
    (panel,) = panels(run_set_of(tmp_path, [{"step": 4, "reward/mean": 0.5}, {"step": 5, "reward/mean": None}]))
    assert (panel.kind, panel.x_label, panel.curves[0].training) == ("mean", "step", ((4.0, 0.5),))


def test_an_evaluation_without_a_count_takes_the_one_before_it(tmp_path: Path) -> None:
    lines = [
        {"step": 0, "tokens/generated": 50.0, "reward/hard": 0.0},
        {"step": 0, "eval/hard": 0.25, "eval/hard/low": 0.1},
    ]
    (panel,) = panels(run_set_of(tmp_path, lines))
    assert panel.curves[0].evaluation == ((50.0, 0.25),)


def test_moments_lie_on_the_curve(tmp_path: Path) -> None:
    lines = [
        {
            "step": s,
            "reward/hard": s / 10,
            "tokens/generated": 100.0 * s,
            "plateau/plateaued": s > 2,
            "critic/calls": s > 3,
        }
        for s in range(6)
    ]
    (panel,) = panels(run_set_of(tmp_path, lines))
    assert panel.curves[0].stall == pytest.approx((300.0, 0.3))
    assert panel.curves[0].first_call == pytest.approx((400.0, 0.4))


def test_kinds_follow_the_table_and_the_mean_is_only_for_want_of_others(tmp_path: Path) -> None:
    run_set = run_set_of(tmp_path, [{"step": 0, "reward/mean": 1, "reward/easy": 1, "reward/hard": 1, "eval/odd": 1}])
    assert kinds(run_set, ["hard", "easy"]) == ["hard", "easy", "odd"]
    assert kinds(run_set) == ["easy", "hard", "odd"]


def test_no_metrics_no_panels(tmp_path: Path) -> None:
    run_set = run_set_of(tmp_path, [])
    assert (panels(run_set), state_panels(run_set)) == ([], [])


def test_states_are_shown_for_arms_that_stalled(tmp_path: Path, make_run: MakeRun) -> None:
    shown = state_panels(load_run_set(make_run(tmp_path)))
    assert [panel.label for panel in shown] == ["scalar GRPO", "Critique-GRPO", "both channels"]
    assert [name for name, _ in shown[0].states] == ["plateaued", "rescued", "dormant"]


def pictures(path: Path, make_run: MakeRun) -> list[str]:
    run_set = load_run_set(make_run(path))
    curves = [str(curve_svg(panel, name=f"c{i}")) for i, panel in enumerate(panels(run_set))]
    return curves + [str(state_svg(panel, name=f"s{i}")) for i, panel in enumerate(state_panels(run_set))]


def test_pictures_are_repeatable_xml_in_the_colours_of_the_page(tmp_path: Path, make_run: MakeRun) -> None:
    first, second = pictures(tmp_path / "a", make_run), pictures(tmp_path / "b", make_run)
    assert first == second
    for svg in first:
        ElementTree.fromstring(svg)
        assert "var(--line)" in svg and not re.search(r"#0a0[bc]", svg)
        assert "<text" in svg and "generated tokens" in svg
        addresses = set(re.findall(r'https?://[^"\s]+', svg))
        assert all(address.startswith("http://www.w3.org/") for address in addresses)
    assert all(f"var(--arm-{arm})" in first[0] for arm in range(3))


def test_ids_of_several_pictures_do_not_meet(tmp_path: Path, make_run: MakeRun) -> None:
    every = pictures(tmp_path, make_run)
    ids = [name for svg in every for name in re.findall(r' id="([^"]+)"', svg)]
    assert ids and len(ids) == len(set(ids))
    for svg in every:
        assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg)) <= set(re.findall(r' id="([^"]+)"', svg))


def test_hostile_names_stay_text() -> None:
    hostile = '"><script>x</script>'
    svg = str(curve_svg(Panel(kind=hostile, x_label="step", curves=()), name="c"))
    svg += str(state_svg(StatePanel(label=hostile, x_label="step", states=(("plateaued", ()),)), name="s"))
    assert "<script" not in svg
