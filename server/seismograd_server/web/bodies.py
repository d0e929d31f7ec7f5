"""The bodies of requests that change something: small, and read no further than they may be long."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request

from seismograd_server.errors import UsageError

# A name of a person; nothing else is read from the body of an acknowledgement.
_BODY_BYTES = 4096
_NAME_LENGTH = 200


async def small_body(request: Request) -> bytes:
    """The body of a request that needs little.

    Raises:
        UsageError: it is longer than that.
    """
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _BODY_BYTES:
            raise UsageError(f"body: longer than {_BODY_BYTES:,} bytes")
    return body


def person_of(body: bytes) -> str:
    """Who acknowledges, from a JSON body.

    Raises:
        UsageError: it is not an object with a `by` of some characters.
    """
    try:
        values: Any = json.loads(body or b"{}")
    except ValueError:
        raise UsageError('body: is not JSON; send {"by": "your name"}') from None
    person = values.get("by") if isinstance(values, dict) else None
    if not isinstance(person, str) or not 1 <= len(person.strip()) <= _NAME_LENGTH:
        raise UsageError('by: say who acknowledges, for example {"by": "your name"}')
    return person.strip()
