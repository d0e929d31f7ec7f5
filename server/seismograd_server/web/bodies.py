"""The bodies of requests that change something: small, and read no further than they may be long."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request

from seismograd_server.display.text import nearest
from seismograd_server.errors import UsageError
from seismograd_server.model import DirectiveKind, Signature, Silence, Verdict
from seismograd_server.pipeline import Request as Asked
from seismograd_server.rules.parse import parse
from seismograd_server.rules.ruleset import Rules

# A name of a person, a reason, a few numbers: nothing else is read from most bodies.
BODY_BYTES = 4096
# Rules with everything that can be said and its reasons are a tenth of this.
RULES_BYTES = 128 * 1024
_NAME_LENGTH = 200
_REASON_LENGTH = 500
_LARGEST_STEP = 2**62


async def small_body(request: Request, most: int = BODY_BYTES) -> bytes:
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


def person_of(body: bytes) -> tuple[str, str]:
    """Who acknowledges or ends something, and what he writes about it, from a JSON body.

    Raises:
        UsageError: it is not an object with a `by` of some characters.
    """
    values = _values(body)
    return _person(values), _words(values, "note")


def verdict_of(body: bytes) -> tuple[Verdict, str, str]:
    """What somebody says of an alert, who, and why, from a JSON body.

    Raises:
        UsageError: names the field that is missing or wrong.
    """
    values = _values(body)
    try:
        verdict = Verdict(str(values.get("verdict")))
    except ValueError:
        raise UsageError("verdict: write right or wrong") from None
    return verdict, _person(values), _words(values, "note")


def silence_of(body: bytes) -> tuple[Silence, float]:
    """What somebody does not want to be told of, and for how many seconds, from a JSON body.

    Raises:
        UsageError: names the field that is missing or wrong.
    """
    values = _values(body)
    seconds = values.get("seconds")
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        raise UsageError("seconds: say for how long, as a number")
    signature = signature_of(_words(values, "signature"))
    wanted = Silence(
        "",
        _person(values),
        _words(values, "reason"),
        0.0,
        0.0,
        _words(values, "project"),
        _words(values, "run"),
        signature,
    )
    return wanted, seconds


def signature_of(word: str) -> Signature | None:
    """A signature by its name; None = an empty one, for all of them.

    Raises:
        UsageError: there is none of that name.
    """
    try:
        return Signature(word) if word else None
    except ValueError:
        meant = nearest(word, [each.value for each in Signature])
        raise UsageError(
            f"signature: there is none of that name{f', did you mean {meant}?' if meant else ''}"
        ) from None


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
    reason, all_ranks = _words(values, "reason"), values.get("all_ranks", False)
    if not isinstance(all_ranks, bool):
        raise UsageError("all_ranks: is true or false")
    return Asked(kind, _person(values), reason, _step(values, "first_step"), _step(values, "last_step"), all_ranks)


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


def _words(values: dict[str, Any], name: str) -> str:
    text = values.get(name, "")
    if not isinstance(text, str) or len(text) > _REASON_LENGTH:
        raise UsageError(f"{name}: is a text of at most {_REASON_LENGTH} characters")
    return text.strip()


def _step(values: dict[str, Any], name: str) -> int | None:
    value = values.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > _LARGEST_STEP:
        raise UsageError(f"{name}: is a number of a step")
    return value
