"""Whatever a user gets wrong: one clear line on stderr, exit code 2, no traceback, and nothing lost."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from critique_rl.cli.main import main
from critique_rl.errors import CheckpointError
from critique_rl.loop.checkpoint import latest_checkpoint
from critique_rl.policy.hf import HFPolicy
from critique_rl.trackers.jsonl import JsonlTracker
from tests.lab_runs import LAB, lines, toml

ROOT = Path(__file__).parents[2]
Capture = pytest.CaptureFixture[str]
NO_KEY = ["--critic.model", "gpt-4o-mini", "--critic.api_key_env", "NO_SUCH_KEY"]


@pytest.fixture(autouse=True)
def run_toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A small run file in an empty working directory, and no keys."""
    monkeypatch.chdir(tmp_path)
    for name in ("NO_SUCH_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    Path("run.toml").write_text(toml(LAB))
    return "run.toml"


def refused(capfd: Capture, *arguments: str) -> str:
    """The one line that a command writes before it returns 2."""
    assert main(list(arguments)) == 2
    err = capfd.readouterr().err
    assert err.startswith("critique-rl: error: ") and err.count("\n") == 1, err
    assert "Traceback" not in err
    return err


def write(name: str, text: str) -> str:
    Path(name).write_text(text)
    return name


def template(inputs: str, body: str) -> str:
    return write("mine.md", f'+++\nname = "mine"\nversion = 1\ndescription = "d"\ninputs = [{inputs}]\n+++\n{body}\n')


def rows(*lines: str) -> None:
    """Let the run file's tasks be these rows."""
    write("rows.jsonl", "\n".join(lines) + "\n")
    tasks = {"kind": "jsonl", "path": "rows.jsonl", "held_out_fraction": 0}
    write("run.toml", toml({**LAB, "tasks": tasks}))


def no_run_file() -> tuple[list[str], list[str]]:
    return ["none.toml"], ["run file 'none.toml' does not exist; give the path of a TOML file"]


def broken_toml() -> tuple[list[str], list[str]]:
    return [write("bad.toml", "[rollout]\ngroup_size 8\n")], ["'bad.toml' is not valid TOML", "(at line 2, column 12)"]


def unknown_key() -> tuple[list[str], list[str]]:
    return ["run.toml", "--rollout.groupsize", "4"], ["run.toml: rollout.groupsize is not a known key"]


def inert_section() -> tuple[list[str], list[str]]:
    return ["run.toml", "--algorithm.name", "critique_grpo"], ["[distillation] would have no effect"]


def unknown_arm() -> tuple[list[str], list[str]]:
    return ["run.toml", "--arms", "botch"], ["run.toml: there is no arm 'botch'; it has none"]


def stray_argument() -> tuple[list[str], list[str]]:
    return ["run.toml", "stray"], ["unknown argument 'stray'"]


def missing_model_directory() -> tuple[list[str], list[str]]:
    return ["run.toml", "--policy.model", "./models/none"], ["policy.model: the directory 'models/none' does not exist"]


def directory_without_a_model() -> tuple[list[str], list[str]]:
    Path("empty").mkdir()
    return ["run.toml", "--policy.model", "./empty"], ["policy.model: the directory 'empty' holds no config.json"]


def missing_rows() -> tuple[list[str], list[str]]:
    rows('{"prompt": "q", "answer": "a"}')
    Path("rows.jsonl").unlink()
    return ["run.toml"], ["rows.jsonl"]


def unreadable_row() -> tuple[list[str], list[str]]:
    rows('{"prompt": "q", "answer": "a"}', "{not json")
    return ["run.toml"], ["rows.jsonl, line 2: not JSON"]


def row_without_an_answer() -> tuple[list[str], list[str]]:
    rows('{"prompt": "q", "answer": "a"}', "", '{"prompt": "p"}')
    return ["run.toml"], ["rows.jsonl, line 3: answer is missing"]


def unknown_verifier() -> tuple[list[str], list[str]]:
    rows('{"prompt": "q", "answer": "a", "verifier": "mine"}')
    return ["run.toml", "--rollout.prompts_per_step", "1"], ["names verifier 'mine'", "[rewards.mine]"]


def template_that_declares_too_much() -> tuple[list[str], list[str]]:
    path = template('"question", "directive", "attempt"', "{{ question }} {{ directive }}")
    return ["run.toml", "--refinement.prompt", path], ["mine.md", "declared but not used: attempt"]


def template_that_declares_too_little() -> tuple[list[str], list[str]]:
    path = template('"question"', "{{ question }} {{ directive }}")
    return ["run.toml", "--distillation.prompt", path], ["mine.md", "used but not declared: directive"]


def template_that_wants_the_answer() -> tuple[list[str], list[str]]:
    path = template('"reference"', "{{ reference }}")
    return ["run.toml", "--refinement.prompt", path], ["mine.md", "wants reference"]


def openai_without_a_key() -> tuple[list[str], list[str]]:
    return ["run.toml", "--critic.kind", "openai", *NO_KEY], ["NO_SUCH_KEY"]


def litellm_without_a_key() -> tuple[list[str], list[str]]:
    return ["run.toml", "--critic.kind", "litellm", *NO_KEY], ["NO_SUCH_KEY"]


def litellm_without_any_key() -> tuple[list[str], list[str]]:
    return ["run.toml", "--critic.kind", "litellm", "--critic.model", "openai/gpt-4o-mini"], ["OPENAI_API_KEY"]


def recorded_without_a_record() -> tuple[list[str], list[str]]:
    return ["run.toml", "--critic.kind", "recorded", "--critic.path", "none.jsonl"], ["none.jsonl", "does not exist"]


def resume_without_a_run() -> tuple[list[str], list[str]]:
    return ["run.toml", "--resume"], ["--resume: there is no run directory runs/small; leave --resume out"]


def resume_of_an_empty_output() -> tuple[list[str], list[str]]:
    return ["run.toml", "--resume", "--output", "none"], ["--resume: none holds no run; leave --resume out"]


def output_that_is_a_file() -> tuple[list[str], list[str]]:
    return ["run.toml", "--output", write("taken", "")], ["taken"]


def output_below_a_file() -> tuple[list[str], list[str]]:
    write("taken", "")
    return ["run.toml", "--output", "taken/below"], ["taken/below"]


CASES: list[Callable[[], tuple[list[str], list[str]]]] = [
    no_run_file,
    broken_toml,
    unknown_key,
    inert_section,
    unknown_arm,
    stray_argument,
    missing_model_directory,
    directory_without_a_model,
    missing_rows,
    unreadable_row,
    row_without_an_answer,
    unknown_verifier,
    template_that_declares_too_much,
    template_that_declares_too_little,
    template_that_wants_the_answer,
    openai_without_a_key,
    litellm_without_a_key,
    litellm_without_any_key,
    recorded_without_a_record,
    resume_without_a_run,
    resume_of_an_empty_output,
    output_that_is_a_file,
    output_below_a_file,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_one_clear_line(case: Callable[[], tuple[list[str], list[str]]], capfd: Capture) -> None:
    arguments, wanted = case()
    line = refused(capfd, "train", *arguments)
    assert all(words in line for words in wanted), line


def test_a_fresh_process_writes_one_line_too(run_toml: str) -> None:
    arguments, (wanted,) = missing_model_directory()
    command = [sys.executable, "-m", "critique_rl.cli.main", "train", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("critique-rl: error: ") and done.stderr.count("\n") == 1 and wanted in done.stderr


@pytest.mark.parametrize("case", [no_run_file, unknown_key, missing_model_directory, unreadable_row])
def test_eval_says_the_same(case: Callable[[], tuple[list[str], list[str]]], capfd: Capture) -> None:
    arguments, wanted = case()
    line = refused(capfd, "eval", *arguments)
    assert all(words in line for words in wanted), line


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_that_may_not_be_written(capfd: Capture) -> None:
    Path("locked").mkdir(mode=0o500)
    assert "locked" in refused(capfd, "train", "run.toml", "--output", "locked/out")


def test_an_output_on_a_full_or_read_only_disk(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", fails)
    line = refused(capfd, "train", "run.toml", "--output", "out")
    assert "out" in line and "Read-only file system" in line


def test_an_error_of_several_lines_becomes_one(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise CheckpointError("first\n  second")

    monkeypatch.setattr("critique_rl.experiment.run_all", fails)
    assert refused(capfd, "train", "run.toml") == "critique-rl: error: first second\n"


def test_an_old_run_is_never_written_over(capfd: Capture) -> None:
    assert main(["train", "run.toml", "--output", "out"]) == 0
    before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    capfd.readouterr()
    line = refused(capfd, "train", "run.toml", "--output", "out")
    assert "already holds an earlier run; resume that run, or choose another output directory" in line
    line = refused(capfd, "train", "run.toml", "--output", "out", "--resume", "--optimizer.learning_rate", "1e-3")
    assert "was started with another config: optimizer differ" in line
    assert {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()} == before


def test_a_broken_checkpoint_is_named(capfd: Capture) -> None:
    assert main(["train", "run.toml", "--output", "out"]) == 0
    capfd.readouterr()
    Path("out/checkpoints/step-000002/optimizer.pt").write_bytes(b"half")
    longer = ["train", "run.toml", "--output", "out", "--resume", "--budget.max_steps", "3"]
    assert "out/checkpoints/step-000002" in refused(capfd, *longer)
    Path("out/checkpoints/step-000002/state.json").write_text("{")
    assert "delete it to go back" in refused(capfd, *longer)


# -- a full disk -------------------------------------------------------------------------------------------------------

STEPS = ["--budget.max_steps", "4", "--checkpoint.every", "2", "--checkpoint.keep", "2"]


def test_a_disk_that_fills_up_while_a_checkpoint_is_written(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    real = HFPolicy.save

    def full(self: HFPolicy, directory: Path) -> None:
        if self.version < 3:
            return real(self, directory)
        (directory / "policy").mkdir()
        (directory / "policy/model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(HFPolicy, "save", full)
        line = refused(capfd, "train", "run.toml", "--output", "out", *STEPS)
    assert "step-000004' could not be written: [Errno 28] No space left on device" in line
    assert "everything up to step 4 is in the metrics, and older checkpoints are whole" in line
    assert "run again with --resume" in line
    assert [path.name for path in Path("out/checkpoints").iterdir()] == ["step-000002"]
    assert [row["step"] for row in lines(Path("out/metrics.jsonl")) if "loss/total" in row] == [1, 2, 3, 4]
    saved = latest_checkpoint(Path("out/checkpoints"))
    assert saved is not None and {"policy", "optimizer.pt", "state.json"} <= {p.name for p in saved.directory.iterdir()}
    assert main(["eval", "run.toml", "--checkpoint", str(saved.directory)]) == 0

    # and the way on that the message names ends where a run with room to write ends
    assert main(["train", "run.toml", "--output", "out", *STEPS, "--resume"]) == 0
    assert main(["train", "run.toml", "--output", "roomy", *STEPS]) == 0
    weights = "checkpoints/step-000004/policy/model.safetensors"
    assert (Path("out") / weights).read_bytes() == (Path("roomy") / weights).read_bytes()
    assert Path("out/metrics.jsonl").read_bytes() == Path("roomy/metrics.jsonl").read_bytes()


def test_a_disk_that_fills_up_while_a_metric_is_written(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    real = JsonlTracker.log

    def full(self: JsonlTracker, step: int, values: dict[str, float]) -> None:
        if step == 3:
            raise CheckpointError("out/metrics.jsonl: step 3 cannot be written: No space left on device")
        real(self, step, values)

    with monkeypatch.context() as patched:
        patched.setattr(JsonlTracker, "log", full)
        assert "step 3 cannot be written" in refused(capfd, "train", "run.toml", "--output", "out", *STEPS)
    assert [path.name for path in Path("out/checkpoints").iterdir()] == ["step-000002"]
    assert main(["train", "run.toml", "--output", "out", *STEPS, "--resume"]) == 0
    assert json.loads(Path("out/summary.json").read_text())["results"][0]["steps"] == 4
