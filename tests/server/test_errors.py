"""Errors of the server that outlive their handlers."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from seismograd_server.errors import SeismogradError, StorageBusyError, StorageError


class Records:
    """What a frame holds, and what should go with it."""


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def caught(held: list[weakref.ref[Records]], *, cause: bool) -> SeismogradError:
    """An error that came through two frames with records of their own; each holds the error as well."""

    def inner() -> None:
        records = Records()
        held.append(weakref.ref(records))
        error = StorageError("the disk has failed")
        raise error

    records = Records()
    held.append(weakref.ref(records))
    try:
        try:
            inner()
        except StorageError as error:
            if not cause:
                raise
            translated = StorageBusyError("try again")
            raise translated from error
    except StorageError as error:
        kept = error
    return kept


@pytest.mark.parametrize("cause", [False, True], ids=["by itself", "with a cause"])
def test_an_error_without_frames_keeps_nothing_alive_that_it_came_through(cause: bool) -> None:
    held: list[weakref.ref[Records]] = []
    error = caught(held, cause=cause)
    assert [each() is None for each in held] == [False, False], "an error as it comes holds what its frames hold"
    assert error.without_frames() is error
    assert [each() is None for each in held] == [True, True]
    assert str(error.__cause__ or error) == "the disk has failed", "what it says, and what caused it, stays"
