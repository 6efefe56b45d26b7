"""[distillation]: what may be set together, and what says that it would have no effect."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from critique_rl.config.algorithm import DistillationConfig


def read(**options: object) -> DistillationConfig:
    return DistillationConfig.model_validate(options)


@pytest.mark.parametrize(
    "options",
    [
        {"entry_clip": 0.05},
        {"entry_clip": 0.2, "support": "sampled"},
        {"target": "mixed"},
        {"target": "mixed", "mix": 0.3, "divergence": "jsd"},
        {"target": "clipped_gap", "gap_clip": 2.0, "support": "student", "divergence": "reverse"},
        {"target": "clipped_gap", "tail": False},
        {"join": "advantages", "support": "sampled"},
        {"join": "advantages", "support": "sampled", "gap_clip": 2.0, "weight": 0.5, "max_tokens": 8, "teacher": "ema"},
        {"join": "signed", "support": "sampled", "signed_share": 1.0, "signed_clip": 0.5, "signed_steps": 50},
        {"join": "routed", "routed_beta": 2.0, "divergence": "reverse", "weight": 0.3},
        {"join": "sequential", "sequential_steps": 20, "target": "mixed"},
    ],
)
def test_what_goes_together_is_read_back_as_it_was(options: dict[str, object]) -> None:
    config = read(**options)
    assert read(**config.model_dump()) == config
    for key, value in options.items():
        assert getattr(config, key) == value


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (
            {"entry_clip": 0.2, "divergence": "reverse"},
            r"entry_clip = 0\.2 has no effect with divergence = 'reverse'; remove it, or set divergence = \"forward\"",
        ),
        ({"mix": 0.1}, r"mix = 0\.1 has no effect with target = 'teacher'; remove it, or set target = \"mixed\""),
        ({"mix": 0.1, "target": "clipped_gap"}, r"mix = 0\.1 has no effect with target = 'clipped_gap'"),
        (
            {"gap_clip": 1.0, "target": "mixed"},
            r"gap_clip = 1\.0 has no effect with target = 'mixed'; remove it, or set target = \"clipped_gap\" or join",
        ),
        (
            {"join": "advantages"},
            r"reads the teacher at the sampled token alone, and support is 'teacher'; set support = \"sampled\", or an",
        ),
        ({"join": "advantages", "support": "student"}, "and support is 'student'"),
        ({"join": "signed"}, r'join = "signed" reads the teacher at the sampled token alone'),
        (
            {"join": "advantages", "support": "sampled", "divergence": "jsd"},
            "divergence = 'jsd' has no effect with join = \"advantages\", which has no distillation loss; remove it",
        ),
        ({"join": "advantages", "support": "sampled", "entry_clip": 0.1}, r"entry_clip = 0\.1 has no effect with join"),
        ({"join": "advantages", "support": "sampled", "target": "mixed"}, "target = 'mixed' has no effect with join"),
        ({"join": "advantages", "support": "sampled", "jsd_alpha": 0.1}, r"jsd_alpha = 0\.1 has no effect with join"),
        ({"join": "advantages", "support": "sampled", "k": 5}, "k = 5 has no effect"),
        ({"join": "signed", "support": "sampled", "weight": 0.5}, 'weight = 0.5 has no effect with join = "signed"'),
        ({"join": "signed", "support": "sampled", "gap_clip": 0.5}, r"gap_clip = 0\.5 has no effect"),
        (
            {"signed_share": 0.5},
            r"signed_share = 0\.5 has no effect with join = 'losses'; remove it, or set join = \"sig",
        ),
        ({"join": "routed", "signed_clip": 0.1}, r"signed_clip = 0\.1 has no effect with join = 'routed'"),
        ({"join": "sequential", "signed_steps": 9}, "signed_steps = 9 has no effect with join = 'sequential'"),
        ({"join": "sequential", "routed_beta": 1.0}, r"routed_beta = 1\.0 has no effect.*set join = \"routed\""),
        ({"join": "routed", "sequential_steps": 5}, 'sequential_steps = 5 has no effect.*set join = "sequential"'),
    ],
)
def test_a_key_without_effect_is_refused(options: dict[str, object], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        read(**options)


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        ("entry_clip", 0.0),
        ("mix", 0.0),
        ("mix", 1.0),
        ("gap_clip", 0.0),
        ("gap_clip", float("inf")),
        ("join", "both"),
        ("signed_share", 0.0),
        ("signed_share", 1.1),
        ("signed_clip", 1.0),
        ("signed_steps", 0),
        ("routed_beta", 0.0),
        ("sequential_steps", 0),
    ],
)
def test_numbers_have_bounds(key: str, bad: object) -> None:
    with pytest.raises(ValidationError, match=key):
        read(**{key: bad})
