"""The base of every config model: frozen, unknown keys refused, NaN and infinity refused.

Owns: that one rule. Must not know: any option.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """A config section; a key it does not declare is an error, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
