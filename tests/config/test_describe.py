"""Every key of a run file is listed, with its default and meaning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args, get_origin

from pydantic import BaseModel

from critique_rl.config.describe import describe
from critique_rl.config.run import RunConfig


def models(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models(part)]


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if prefix + name in {"critic.members", "critic.critic", "skills.writer", "tasks.of"}:  # what is listed already
            continue
        inner = models(field.annotation)
        of_any_name = "NAME." if get_origin(field.annotation) is dict else ""
        for choice in inner:
            yield from keys(choice, f"{prefix}{name}.{of_any_name}")
        if not inner:
            yield prefix + name


def test_every_key_is_listed() -> None:
    listed = {line.split()[0] for line in describe() if line.startswith("  ")}
    wanted = {*keys(RunConfig), "seeds", "checks.class", "checks.at_least"}
    assert wanted <= listed
    assert {"rollout.group_size", "critic.base_url", "critic.rules.pattern", "rewards.NAME.pattern"} <= wanted


def test_lines_by_hand() -> None:
    lines = describe()
    assert "  rollout.group_size (default 8): rollouts per prompt" in lines
    assert "  critic.model (required): the model's name, as its server or LiteLLM spells it" in lines
    heads = [line.strip() for line in lines if line.startswith("\n[")]
    assert sum(head.startswith("[critic]") for head in heads) == 12
    assert any(head.startswith('[algorithm] with name = "two_channel"  Both channels') for head in heads)
    assert any(head.startswith("[[critic.rules]]  One check") for head in heads)
    assert "[[critic.members]]  Tables, each like one of those above." in heads
    assert "[critic.critic]  A table like one of those above." in heads
    assert "  ablation.reference (required): the arm that every other one is compared with" in lines
    assert any(head.startswith("[[ablation.claims]]  A statement") for head in heads)
    assert any(head.startswith('[rewards.NAME] with kind = "exact"') for head in heads)
    assert any(head.startswith('[tasks] with kind = "jsonl"') for head in heads)
    assert all("\n" not in line.strip() for line in lines)
    assert any(head.startswith("[[stage]]  A `name`") for head in heads)
