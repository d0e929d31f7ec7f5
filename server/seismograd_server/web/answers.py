"""Answers: JSON with stable keys, errors as `{"error": ...}`, and the parameters of requests, checked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from seismograd_server.errors import (
    ConflictError,
    NotFoundError,
    SeismogradError,
    StorageBusyError,
    UsageError,
)
from seismograd_server.model import RunKey
from seismograd_server.reading.encoding import dumps
from seismograd_server.web.links import unescaped

_Answer = TypeVar("_Answer")
_Choice = TypeVar("_Choice")
LARGEST_PAGE = 1000  # entries of one answer
# What a column of the store holds.
_LARGEST_NUMBER = 2**63 - 1
# No number of that range is longer; what is longer is not even read.
_NUMBER_LENGTH = 20


def json_answer(value: Any, status: int = 200) -> Response:
    """A value as JSON."""
    return Response(dumps(value) + "\n", status, media_type="application/json")


def status_of(error: SeismogradError) -> int:
    """The HTTP status of an error."""
    if isinstance(error, NotFoundError):
        return 404
    if isinstance(error, ConflictError):
        return 409
    if isinstance(error, UsageError):
        return 400
    return 503 if isinstance(error, StorageBusyError) else 500


async def in_thread(work: Callable[[], _Answer]) -> _Answer:
    """Run blocking work off the event loop."""
    return await asyncio.to_thread(work)


class Turns:
    """Blocking work off the event loop, a few pieces at a time; the others wait their turn.

    Whoever reads long runs would otherwise take every worker thread, and what scrapes and notifies needs one as well.
    """

    def __init__(self, most: int) -> None:
        self._free = asyncio.Semaphore(most)

    async def __call__(self, work: Callable[[], _Answer]) -> _Answer:
        """Run it when it is its turn."""
        async with self._free:
            return await asyncio.to_thread(work)

    async def json(self, answer: Callable[[], Any]) -> Response:
        """The answer as JSON, which is written in the thread too: a large one takes as long as reading it."""
        return await self(lambda: json_answer(answer()))

    async def pages(self, request: Request, pages: Iterator[_Answer]) -> list[_Answer]:
        """All that an iterator gives, one piece a turn, so that a long answer holds up nobody's short one.

        Raises:
            ClientDisconnect: whoever asked has gone; no more is read.
        """
        found: list[_Answer] = []
        while (page := await self(lambda: next(pages, None))) is not None:
            if await request.is_disconnected():
                raise ClientDisconnect
            found.append(page)
        return found


def key_of(request: Request) -> RunKey:
    """The run that a path names."""
    return RunKey(unescaped(request.path_params["project"]), unescaped(request.path_params["run"]))


def number_of(request: Request, name: str, default: int | None = None) -> int | None:
    """A whole number from the query string.

    Raises:
        UsageError: it is not one.
    """
    text = request.query_params.get(name)
    if text is None or text == "":
        return default
    digits = text[1:] if text[:1] in "+-" else text
    if not digits.isascii() or not digits.isdigit() or len(text) > _NUMBER_LENGTH:
        raise UsageError(f"{name}: {text[:40]!r} is not a whole number")
    if abs(int(text)) > _LARGEST_NUMBER:
        raise UsageError(f"{name}: {text} is beyond what a step or an id can be")
    return int(text)


def limit_of(request: Request, default: int, largest: int, name: str = "limit") -> int:
    """How many entries are wanted, at least one.

    Raises:
        UsageError: it is not a whole number from 1 up.
    """
    number = number_of(request, name, default) or 0
    if number < 1:
        raise UsageError(f"{name}: must be from 1 to {largest}")
    return min(number, largest)


def points_of(request: Request, name: str, default: int, largest: int) -> int:
    """How many points are wanted, from one to `largest`.

    Raises:
        UsageError: fewer or more; the message says what to do.
    """
    number = number_of(request, name)
    number = default if number is None else number
    if not 1 <= number <= largest:
        raise UsageError(f"{name}: {number} is not from 1 to {largest}: ask for less, or in several ranges of steps")
    return number


def range_of(request: Request) -> tuple[int | None, int | None]:
    """The steps that are wanted: the first and the last one, None = no bound.

    Raises:
        UsageError: there can be none between them.
    """
    first, last = number_of(request, "first_step"), number_of(request, "last_step")
    if first is not None and last is not None and last < first:
        raise UsageError(f"last_step: {last} is below first_step, which is {first}: swap them")
    return first, last


def choice_of(request: Request, name: str, choices: Callable[[str], _Choice], known: list[str]) -> _Choice | None:
    """One of a few words from the query string; None = all.

    Raises:
        UsageError: it is none of them.
    """
    text = request.query_params.get(name)
    if not text:
        return None
    try:
        return choices(text)
    except ValueError:
        raise UsageError(f"{name}: {text[:40]!r} is none of {', '.join(known)}") from None
