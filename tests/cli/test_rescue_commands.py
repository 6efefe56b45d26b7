"""`rollout` and `rescue` from the command line: a file of attempts, then the table about them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from critique_rl.cli.commands import overrides
from critique_rl.cli.rescue_commands import add_parsers, handle
from critique_rl.errors import ConfigError, DataError
from critique_rl.feedback.rows import read_rollouts
from critique_rl.rescue import failed
from tests.lab_runs import LAB, lab_config, lab_trainer, lines, toml

Capture = pytest.CaptureFixture[str]
IDLE = """
[critic]
kind = "scripted"
replies = ['{"directives": [{"text": "Please look at all of it again."}], "scores": {"correctness": 0.5}}']
"""


def _run(*arguments: str) -> int:
    top = argparse.ArgumentParser()
    add_parsers(top.add_subparsers(dest="verb", required=True))
    known, rest = top.parse_known_args(arguments)
    return handle(known, overrides(rest, allowed=True))


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run file and a critic file in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text(toml(LAB))
    Path("idle.toml").write_text(IDLE)
    return tmp_path


def test_rollout_then_rescue(workplace: Path, capsys: Capture) -> None:
    assert _run("rollout", "run.toml", "--out", "all.jsonl", "--tasks", "4", "--group-size", "4") == 0
    assert capsys.readouterr().out == "16 attempts at 4 tasks, 8 of them failed; 16 written to all.jsonl\n"
    critics = ["--critic", "lab_rules", "--critic", "idle.toml"]
    assert _run("rescue", "all.jsonl", "--run", "run.toml", *critics, "--out", "out/table.json") == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("8 failed attempts at 2 tasks, 1 second attempts each")
    better = next(line for line in shown.out.splitlines() if line.startswith("better than control"))
    assert better.split()[-3:] == ["-", "yes", "no"]
    assert "lab_rules: 8 failed attempts" in shown.err
    result = json.loads(Path("out/table.json").read_text(encoding="utf-8"))
    assert [entry["critic"] for entry in result["table"]] == ["control", "lab_rules", "idle.toml"]
    assert result["command"].startswith("critique-rl")
    assert not list(Path("out").glob(".*"))
    assert workplace.exists()


@pytest.mark.usefixtures("workplace")
def test_failed_only_overrides_and_json(capsys: Capture) -> None:
    pairs = ["--rollout.group_size", "2", "--tasks.hard_share=1"]
    assert _run("rollout", "run.toml", "--out", "wrong.jsonl", "--failed-only", *pairs) == 0
    rows = list(read_rollouts("wrong.jsonl"))
    assert rows
    assert all(map(failed, rows))
    assert f"8 attempts at 4 tasks, {len(rows)} of them failed" in capsys.readouterr().out
    options = ["--limit", "3", "--samples", "2", "--json"]
    assert _run("rescue", "wrong.jsonl", "--run", "run.toml", "--critic", "lab_rules", *options) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["attempts"], result["samples"]) == (3, 2)
    assert result["table"][1]["second_attempts"] == 6
    assert "no right attempts" in result["notes"][0]


@pytest.mark.usefixtures("workplace")
def test_a_checkpoint_is_the_policy(tmp_path: Path, capsys: Capture) -> None:
    trainer = lab_trainer(lab_config(), tmp_path / "run")
    trainer.parts.policy.save(tmp_path / "saved")
    trainer.parts.tracker.close()
    flags = ["--tasks", "2", "--group-size", "2", "--checkpoint", str(tmp_path / "saved")]
    assert _run("rollout", "run.toml", "--out", "a.jsonl", *flags) == 0
    assert _run("rescue", "a.jsonl", "--run", "run.toml", "--critic", "lab_rules", *flags[-2:], "--json") == 0
    shown = capsys.readouterr().out
    assert json.loads(shown[shown.index("{") :])["checkpoint"] == str(tmp_path / "saved")
    assert len(lines(Path("a.jsonl"))) == 4


@pytest.mark.usefixtures("workplace")
def test_without_an_arm_the_first_that_refines_is_taken(capsys: Capture) -> None:
    text = Path("run.toml").read_text(encoding="utf-8")
    Path("arms.toml").write_text(
        text + '\n[arms.scalar]\nalgorithm.name = "grpo"\n\n[arms.two]\nrollout.group_size = 2\n'
    )
    assert _run("rollout", "arms.toml", "--out", "a.jsonl") == 0
    assert _run("rollout", "arms.toml", "--out", "b.jsonl", "--arm", "scalar") == 0
    assert len(lines(Path("a.jsonl"))) == 8
    assert len(lines(Path("b.jsonl"))) == 16
    assert _run("rescue", "b.jsonl", "--run", "arms.toml", "--critic", "lab_rules", "--limit", "4") == 0
    better = [line for line in capsys.readouterr().out.splitlines() if line.startswith("right")]
    assert "100.0%" in better[0]  # under lab_refine, the second arm's prompt


@pytest.mark.usefixtures("workplace")
def test_what_cannot_be_done_is_refused(capsys: Capture) -> None:
    Path("taken.jsonl").write_text("mine")
    with pytest.raises(ConfigError, match=r"taken\.jsonl exists already"):
        _run("rollout", "run.toml", "--out", "taken.jsonl")
    assert Path("taken.jsonl").read_text(encoding="utf-8") == "mine"
    with pytest.raises(ConfigError, match="there is no arm 'x'"):
        _run("rollout", "run.toml", "--out", "new.jsonl", "--arm", "x")
    rescue = ["rescue", "rows.jsonl", "--run", "run.toml", "--critic"]
    with pytest.raises(ConfigError, match="'nobody' is no critic"):
        _run(*rescue, "nobody")
    Path("bad.toml").write_text('[critic]\nkind = "scripted"\nreplies = ["x"]\ncolour = 1\n')
    with pytest.raises(ConfigError, match=r"--critic bad\.toml: colour: Extra inputs"):
        _run(*rescue, "bad.toml")
    with pytest.raises(DataError, match=r"rows\.jsonl"):
        _run(*rescue, "lab_rules")
    for arguments in (["rollout", "run.toml"], ["rescue", "a", "--run", "b"], [*rescue, "c", "--limit", "0"]):
        with pytest.raises(SystemExit):
            _run(*arguments)
    assert "not a whole number above 0" in capsys.readouterr().err
