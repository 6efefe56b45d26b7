"""The builder of the phase switch: phrases from a list, a file or the run itself, and what is told before any token."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from critique_rl import build_behaviour
from critique_rl.build_behaviour import build_phases
from critique_rl.config.load import validate
from critique_rl.errors import DataError, MissingExtraError
from critique_rl.schedule.phase import PhaseSwitch

Tree = dict[str, object]


def built(**phases: object) -> PhaseSwitch:
    found = build_phases(validate({"phases": phases}, source="test"))
    assert found is not None
    return found


def test_no_section_no_phases() -> None:
    assert build_phases(validate({}, source="test")) is None


def test_phrases_of_a_list_and_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "g.json").write_text(json.dumps({"grams": ["Let me", "so, then"]}))
    for grams in (["let me", "so then"], str(tmp_path / "g.json")):
        found = built(grams=grams).grams
        assert found is not None and found.grams == (("let", "me"), ("so", "then"))
    with pytest.raises(DataError, match="cannot be read"):
        built(grams=str(tmp_path / "none.json"))
    with pytest.raises(DataError, match="no word"):
        built(grams=["?!"])


def test_phrases_of_its_own_are_mined_in_the_run() -> None:
    phases = built(window=4, min_solutions=2, mining={"clusters": 3, "max_words": 3})
    phases.keep(["Let me see: two.", "Let me see: five more."])
    for _ in range(4):
        phases.observe(masks={}, execution_perplexity=1.2, formed=1.0, success=0.5, strategy_entropy=None, figures={})
    assert phases.grams is not None and ("let", "me", "see") in phases.grams.grams


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        return None

    monkeypatch.setattr(build_behaviour, "find_spec", missing)
    with pytest.raises(MissingExtraError, match=r"critique-rl\[text\]"):
        built()
    assert built(grams=["let me"]).grams is not None
