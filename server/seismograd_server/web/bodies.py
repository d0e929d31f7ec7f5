"""The bodies of requests that change something: small, and read no further than they may be long."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request

from seismograd_server.errors import UsageError
from seismograd_server.model import DirectiveKind
from seismograd_server.pipeline import Request as Asked
from seismograd_server.rules.parse import parse
from seismograd_server.rules.ruleset import Rules

# A name of a person, a reason, a few numbers: nothing else is read from most bodies.
_BODY_BYTES = 4096
# Rules with everything that can be said and its reasons are a tenth of this.
RULES_BYTES = 128 * 1024
_NAME_LENGTH = 200
_REASON_LENGTH = 500
_LARGEST_STEP = 2**62


async def small_body(request: Request, most: int = _BODY_BYTES) -> bytes:
    """The body of a request that needs little.

    Raises:
        UsageError: it is longer than that.
    """
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > most:
            raise UsageError(f"body: longer than {most:,} bytes")
    return body


def rules_of(body: bytes) -> Rules:
    """The rules of a backtest, from a JSON body; without any, the shipped defaults.

    Raises:
        UsageError: they cannot be used.
    """
    text = _values(body).get("rules", "")
    if not isinstance(text, str):
        raise UsageError("rules: is a text, as it stands in rules.toml")
    return parse(text, "rules")


def person_of(body: bytes) -> str:
    """Who acknowledges, from a JSON body.

    Raises:
        UsageError: it is not an object with a `by` of some characters.
    """
    return _person(_values(body))


def directive_of(body: bytes) -> Asked:
    """What is asked of a job, from a JSON body.

    Raises:
        UsageError: names the field that is missing or wrong.
    """
    values = _values(body)
    try:
        kind = DirectiveKind.of_word(str(values.get("kind")))
    except ValueError:
        raise UsageError("kind: write one of stop, checkpoint, capture") from None
    reason, all_ranks = values.get("reason", ""), values.get("all_ranks", False)
    if not isinstance(reason, str) or len(reason) > _REASON_LENGTH:
        raise UsageError(f"reason: is a text of at most {_REASON_LENGTH} characters")
    if not isinstance(all_ranks, bool):
        raise UsageError("all_ranks: is true or false")
    return Asked(
        kind, _person(values), reason.strip(), _step(values, "first_step"), _step(values, "last_step"), all_ranks
    )


def _values(body: bytes) -> dict[str, Any]:
    try:
        values: Any = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise UsageError('body: is not JSON; send {"by": "your name"}') from None
    return values if isinstance(values, dict) else {}


def _person(values: dict[str, Any]) -> str:
    person = values.get("by")
    if not isinstance(person, str) or not 1 <= len(person.strip()) <= _NAME_LENGTH:
        raise UsageError('by: say who you are, for example {"by": "your name"}')
    return person.strip()


def _step(values: dict[str, Any], name: str) -> int | None:
    value = values.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > _LARGEST_STEP:
        raise UsageError(f"{name}: is a number of a step")
    return value
