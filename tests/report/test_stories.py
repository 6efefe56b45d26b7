"""Which attempts of a sample are told, and what colours their tokens get."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from critique_rl.report.records import Sample
from critique_rl.report.stories import MAX_TOKENS, tell


def sample_of(**fields: object) -> Sample:
    return Sample.model_validate({"step": 1, "task_id": "t", **fields})


def attempt(name: str, *tokens: Mapping[str, object], **fields: object) -> dict[str, object]:
    return {"rollout_id": name, "text": name, "reward": 0.0, "tokens": list(tokens), **fields}


def test_policy_gradient_tints_by_sign_and_strength() -> None:
    story = tell(
        "a",
        "1",
        sample_of(attempts=[attempt("r", {"text": "x", "pg": -0.5}, {"text": "y", "pg": 0.25}, {"text": "z"})]),
    )
    assert [(t.text, t.tint, t.alpha) for t in story.told[0].tokens] == [
        ("x", "neg", 1.0),
        ("y", "pos", 0.5),
        ("z", "", 0.0),
    ]
    assert story.told[0].pushes == (("neg", "policy gradient: 2 tokens, -0.5 to +0.25 each"),)


def test_what_a_tool_said_stands_apart_and_counts_for_nothing() -> None:
    heard = {"text": "found: cats", "heard": True}
    spoken = [{"text": "x", "pg": 0.5}, heard, {"text": "y", "pg": 0.5}]
    refined = {"attempt_id": "r", "text": "x", "reward": 1.0, "tokens": [{"text": "x", "imitate": 1.0}, heard]}
    view = tell("a", "1", sample_of(attempts=[attempt("r", *spoken)], refinements=[refined])).told[0]
    assert [(t.text, t.tint, t.tip) for t in view.tokens][1] == ("found: cats", "heard", "")
    assert view.pushes == (("pos", "policy gradient: 2 tokens, +0.5 each"),)
    assert [t.tint for t in view.refinements[0].tokens] == ["imitate", "heard"]
    assert view.refinements[0].channels == (("imitate", "imitated: 1 tokens, weight 1"),)


def test_distillation_shades_by_weighted_divergence() -> None:
    tokens = [
        {"text": "x", "distill": 1.0, "divergence": 4.0, "student_prob": 0.9},
        {"text": "y", "distill": 0.25, "divergence": 4.0},
        {"text": "z", "distill": 0.0, "divergence": 9.0},
    ]
    view = tell("a", "1", sample_of(attempts=[attempt("r", *tokens)])).told[0]
    # sqrt(1/4) for a quarter of the weight; nothing where the weight is zero.
    assert [t.pull for t in view.tokens] == [1.0, 0.5, 0.0]
    assert view.pulls == (("distill", "distilled: 2 tokens, mean divergence 4 nats"),)
    assert "policy wrote it with p = 0.9" in view.tokens[0].tip


def test_the_widest_disagreements_are_told_in_the_order_of_the_text() -> None:
    teacher = [{"token": "q", "prob": 0.9, "student_prob": 0.1}]
    tokens = [
        {"text": c, "distill": 1.0, "divergence": d, "teacher": teacher}
        for c, d in zip("abcdef", (1, 5, 0.01, 2, 3, 4), strict=True)
    ]
    view = tell("a", "1", sample_of(attempts=[attempt("r", *tokens)])).told[0]
    assert [(d.before, d.written) for d in view.disagreements] == [
        ("a", "b"),
        ("abc", "d"),
        ("abcd", "e"),
        ("abcde", "f"),
    ]


def test_imitation_is_shown_on_refinements() -> None:
    refinement = {
        "attempt_id": "r",
        "text": "xy",
        "reward": 1.0,
        "tokens": [{"text": "x", "imitate": 0.5}, {"text": "y", "imitate": 0.25}],
    }
    view = tell("a", "1", sample_of(attempts=[attempt("r")], refinements=[refinement])).told[0].refinements[0]
    assert [(t.tint, t.alpha) for t in view.tokens] == [("imitate", 1.0), ("imitate", 0.5)]
    assert view.verified and view.trained
    assert view.channels == (("imitate", "imitated: 2 tokens, weight 0.25 to 0.5"),)


def test_a_refinement_of_an_unrecorded_twin_goes_with_the_critiqued_attempt() -> None:
    story = tell(
        "a",
        "1",
        sample_of(
            attempts=[attempt("r0"), attempt("r1")],
            critiques=[{"rollout_id": "r1", "outcome": "ok"}],
            refinements=[{"attempt_id": "twin", "text": f"{i}", "reward": float(i == 2)} for i in range(4)],
        ),
    )
    assert story.told[0].attempt.rollout_id == "r1"
    assert [r.refinement.text for r in story.told[0].refinements] == ["2", "0"]
    assert story.told[0].unshown_refinements == 2
    assert [view.attempt.rollout_id for view in story.others] == ["r0"]


def test_long_attempts_are_cut_and_say_so() -> None:
    view = tell("a", "1", sample_of(attempts=[attempt("r", *[{"text": "x"}] * (MAX_TOKENS + 7))])).told[0]
    assert (len(view.tokens), view.hidden_tokens) == (MAX_TOKENS, 7)


@pytest.mark.parametrize(("reward", "status", "right"), [(1.0, "ok", True), (0.5, "ok", False), (1.0, "error", False)])
def test_only_a_verified_attempt_is_right(reward: float, status: str, right: bool) -> None:
    view = tell("a", "1", sample_of(attempts=[attempt("r", reward=reward, status=status)])).told[0]
    assert view.right is right


def test_an_empty_sample_is_told_without_attempts() -> None:
    story = tell("a", "1", sample_of())
    assert (story.told, story.others) == ((), ())
