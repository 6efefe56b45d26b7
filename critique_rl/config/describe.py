"""The run file's schema as lines for a person: every key, its type, default and meaning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from critique_rl.config.ablation import AblationConfig
from critique_rl.config.check import CheckConfig
from critique_rl.config.run import RunConfig


def describe() -> list[str]:
    """One line a key, sections first, alternatives of a section under their `kind` or `name`."""
    return [
        "  seeds (default []): every arm is run at each of these seeds, instead of at `seed`",
        *_lines(RunConfig, "", set()),
        "\n[arms.NAME]  Sections of this arm, laid over those above; every arm is a run of its own.",
        "\n[[stage]]  A `name`, and sections laid over those above; it begins with the policy of the stage before it.",
        f"\n[[checks]]  {CheckConfig.__doc__}",
        *_lines(CheckConfig, "checks.", set()),
        f"\n[ablation]  {AblationConfig.__doc__}",
        *_lines(AblationConfig, "ablation.", set()),
    ]


def _lines(model: type[BaseModel], prefix: str, told: set[type[BaseModel]]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = list(dict.fromkeys(_models(field.annotation)))
        shape = get_origin(field.annotation)
        where = f"{prefix}{field.alias or name}" + (".NAME" if inner and shape is dict else "")
        if not inner:
            yield _line(where, field)
        elif told.issuperset(inner):
            many = f"[[{where}]]  Tables, each like one of those above."
            yield f"\n{many}" if shape is tuple else f"\n[{where}]  A table like one of those above."
            continue
        for choice in inner:
            told.add(choice)
            tag = next((f for f in ("kind", "name", "source") if f in choice.model_fields and len(inner) > 1), None)
            label = f' with {tag} = "{_literal(choice, tag)}"' if tag else ""
            summary = (choice.__doc__ or "").strip().splitlines()[0]
            head = f"[[{where}]]" if shape is tuple else f"[{where}]"
            yield f"\n{head}{label}  {summary}"
            yield from _lines(choice, f"{where}.", told)


def _line(where: str, field: FieldInfo) -> str:
    default = "required" if field.is_required() else f"default {field.get_default(call_default_factory=True)!r}"
    meaning = f": {field.description}" if field.description else ""
    return f"  {where} ({default}){meaning}"


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _literal(model: type[BaseModel], tag: str) -> object:
    return next(iter(get_args(model.model_fields[tag].annotation)), "?")
