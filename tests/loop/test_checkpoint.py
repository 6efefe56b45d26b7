"""A checkpoint is whole or absent, whatever stops its writing."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
from safetensors import SafetensorError

from critique_rl.errors import CheckpointError
from critique_rl.loop.checkpoint import latest_checkpoint, save_checkpoint
from tests.loop.fakes import CharPolicy

STATE = {"progress": {"step": 1}, "plateau": {}}


def save(root: Path, step: int, *, policy: CharPolicy | None = None, keep: int = 2) -> Path:
    return save_checkpoint(root, step, policy=policy or CharPolicy(), state=STATE | {"at": step}, keep=keep)


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


class Broken(CharPolicy):
    """Writes half of its weights before it fails."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def save(self, directory: Path) -> None:
        (directory / "weights.txt").write_text("hal")
        raise self.error


def test_what_was_saved_is_found_again(tmp_path: Path) -> None:
    policy = CharPolicy()
    policy.version = 9
    save(tmp_path, 1)
    path = save(tmp_path, 12, policy=policy)
    saved = latest_checkpoint(tmp_path)
    assert saved is not None and saved.directory == path == tmp_path / "step-000012"
    assert saved.state == {**STATE, "at": 12}
    other = CharPolicy()
    other.restore(saved.directory)
    assert other.version == 9


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save(tmp_path, step, keep=2)
    assert names(tmp_path) == ["step-000003", "step-000004"]


def test_the_millionth_step_is_newer_than_the_one_before(tmp_path: Path) -> None:
    for step in (999_999, 1_000_000):
        save(tmp_path, step, keep=2)
    saved = latest_checkpoint(tmp_path)
    assert saved is not None and saved.state["at"] == 1_000_000


def test_a_step_can_be_saved_again(tmp_path: Path) -> None:
    save(tmp_path, 5)
    policy = CharPolicy()
    policy.version = 2
    save(tmp_path, 5, policy=policy)
    assert names(tmp_path) == ["step-000005"]
    assert (tmp_path / "step-000005/weights.txt").read_text() == "2"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("PytorchStreamWriter failed writing file: No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("again", [False, True], ids=["new step", "same step"])
def test_a_full_disk_leaves_the_older_ones_whole_and_nothing_half(
    tmp_path: Path, error: Exception, again: bool
) -> None:
    save(tmp_path, 1, keep=1)
    with pytest.raises(CheckpointError, match=r"No space left on device.*--resume") as raised:
        save(tmp_path, 1 if again else 2, policy=Broken(error), keep=1)
    assert raised.value.__cause__ is error
    assert names(tmp_path) == ["step-000001"]
    saved = latest_checkpoint(tmp_path)
    assert saved is not None and saved.state["at"] == 1
    assert (saved.directory / "weights.txt").read_text() == "0"


def test_a_directory_that_cannot_be_replaced_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)
    rename = Path.rename

    def fails_for_the_new_one(path: Path, target: Path) -> Path:
        if path.name.startswith(".writing"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails_for_the_new_one)
    with pytest.raises(CheckpointError, match="Input/output error"):
        save(tmp_path, 1)
    assert names(tmp_path) == ["step-000001"]


def test_a_kill_while_writing_leaves_nothing_that_a_resume_would_take(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with pytest.raises(SystemExit):
        save(tmp_path, 2, policy=Broken(SystemExit()))
    saved = latest_checkpoint(tmp_path)
    assert saved is not None and saved.directory.name == "step-000001"
    save(tmp_path, 3)  # and the next checkpoint clears what was left
    assert names(tmp_path) == ["step-000001", "step-000003"]


def test_state_that_json_cannot_say_leaves_nothing_half(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not JSON serializable"):
        save_checkpoint(tmp_path, 1, policy=CharPolicy(), state={"progress": object()}, keep=1)
    assert names(tmp_path) == []


def test_nothing_there_is_no_checkpoint(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "none") is None
    (tmp_path / "step-000001").mkdir()  # no state.json: never completed
    assert latest_checkpoint(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"progress": {}}', "\ufffd"])
def test_a_broken_state_is_one_clear_error(tmp_path: Path, text: str) -> None:
    save(tmp_path, 1)
    broken = save(tmp_path, 2)
    (broken / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"step-000002.*cannot be read.*delete it to go back"):
        latest_checkpoint(tmp_path)
    shutil.rmtree(broken)
    saved = latest_checkpoint(tmp_path)
    assert saved is not None and saved.state["at"] == 1
