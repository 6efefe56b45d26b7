"""Reading a memory back out of a checkpoint: one way, with one kind of error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from critique_rl.errors import CheckpointError

State = TypeVar("State")


def restored(kind: TypeAdapter[State], state: Mapping[str, object], *, what: str) -> State:
    """The state that `kind.dump_python` wrote. For anything else CheckpointError, which names `what` and the field."""
    try:
        return kind.validate_python(dict(state))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CheckpointError(
            f"{what} in the checkpoint: field {where!r}: {first['msg']}; resume from an older checkpoint"
        ) from error
