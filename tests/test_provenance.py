"""Where a result came from: told truly, or not at all."""

from __future__ import annotations

import platform
from collections.abc import Callable

import pytest
import torch

from critique_rl import provenance
from critique_rl.provenance import commit, device_name, versions


def test_device_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")
    assert device_name() == "A GPU"
    on_cpu = device_name(cpu=True)
    assert on_cpu.startswith(f"{platform.machine()} CPU, ") and on_cpu.endswith(" cores")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_name() == on_cpu


def answers(table: dict[str, str | None]) -> Callable[..., str | None]:
    return lambda *arguments: table[arguments[0]]


@pytest.mark.parametrize(
    ("table", "wanted"),
    [
        ({"ls-files": "provenance.py", "rev-parse": "0123abc", "status": ""}, "0123abc"),
        ({"ls-files": "provenance.py", "rev-parse": "0123abc", "status": " M x"}, "0123abc+"),
        ({"ls-files": "", "rev-parse": "0123abc", "status": ""}, None),  # somebody else's checkout
        ({"ls-files": None, "rev-parse": None, "status": None}, None),  # no checkout
    ],
)
def test_commit(monkeypatch: pytest.MonkeyPatch, table: dict[str, str | None], wanted: str | None) -> None:
    monkeypatch.setattr(provenance, "_git", answers(table))
    assert commit() == wanted


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert commit() is None


def test_versions_name_what_decides_the_numbers() -> None:
    assert versions()["torch"] == torch.__version__
    assert set(versions()) == {"critique-rl", "torch", "transformers", "accelerate"}
