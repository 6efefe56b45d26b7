"""The command line: what each command prints and returns; an error is one line and exit code 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from critique_rl import __version__
from critique_rl.cli.commands import DEMO, overrides
from critique_rl.cli.main import main
from critique_rl.config.load import read_run_file, resolve
from critique_rl.errors import ConfigError
from tests.lab_runs import LAB, lines, toml

ROOT = Path(__file__).parents[2]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def run_toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A small run file in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text(toml(LAB))
    return "run.toml"


# -- overrides ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rest", "pairs"),
    [
        ([], []),
        (["--a.b", "1"], [("a.b", "1")]),
        (["--a.b=1"], [("a.b", "1")]),
        (["--a.b=", "--c", "--d"], [("a.b", ""), ("c", "--d")]),
        (["--a.b", "x=y", "--c=x=y"], [("a.b", "x=y"), ("c", "x=y")]),
        (["--lr", "-1e-4"], [("lr", "-1e-4")]),
    ],
)
def test_overrides_are_pairs(rest: list[str], pairs: list[tuple[str, str]]) -> None:
    assert overrides(rest, allowed=True) == pairs


@pytest.mark.parametrize(
    ("rest", "wanted"),
    [
        (["stray"], "unknown argument 'stray'; see --help of this command"),
        (["-x", "1"], "unknown argument '-x'"),
        (["--"], "unknown argument '--'"),
        (["--a.b"], "--a.b needs a value: --a.b VALUE"),
    ],
)
def test_anything_else_is_refused(rest: list[str], wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        overrides(rest, allowed=True)


def test_commands_without_a_run_file_take_no_overrides(capsys: Capture) -> None:
    assert main(["keys", "--seed", "1"]) == 2
    assert capsys.readouterr().err == "critique-rl: error: unknown argument '--seed'; see --help of this command\n"


# -- commands that only tell -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--help"], ["train", "--help"], ["lab", "--help"]], ids=" ".join)
def test_help(arguments: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == (0 if arguments else 2)
    out, err = capsys.readouterr()
    assert "usage: critique-rl" in out + err


def test_version(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"critique-rl {__version__}\n"


@pytest.mark.parametrize("arguments", [["demo", "--steps", "0"], ["demo", "--seeds", "-1"], ["demo", "--seeds", "x"]])
def test_numbers_are_checked_by_the_parser(arguments: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert arguments[-1] in capsys.readouterr().err


def test_keys_lists_every_section(capsys: Capture) -> None:
    assert main(["keys"]) == 0
    out = capsys.readouterr().out
    for key in (
        "rollout.group_size",
        "critic.base_url",
        "plateau.min_failures",
        "distillation.k",
        "checks.at_most",
        "seeds",
    ):
        assert f"\n  {key} (" in f"\n{out}"


def test_prompts_are_listed_and_shown(capsys: Capture, tmp_path: Path) -> None:
    assert main(["prompts"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == sorted(p.stem for p in (ROOT / "prompts").glob("*.md"))
    assert main(["prompts", "refine"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("# refine v") and "{{ directive }}" in shown
    assert main(["prompts", "critic"]) == 0
    assert "\n[system]\n" in capsys.readouterr().out
    assert main(["prompts", "none"]) == 2
    assert "prompt 'none' does not exist" in capsys.readouterr().err


def test_the_demo_s_run_file_is_one(capsys: Capture) -> None:
    run_file = read_run_file(DEMO)
    assert [resolve(run_file, arm=arm).name for arm in run_file.arms] == ["demo"] * len(run_file.arms)


# -- train, report, eval -----------------------------------------------------------------------------------------------


def test_train_says_what_came_out_and_where(run_toml: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["critique-rl", "train", run_toml, "--output", "a b"])
    assert main(["train", run_toml, "--output", "a b"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "small            seed 0  hard " in out and out.rstrip().endswith("summary: a b/summary.json")
    assert "report: a b/report.html" in out
    summary = json.loads(Path("a b/summary.json").read_text())
    assert summary["command"] == "critique-rl train run.toml --output 'a b'"


def test_output_is_named_after_the_run_and_numbered(run_toml: str, capsys: Capture) -> None:
    for _ in range(2):
        assert main(["train", run_toml, "--budget.max_steps", "1", "--output", ""]) == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == ["small", "small-2"]
    # a resume goes on with the newest
    assert main(["train", run_toml, "--budget.max_steps=2", "--resume"]) == 0
    assert json.loads(Path("runs/small-2/summary.json").read_text())["results"][0]["steps"] == 2
    assert json.loads(Path("runs/small/summary.json").read_text())["results"][0]["steps"] == 1
    capsys.readouterr()


def test_arms_seeds_checks_and_a_check_that_fails(run_toml: str, capsys: Capture) -> None:
    arms = '[arms.scalar]\nalgorithm.name = "grpo"\n[arms.both]\nalgorithm.name = "two_channel"\n'
    bounds = (
        '"sure"\narm = "both"\nclass = "hard"\nat_least = 0.0',
        '"dream"\narm = "both"\nclass = "hard"\nat_least = 1.0',
    )
    checks = "".join(f"[[checks]]\nname = {bound}\n" for bound in bounds)
    Path(run_toml).write_text(toml(LAB) + arms + checks)
    assert main(["train", run_toml, "--seeds", "1", "2", "--arms", "both", "--output", "out"]) == 0
    out = capsys.readouterr().out
    assert sorted(str(p) for p in Path("out").glob("*/*")) == ["out/both/seed-1", "out/both/seed-2"]
    assert "holds: sure (" in out and "FAILS: dream (" in out and "wanted >= 1)" in out


def test_an_interrupted_run_returns_130_and_goes_on(
    run_toml: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from critique_rl.loop.train import Trainer

    def pressed(self: Trainer, *_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_record", pressed)
        assert main(["train", run_toml, "--output", "out"]) == 130
    out = capsys.readouterr().out
    assert "interrupted; the state so far is saved" in out and "report: out/report.html" in out
    assert main(["train", run_toml, "--output", "out", "--resume"]) == 0
    assert json.loads(Path("out/summary.json").read_text())["results"][0]["steps"] == 2


def test_report_makes_the_page_anew(run_toml: str, capsys: Capture) -> None:
    assert main(["train", run_toml, "--output", "out"]) == 0
    before = Path("out/report.html").read_text(encoding="utf-8")
    Path("out/report.html").unlink()
    capsys.readouterr()
    assert main(["report", "out"]) == 0
    assert capsys.readouterr().out == "out/report.html\n"
    assert Path("out/report.html").read_text(encoding="utf-8") == before
    assert main(["report", "nowhere"]) == 2
    assert "nowhere: no such run directory" in capsys.readouterr().err


def test_eval_of_the_start_and_of_a_checkpoint(run_toml: str, capsys: Capture) -> None:
    assert main(["eval", run_toml]) == 0
    start = json.loads(capsys.readouterr().out)
    assert {kind: s["trials"] for kind, s in start.items()} == {"easy": 4, "hard": 4}
    assert main(["train", run_toml, "--output", "out"]) == 0
    capsys.readouterr()
    assert main(["eval", run_toml, "--checkpoint", "out/checkpoints/step-000002", "--evaluation.temperature", "0"]) == 0
    assert json.loads(capsys.readouterr().out).keys() == {"easy", "hard"}
    # the first evaluation of a run is the same question
    assert lines(Path("out/metrics.jsonl"))[0]["eval/easy"] == start["easy"]["success"]
    assert main(["eval", run_toml, "--evaluation.max_tokens", "1"]) == 0
    assert all(s["success"] == 0.0 for s in json.loads(capsys.readouterr().out).values())  # no answer has one digit
    assert main(["eval", run_toml, "--checkpoint", "nowhere"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "nowhere" in err


def test_eval_needs_no_critic(run_toml: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    critic = ["--critic.kind", "openai", "--critic.model", "m", "--critic.api_key_env", "NO_SUCH_KEY"]
    assert main(["eval", run_toml, *critic]) == 0
    assert json.loads(capsys.readouterr().out).keys() == {"easy", "hard"}


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m critique_rl.cli.main keys | head -n 1; exit ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
