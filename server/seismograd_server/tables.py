"""What all tables of the configuration have in common."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
NOTHING = SecretStr("")


def _checked_address(text: str) -> str:
    parts = urlsplit(text)
    if text and (parts.scheme not in {"http", "https"} or not parts.hostname):
        raise ValueError("write a whole address, for example https://seismograd.example.com")
    return text


WebAddress = Annotated[str, AfterValidator(_checked_address)]  # empty = none


class Table(BaseModel):
    """A table of the configuration: no key but those that are declared."""

    model_config = ConfigDict(extra="forbid", frozen=True)
