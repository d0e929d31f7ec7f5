"""Errors of the server that outlive their handlers."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Iterator

import pytest

from seismograd_server.errors import SeismogradError, StorageBusyError, StorageError, without_frames
from seismograd_server.store.database import Database


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
    assert without_frames(error) is error
    assert [each() is None for each in held] == [True, True]
    assert str(error.__cause__ or error) == "the disk has failed", "what it says, and what caused it, stays"


def test_causes_in_a_circle_and_contexts_beside_a_cause_are_let_go_as_well() -> None:
    first, second, beside = (StorageError(name) for name in ("first", "second", "beside"))
    first.__cause__, second.__cause__, first.__context__ = second, first, beside
    for each in (first, second, beside):
        try:
            raise each
        except StorageError:
            assert each.__traceback__ is not None
    without_frames(first)
    assert [each.__traceback__ for each in (first, second, beside)] == [None, None, None]


@pytest.mark.parametrize("how", ["begin", "read"])
def test_a_transaction_that_fails_keeps_nothing_of_its_caller(how: str) -> None:
    held: list[weakref.ref[Records]] = []

    def caller(database: Database) -> None:
        records = Records()
        held.append(weakref.ref(records))
        with contextlib.suppress(StorageError), getattr(database, how)() as transaction:
            transaction.connection.exec_driver_sql("SELECT * FROM nothing")

    with Database.open("sqlite://", owner="test") as database:
        for _ in range(3):
            caller(database)
        assert [each() for each in held] == [None, None, None]
