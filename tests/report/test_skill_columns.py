"""Success with skills and tokens of a prompt as columns of an ablation, also beside an arm without a memory."""

from __future__ import annotations

import pytest

from critique_rl.report.ablation_rows import rows_of

Json = dict[str, object]
RATE = {"value": 0.75, "low": 0.6, "high": 0.9}


def run(seed: int, *, hard: int, skills: bool) -> Json:
    kinds = {"hard": hard, "easy": 30}
    extra: Json = {"rates": {"with_skills": RATE}, "measured": {"context_tokens": 40.0}} if skills else {}
    return {
        "arm": "a", "seed": seed, "steps": 1, "generated_tokens": 1, "critic_completion_tokens": 0, "critic_calls": 0,
        "train_wall_s": 1.0,
        "end": {kind: {"successes": right, "trials": 100 if kind == "hard" else 300, **extra}
                for kind, right in kinds.items()},
    }  # fmt: skip


def columns(runs: list[Json], kind: str) -> Json:
    rows = rows_of("a", runs, {}, classes=(kind,), columns=("with_skills", "context_tokens"))
    return rows[0]["metrics"]  # pyright: ignore[reportReturnType]


def test_an_arm_with_skills() -> None:
    found = columns([run(seed, hard=20, skills=True) for seed in (1, 2)], "hard")
    assert found["with_skills"] == {"mean": 0.75, "low": 0.6, "high": 0.9, "values": [0.75, 0.75]}
    assert found["context_tokens"]["mean"] == 40.0  # pyright: ignore[reportIndexIssue, reportCallIssue, reportArgumentType]


def test_an_arm_without_skills_has_its_own_success() -> None:
    found = columns([run(1, hard=20, skills=False)], "hard")
    # Wilson's bounds of 20 in 100: 0.1334 to 0.2888
    assert found["with_skills"]["values"] == [0.2]  # pyright: ignore[reportIndexIssue, reportCallIssue, reportArgumentType]
    assert found["with_skills"]["low"] == pytest.approx(0.1334, abs=1e-4)  # pyright: ignore[reportIndexIssue, reportCallIssue, reportArgumentType]
    assert found["context_tokens"]["mean"] is None  # pyright: ignore[reportIndexIssue, reportCallIssue, reportArgumentType]


def test_classes_pool_by_their_tasks() -> None:
    found = run(1, hard=20, skills=True)
    found["end"]["easy"]["measured"] = {"context_tokens": 20.0}  # pyright: ignore[reportIndexIssue, reportCallIssue, reportArgumentType]
    # 100 hard tasks of 40 tokens and 300 easy ones of 20: (100 * 40 + 300 * 20) / 400 = 25
    pooled = columns([found], "all")
    assert pooled["context_tokens"]["mean"] == 25.0  # pyright: ignore[reportIndexIssue, reportCallIssue, reportArgumentType]
    bare = columns([run(1, hard=20, skills=False)], "all")
    assert bare["with_skills"]["mean"] == (20 + 30) / 400  # pyright: ignore[reportIndexIssue, reportCallIssue, reportArgumentType]
