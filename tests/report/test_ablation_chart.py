"""Both pictures of an ablation are drawn from a table's rows, also where an arm lacks a class, a seed or a curve."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.image import imread

from critique_rl.report.ablation_chart import draw_ablation, draw_curves

Json = dict[str, object]
PNG = b"\x89PNG\r\n\x1a\n"


def row(arm: str, kind: str, *, curve: bool = True) -> Json:
    points = (
        [{"tokens": 1000.0 * n, "success": n / 3, "lowest": 0.0, "highest": 1.0} for n in range(3)] if curve else []
    )
    return {"arm": arm, "class": kind, "mean": 0.5, "low": 0.2, "high": 0.8, "rates": [0.4, 0.6], "curve": points}


def pixels_of(path: Path, colour: str) -> int:
    """How many pixels have nearly this colour."""
    wanted = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return int((abs(imread(path)[:, :, :3] - wanted) < 0.02).all(axis=2).sum())


def test_both_pictures_are_images(tmp_path: Path) -> None:
    table = [row("plain", "easy"), row("plain", "hard"), row("both", "easy"), row("lame", "hard", curve=False)]
    draw_ablation(table, reference="plain", path=tmp_path / "a.png")
    draw_curves(table, reference="plain", path=tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes()[:8] == PNG
    assert (tmp_path / "b.png").read_bytes()[:8] == PNG


def test_each_arm_has_a_line_and_the_reference_a_colour_of_its_own(tmp_path: Path) -> None:
    draw_curves([row("plain", "easy"), row("both", "easy")], reference="plain", path=tmp_path / "two.png")
    draw_curves([row("plain", "easy")], reference="plain", path=tmp_path / "one.png")
    assert pixels_of(tmp_path / "two.png", "#1f5fbf") > 20
    assert pixels_of(tmp_path / "one.png", "#1f5fbf") == 0
    assert pixels_of(tmp_path / "one.png", "#8a5a00") > 20


def test_more_arms_than_colours(tmp_path: Path) -> None:
    draw_curves([row(f"arm_{n}", "all") for n in range(17)], reference="arm_0", path=tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes()[:8] == PNG


def test_a_table_without_curves_gives_an_empty_picture(tmp_path: Path) -> None:
    draw_curves([row("plain", "easy", curve=False)], reference="plain", path=tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes()[:8] == PNG


def test_a_folder_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        draw_curves([row("plain", "easy")], reference="plain", path=tmp_path / "no" / "x.png")


def test_further_metrics_have_panels_four_in_a_row(tmp_path: Path) -> None:
    def metrics(low: float | None) -> Json:
        known: Json = {"mean": -1.5, "low": low, "high": low, "values": [-1.4, -1.6]}
        nothing: Json = {"mean": None, "low": None, "high": None, "values": [None, None]}
        return {"utility@4": known, "pass@64": nothing, "confidence/ece": known, "coverage@4": nothing}

    table = [row("plain", "all") | {"metrics": metrics(None)}, row("both", "all") | {"metrics": metrics(-1.0)}]
    draw_ablation(table, reference="plain", path=tmp_path / "more.png")
    draw_ablation([row("plain", "all"), row("both", "all")], reference="plain", path=tmp_path / "one.png")
    more, one = imread(tmp_path / "more.png").shape, imread(tmp_path / "one.png").shape
    assert more[0] == pytest.approx(2 * one[0], abs=1)  # five panels: two rows
    assert more[1] > 2 * one[1]
