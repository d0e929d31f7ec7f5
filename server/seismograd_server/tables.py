"""What all tables of the configuration have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
NOTHING = SecretStr("")


class Table(BaseModel):
    """A table of the configuration: no key but those that are declared."""

    model_config = ConfigDict(extra="forbid", frozen=True)
