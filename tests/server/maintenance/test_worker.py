from __future__ import annotations

import pytest

from seismograd_server.errors import SeismogradError, StorageBusyError, StorageError, StorageFencedError
from seismograd_server.instruments import Instruments
from seismograd_server.maintenance import Maintenance
from seismograd_server.metrics import new_registry


class Chore:
    """Does so many pieces, or raises."""

    def __init__(self, name: str, pieces: int = 0, error: Exception | None = None) -> None:
        self.name = name
        self.pieces = pieces
        self.error = error
        self.steps = 0

    def step(self, now: float) -> bool:
        assert now > 0
        self.steps += 1
        if self.error is not None:
            raise self.error
        self.pieces = max(0, self.pieces - 1)
        return self.pieces > 0


class Clock:
    def __init__(self) -> None:
        self.now = 1.7e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def instruments() -> Instruments:
    return Instruments(new_registry())


def test_chores_take_turns_until_none_has_more_to_do(instruments: Instruments) -> None:
    long, short = Chore("long", 3), Chore("short", 1)
    maintenance = Maintenance([long, short], instruments)

    assert maintenance.round()
    assert maintenance.round()
    assert not maintenance.round()
    assert long.pieces == short.pieces == 0


@pytest.mark.parametrize("error", [StorageError("the disk is odd"), ValueError("a mistake")])
def test_a_chore_that_fails_stops_no_other_and_is_tried_again_in_a_minute(
    instruments: Instruments, error: Exception
) -> None:
    clock = Clock()
    failing, healthy = Chore("failing", error=error), Chore("healthy")
    maintenance = Maintenance([failing, healthy], instruments, clock)

    for _ in range(3):
        maintenance.round()
    assert (failing.steps, healthy.steps) == (1, 3)
    failures = instruments.maintenance_failures.labels(chore="failing")._value.get()
    assert failures == 1
    clock.now += 61
    maintenance.round()
    assert failing.steps == 2


def test_a_clock_that_is_set_back_silences_no_chore(instruments: Instruments) -> None:
    clock = Clock()
    failing = Chore("failing", error=ValueError("a mistake"))
    maintenance = Maintenance([failing], instruments, clock)
    maintenance.round()
    clock.now -= 86_400
    maintenance.round()
    assert failing.steps == 2


def test_a_busy_store_is_no_failure(instruments: Instruments) -> None:
    busy = Chore("busy", error=StorageBusyError("a backup"))
    maintenance = Maintenance([busy], instruments)
    assert not maintenance.round()
    assert not maintenance.round()
    assert busy.steps == 2


def test_a_server_that_has_been_replaced_says_so(instruments: Instruments) -> None:
    told: list[SeismogradError] = []
    fenced = StorageFencedError("epoch 2, ours is 1")
    maintenance = Maintenance([Chore("fenced", error=fenced)], instruments, on_fatal=told.append)
    maintenance.start()
    maintenance._thread.join(timeout=10)
    assert told == [fenced]
    maintenance.stop()
