"""Calls from the event loop to the log's worker: a function of `now`, and its answer handed back."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

from seismograd_server.errors import SeismogradError, without_frames

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Call:
    """Something to be done on the worker."""

    work: Callable[[float], Callable[[], None]]  # does the work, and gives what hands its answer over
    behind_frames: bool


def prepared(
    function: Callable[[float], _Answer],
    future: asyncio.Future[_Answer],
    heed: Callable[[SeismogradError, float], None],
    *,
    behind_frames: bool,
) -> Call:
    """The call whose answer, or error, becomes that of the future; `heed` hears of the error on the worker."""

    def work(now: float) -> Callable[[], None]:
        try:
            return functools.partial(_resolve, future, function(now), None)
        except SeismogradError as error:
            heed(error, now)
            return functools.partial(_resolve, future, None, without_frames(error))
        except Exception as error:  # noqa: BLE001 (it belongs to the caller, whose log shows where it arose)
            return functools.partial(_resolve, future, None, error)

    return Call(work, behind_frames)


def give(answers: Sequence[Callable[[], None]]) -> None:
    """Hand answers over; on the event loop."""
    for answer in answers:
        answer()


def _resolve(future: asyncio.Future[_Answer], answer: _Answer | None, error: Exception | None) -> None:
    if future.done():
        return  # the caller has gone
    if error is None:
        future.set_result(cast("_Answer", answer))
    else:
        future.set_exception(error)
