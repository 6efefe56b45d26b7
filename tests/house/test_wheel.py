"""The installed wheel, in an empty directory and away from the checkout, finds its words and its policy, and trains."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_WHEEL_MIB = 12

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without isolation, so that the test needs no network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", str(folder)]
    subprocess.run([*command, str(wheel)], check=True)
    return folder


def run_installed(installed: Path, where: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=where, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_carries_what_it_needs_and_no_more(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for folder, place in (("prompts", "_prompts"), ("feedback", "_feedback")):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file():
                assert f"critique_rl/{place}/{path.relative_to(ROOT / folder).as_posix()}" in names
    assert "critique_rl/py.typed" in names
    assert any(name.startswith("critique_rl/lab/policy/") and name.endswith(".safetensors") for name in names)
    assert all(name.startswith(("critique_rl/", "critique_rl-")) for name in names)
    assert wheel.stat().st_size < MAX_WHEEL_MIB * 2**20


def test_the_installed_package_finds_its_words(installed: Path, tmp_path: Path) -> None:
    code = (
        "import critique_rl\n"
        "from critique_rl.resources import feedback_dir, prompts_dir\n"
        "from critique_rl.prompting.catalogue import catalogue\n"
        "names = [prompt.name for prompt in catalogue()]\n"
        "print(critique_rl.__file__, prompts_dir(), feedback_dir(), *names, sep='\\n')"
    )
    package, prompts, feedback, *names = run_installed(installed, tmp_path, "-c", code).splitlines()
    assert Path(package).parent == installed / "critique_rl"
    assert Path(prompts) == installed / "critique_rl" / "_prompts"
    assert Path(feedback) == installed / "critique_rl" / "_feedback"
    assert names == sorted(path.stem for path in (ROOT / "prompts").glob("*.md") if path.stem != "README")


def test_the_demo_runs_in_an_empty_directory(installed: Path, tmp_path: Path) -> None:
    main = "import sys; from critique_rl.cli.main import main; sys.argv[0] = 'critique-rl'; main()"
    run_installed(installed, tmp_path, "-c", main, "demo", "--steps", "2")
    assert list(tmp_path.rglob("summary.json"))
    assert list(tmp_path.rglob("report.html"))
