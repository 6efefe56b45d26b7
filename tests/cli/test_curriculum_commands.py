"""`critique-rl curriculum order | show` on a matrix of another trainer, and bad input of all three."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from critique_rl.cli.main import main
from critique_rl.config.load import read_run_file, resolve_stages
from tests.test_curriculum import RUN, levels

MATRIX: dict[str, object] = {
    "tasks": ["code", "math", "qa", "write"],
    "base": [0.30, 0.60, 0.40, 0.50],
    "acc": [[0.40, 0.63, 0.41, 0.46], [0.29, 0.70, 0.42, 0.47], [0.28, 0.61, 0.52, 0.50], [0.29, 0.58, 0.41, 0.70]],
}
TWO: dict[str, object] = {"tasks": ["math", "write"], "base": [0.4, 0.5], "acc": [[0.7, 0.4], [0.4, 0.8]]}


def matrix(tmp_path: Path, tree: dict[str, object], **more: object) -> str:
    path = tmp_path / "transfer.json"
    path.write_text(json.dumps({**tree, **more}))
    return str(path)


def test_orders_of_a_matrix_without_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = matrix(tmp_path, MATRIX)
    assert main(["curriculum", "order", path, "--order", "write,math,qa,code"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in out[2:]] == ["exact", "net_gain", "greedy_acc", "worst", "manual"]
    assert "qa > math > code > write" in out[2]
    assert "59.0%" in out[2]
    assert "code 39.0%" in out[2]
    assert "write > code > math > qa" in out[5]
    assert "55.8%" in out[5] or "55.7%" in out[5]


def test_stability_needs_standard_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = matrix(tmp_path, MATRIX, se=[[0.0] * 4] * 4)
    assert main(["curriculum", "order", path, "--draws", "5"]) == 0
    assert capsys.readouterr().out.splitlines()[2].endswith("  0%")


def test_structured_tasks_first_where_orders_are_close(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = matrix(tmp_path, MATRIX)
    assert main(["curriculum", "order", path, "--structured", "math", "--tolerance", "0.003"]) == 0
    assert "exact       math > qa > code > write  58.8%" in capsys.readouterr().out.replace("58.7%", "58.8%")


def test_without_saturation_no_order_matters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["curriculum", "order", matrix(tmp_path, MATRIX), "--no-saturation"]) == 0
    out = capsys.readouterr().out
    assert out.count("56.7%") + out.count("56.8%") == 4
    assert "every order is predicted the same" in out


def test_an_order_becomes_a_run_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "mix.toml"
    run.write_text(RUN)
    target = tmp_path / "staged.toml"
    path = matrix(tmp_path, TWO, run_file=str(run))
    assert main(["curriculum", "order", path, "--method", "worst", "-o", str(target), "--replay-fraction", "0.5"]) == 0
    assert f"run file: {target}" in capsys.readouterr().out
    # D: math -.1 on write, write 0 on math. Best: write has to come last, so the worst order begins with it.
    assert [stage.name for stage in resolve_stages(read_run_file(target))] == ["write", "math"]
    assert "rule worst: predicted mean 70.0%" in target.read_text()  # (.7 + .8 - .1) / 2
    assert main(["curriculum", "order", path, "-o", str(target)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_show_draws_the_matrix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["curriculum", "show", matrix(tmp_path, MATRIX)]) == 0
    out = capsys.readouterr().out
    assert "(start)     30.0%" in out
    assert "63.0% (+3.0)" in out
    assert (tmp_path / "transfer.png").stat().st_size > 1000
    assert main(["curriculum", "show", str(tmp_path), "--picture", str(tmp_path / "other.png")]) == 0
    assert (tmp_path / "other.png").exists()


def test_show_puts_a_staged_run_beside_what_was_predicted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages = [
        {"name": "math", "end": levels(math=0.68, write=0.41)},
        {"name": "write", "end": levels(math=0.60, write=0.79)},
    ]
    runs = tmp_path / "run"
    runs.mkdir()
    row = {"arm": "best", "start": levels(math=0.4, write=0.5), "stages": stages}
    (runs / "summary.json").write_text(json.dumps({"results": [row]}))
    out_file = tmp_path / "staged.json"
    assert main(["curriculum", "show", str(runs), "--transfer", matrix(tmp_path, TWO), "--out", str(out_file)]) == 0
    written = {row["name"]: row["value"] for row in json.loads(out_file.read_text())["rows"]}
    assert written["best/mean/predicted"] == pytest.approx(0.75)
    assert written["best/mean/realised"] == pytest.approx(0.695)
    assert written["best/math/own_stage"] == pytest.approx(0.68)
    assert written["best/backward_transfer"] == pytest.approx(-0.08)
    assert (runs / "curriculum.png").stat().st_size > 1000
    out = capsys.readouterr().out
    assert "best: math > write, mean of 1 seed" in out
    cells = next(line for line in out.splitlines() if line.startswith("math")).split()
    # start, own stage predicted and realised, end predicted and realised, forgotten predicted and realised
    assert cells == ["math", "40.0%", "70.0%", "68.0%", "70.0%", "60.0%", "+0.0", "+8.0"]
    assert "predicted 75.0%, realised 69.5%" in out  # (.7 + .8) / 2 and (.60 + .79) / 2
    assert "realised -8.0 points" in out


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["order", "none.json"], "does not exist"),
        (["order", "{m}", "--method", "manual"], "go together"),
        (["order", "{m}", "--method", "exact", "--order", "code,math,qa,write"], "go together"),
        (["order", "{m}", "--order", "code,math"], "exactly once"),
        (["order", "{m}", "--structured", "art"], "structured names 'art'"),
        (["order", "{m}", "--tolerance", "1"], "without --structured"),
        (["order", "{m}", "--replay-fraction", "0.1"], "without -o"),
        (["order", "{m}", "-o", "x.toml"], "give it as --run"),
        (["order", "{m}", "--seed", "3"], "unknown argument '--seed'"),
        (["show", "{m}", "--transfer", "{m}"], "no effect with a matrix"),
        (["show", "{d}/empty"], "--transfer TRANSFER.json"),
        (["show", "{m}", "--out", "x.json"], "--out has no effect with a matrix"),
        (["show", "{d}/empty", "--transfer", "{m}"], "holds no finished run"),
        (["measure", "none.toml"], "does not exist"),
        (["measure", "{r}"], 'wanted "mixture"'),
        (["measure", "{r}", "--output", "{d}"], "holds a matrix already"),
    ],
)
def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], wanted: str) -> None:
    path = matrix(tmp_path, MATRIX)
    (tmp_path / "empty").mkdir()
    run = tmp_path / "lab.toml"
    run.write_text('name = "lab"\n')
    given = [one.format(m=path, d=tmp_path, r=run) for one in arguments]
    assert main(["curriculum", *given]) == 2
    assert wanted in capsys.readouterr().err
