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
        {"join": "advantages", "support": "student", "centred_gap": True, "k": 5, "gap_clip": 2.0},
        {"join": "advantages", "support": "teacher", "centred_gap": True},
        {"hint_choice": "random", "join": "signed", "support": "sampled"},
        {"hint_choice": "sequence_overlap", "support": "sampled", "k": 4},
        {"hint_choice": "token_overlap", "divergence": "topk_surrogate", "support": "overlap"},
        {"divergence": "topk_surrogate"},
        {"divergence": "topk_surrogate", "support": "student", "k": 1, "gap_clip": 2.0},
        {"divergence": "topk_surrogate", "support": "overlap", "ratio_clip_low": 0.0, "ratio_clip_high": 0.5},
        {"divergence": "topk_surrogate", "join": "routed"},
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
        ({"support": "sampled", "k": 5, "hint_choice": "shortest"}, "k = 5 has no effect"),
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
        (
            {"ratio_clip_low": 0.1},
            r"ratio_clip_low = 0\.1 has no effect with divergence = 'forward'; remove it, or set divergence = \"topk_s",
        ),
        (
            {"ratio_clip_high": 0.1, "divergence": "jsd"},
            r"ratio_clip_high = 0\.1 has no effect with divergence = 'jsd'",
        ),
        (
            {"support": "overlap"},
            r'support = "overlap" came with divergence = \'forward\', which wants the same number .* set support to',
        ),
        (
            {"divergence": "topk_surrogate", "support": "sampled"},
            r'support = "sampled" came with divergence = "topk_surrogate", whose ids are a top-K; set support to',
        ),
        ({"divergence": "topk_surrogate", "tail": False}, 'tail = False has no effect with divergence = "topk_surr'),
        ({"divergence": "topk_surrogate", "jsd_alpha": 0.1}, r"jsd_alpha = 0\.1 has no effect with divergence"),
        ({"divergence": "topk_surrogate", "target": "mixed"}, "target = 'mixed' has no effect with divergence"),
        ({"divergence": "topk_surrogate", "entry_clip": 0.1}, r"entry_clip = 0\.1 has no effect with divergence"),
        (
            {"centred_gap": True},
            r"centred_gap = true has no effect with join = 'losses'; remove it, or set join = \"advantages\"",
        ),
        ({"centred_gap": True, "join": "signed", "support": "sampled"}, "centred_gap = true has no effect with join"),
        (
            {"centred_gap": True, "join": "advantages", "support": "sampled"},
            r"centred_gap = true reads both sides at a top K, and support is 'sampled'; set support to \"student\" or",
        ),
        (
            {"centred_gap": True, "join": "advantages", "support": "student", "tail": False},
            'tail = False has no effect with join = "advantages"',
        ),
        (
            {"centred_gap": True, "join": "advantages", "support": "student", "divergence": "reverse"},
            "divergence = 'reverse' has no effect with join = \"advantages\"",
        ),
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
        ("hint_choice", "longest"),
        ("ratio_clip_low", 1.0),
        ("ratio_clip_low", -0.1),
        ("ratio_clip_high", -0.1),
        ("divergence", "surrogate"),
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
