"""The builders of what protects behaviour: nothing unless asked for, and a missing extra is told before any token."""

from __future__ import annotations

import importlib.util

import pytest

from critique_rl import build_behaviour
from critique_rl.build_behaviour import build_monitors
from critique_rl.config.load import validate
from critique_rl.errors import MissingExtraError
from tests.monitors.answers import answers

CODE = [answers("p", ("```\nx\n```", 1.0), ("plain words", 0.0))]


def test_no_section_no_monitors() -> None:
    assert build_monitors(validate({}, source="test")) is None


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, {"fenced_code", "other"}),
        ({"formats": {"mine": "^plain"}}, {"mine", "other"}),
        ({"format_detectors": "clusters"}, {"cluster_0", "cluster_1"}),
    ],
)
def test_formats_by_rules_of_ones_own_or_clusters(options: dict[str, object], wanted: set[str]) -> None:
    monitors = build_monitors(validate({"monitors": options}, source="test"))
    assert monitors is not None
    monitors.observe(0, CODE)
    start = "monitor/batch/format/share/"
    assert {key.removeprefix(start) for key in monitors.figures() if key.startswith(start)} == wanted


def test_shares_are_predicted_with_the_weight_of_the_penalty() -> None:
    def predicted(kl_weight: float) -> float:
        tree: dict[str, object] = {"monitors": {}, "loss": {"kl_weight": kl_weight}}
        monitors = build_monitors(validate(tree, source="test"))
        assert monitors is not None
        monitors.observe(0, CODE)
        return monitors.figures()["monitor/batch/format/predicted_formats/fenced_code"]

    assert predicted(0.0) == 1.0
    assert predicted(1.0) == pytest.approx(2.718282 / 3.718282)


def test_without_sacrebleu(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(build_behaviour, "find_spec", lambda name: None if name == "sacrebleu" else real(name))
    with pytest.raises(MissingExtraError, match=r"self_bleu needs sacrebleu.*critique-rl\[diversity\]"):
        build_monitors(validate({"monitors": {"metrics": ["vendi", "self_bleu"]}}, source="test"))
    assert build_monitors(validate({"monitors": {}}, source="test")) is not None
