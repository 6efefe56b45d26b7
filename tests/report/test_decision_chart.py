"""The risk-coverage picture: written whole, also with one point, equal marks and many marks."""

from __future__ import annotations

from pathlib import Path

import pytest

from critique_rl.report.decision_chart import Mark, draw_risk_coverage


@pytest.mark.parametrize(
    ("points", "marks"),
    [
        ([(0.2, 0.0), (0.6, 0.1), (1.0, 0.3)], [("penalty 1", 0.6, 0.1), ("penalty 2", 0.6, 0.1)]),
        ([(1.0, 0.0)], []),
        ([(n / 40, n / 80) for n in range(1, 41)], [(f"penalty {n}", n / 20, n / 40) for n in range(1, 20)]),
        ([(1.0, 1.0)], [("1,0,0", 1.0, 1.0)]),
    ],
)
def test_a_picture_is_written(tmp_path: Path, points: list[tuple[float, float]], marks: list[Mark]) -> None:
    path = tmp_path / "curve.png"
    draw_risk_coverage(points, area=0.1, error_rate=points[-1][1], marks=marks, path=path)
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert int.from_bytes(data[16:20], "big") == 896  # 5.6 inches at 160 dots
    draw_risk_coverage(points, area=0.1, error_rate=points[-1][1], marks=marks, path=path)
    assert path.read_bytes() == data
