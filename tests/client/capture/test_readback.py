"""A device that is behind, more devices than one, and threads that capture graphs; without a device."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from seismograd.capture import readback
from seismograd.capture.draft import Draft
from seismograd.capture.event_queries import allow_event_queries
from seismograd.capture.readback import Readback, RingFullError, Transfer, most_slots
from seismograd.record import Quantity
from tests.client.capture.conftest import Watched

Watch = Callable[..., Watched]


class FakeSlot:
    """Stands for a pinned buffer: whatever is sent has arrived when somebody says so."""

    def __init__(self) -> None:
        self.event = self
        self.done = False
        self.unread = False
        self.device: torch.device | None = None

    def query(self) -> bool:
        return self.done

    def fill(self, packed: torch.Tensor) -> None:
        assert self.device in (None, packed.device), "an event belongs to one device"
        self.device, self.done, self.unread = packed.device, False, True
        self.buffer = torch.arange(packed.numel(), dtype=torch.float64)


@pytest.fixture
def slots(monkeypatch: pytest.MonkeyPatch) -> list[FakeSlot]:
    made: list[FakeSlot] = []

    def make() -> FakeSlot:
        made.append(FakeSlot())
        return made[-1]

    monkeypatch.setattr(readback, "_Slot", make)
    return made


def send(back: Readback, device: str = "meta", elements: int = 3) -> Transfer:
    moving = [(0, torch.zeros(elements, device=device))]
    return back._send_from_cuda([None], moving)


def test_as_many_transfers_are_under_way_as_a_device_is_steps_behind(slots: list[FakeSlot]) -> None:
    back = Readback()

    under_way = [send(back) for _ in range(most_slots(3))]

    assert len(slots) == len(under_way) >= 100
    with pytest.raises(RingFullError):
        send(back)
    slots[0].done = True
    assert under_way[0].ready()
    assert under_way[0].arrays()[0].tolist() == [0.0, 1.0, 2.0]  # type: ignore[union-attr]  # has arrived
    send(back)
    assert len(slots) == len(under_way)


def test_steps_that_are_read_before_the_next_one_share_one_buffer(slots: list[FakeSlot]) -> None:
    back = Readback()
    for _ in range(50):
        transfer = send(back)
        assert not transfer.ready()
        slots[0].done = True
        transfer.arrays()
    assert len(slots) == 1


def test_buffers_of_a_large_model_are_few(slots: list[FakeSlot]) -> None:
    assert most_slots(65_536) == 32
    assert most_slots(10_000_000) == 16


def test_each_device_has_buffers_of_its_own(slots: list[FakeSlot]) -> None:
    back = Readback()
    for _ in range(3):  # the norms on one device, the loss on another: a model that is spread over both
        for device in ("meta", "cpu"):
            transfer = send(back, device)
            next(slot for slot in slots if slot.device == torch.device(device)).done = True
            transfer.arrays()
    assert [slot.device for slot in slots] == [torch.device("meta"), torch.device("cpu")]


def test_a_transfer_that_is_dropped_gives_its_buffer_back_as_one_that_may_still_be_written(
    slots: list[FakeSlot],
) -> None:
    back = Readback()
    del_me = send(back)
    del del_me
    assert slots[0].unread
    send(back)
    assert len(slots) == 1


@pytest.fixture
def behind(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Numbers of the transfers for which no buffer is free; every step has two, its norms and its loss."""
    full: set[int] = set()
    count = 0

    def on_host(_draft: Draft) -> bool:
        return False

    def send(back: Readback, tensors: Any) -> Transfer:
        nonlocal count
        count += 1
        if count - 1 in full:
            raise RingFullError
        return Transfer([tensor.detach().numpy().reshape(-1).copy() for tensor in tensors], [])

    monkeypatch.setattr(Draft, "on_host", on_host)
    monkeypatch.setattr(Readback, "send", send)
    monkeypatch.setattr("seismograd.capture.said.host_or_copy", lambda loss: loss.detach().clone())
    return full


def trained(watch: Watch, *, steps: int, logs_before: bool) -> Watched:
    """A watched run that logs the number of each step as its loss, before the optimizer's step or behind it."""
    model = nn.Linear(3, 2, dtype=torch.float64)  # float32 on a host takes a shorter way
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    watched = watch(model, optimizer, sample_every=0)
    for step in range(steps):
        model.zero_grad()
        model(torch.ones(3, dtype=torch.float64)).sum().backward()
        if logs_before:
            watched.monitor.log(loss=torch.tensor(float(step)))
        optimizer.step()
        if not logs_before:
            watched.monitor.log(loss=torch.tensor(float(step)))
    return watched


@pytest.mark.parametrize("logs_before", [False, True])
def test_a_step_for_which_no_buffer_is_free_is_counted_and_shifts_no_other(
    watch: Watch, behind: set[int], logs_before: bool
) -> None:
    behind |= {6, 7, 8} if not logs_before else {6}
    watched = trained(watch, steps=10, logs_before=logs_before)

    assert watched.monitor.active
    report = watched.monitor.finish(timeout_seconds=20.0)
    records = watched.ledger.records()
    lost = set(range(10)) - {record.step for record in records}
    assert lost == ({3, 4, 5} if not logs_before else {3})
    assert {record.step: record.scalars[Quantity.LOSS] for record in records} == {
        record.step: float(record.step) for record in records
    }
    assert set(watched.ledger.dropped()) == lost
    assert report.delivered + sum(report.dropped.values()) == 10


@pytest.mark.parametrize("logs_before", [False, True])
def test_a_loss_for_which_no_buffer_is_free_costs_neither_its_step_nor_the_watch(
    watch: Watch, behind: set[int], logs_before: bool
) -> None:
    behind.add(5)  # the loss of step 2
    watched = trained(watch, steps=6, logs_before=logs_before)

    assert watched.monitor.active
    losses = {record.step: record.scalars.get(Quantity.LOSS) for record in watched.records()}
    assert losses == {0: 0.0, 1: 1.0, 2: None, 3: 3.0, 4: 4.0, 5: 5.0}


class FakeDriver:
    """Stands for the driver's library; remembers which threads asked for which mode."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def load(self, name: str) -> FakeDriver:
        assert name == "libcuda.so.1"
        return self

    def cuThreadExchangeStreamCaptureMode(self, mode: Any) -> int:  # noqa: N802 - the driver's name
        self.asked.append((threading.get_ident(), ctypes.cast(mode, ctypes.POINTER(ctypes.c_int)).contents.value))
        return 0


def in_a_thread(function: Callable[[], object]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def test_a_thread_says_once_that_it_takes_no_part_in_the_captures_of_others() -> None:
    driver = FakeDriver()

    def twice() -> None:
        allow_event_queries(driver.load)
        allow_event_queries(driver.load)

    in_a_thread(twice)
    in_a_thread(twice)

    assert [mode for _, mode in driver.asked] == [1, 1]


def test_without_a_driver_nothing_happens() -> None:
    failed: list[BaseException] = []

    def nothing(_name: str) -> Any:
        raise OSError("libcuda.so.1: cannot open shared object file")

    def attempt() -> None:
        try:
            allow_event_queries(nothing)
            allow_event_queries(lambda _name: object())
        except BaseException as error:  # noqa: BLE001 - whatever it is
            failed.append(error)

    in_a_thread(attempt)
    assert not failed


def test_the_training_thread_asks_its_own_events_as_ever_and_another_thread_with_leave(
    slots: list[FakeSlot], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(readback, "allow_event_queries", lambda: asked.append(threading.get_ident()))
    transfer = send(Readback())

    assert not transfer.ready()
    assert not asked
    in_a_thread(transfer.ready)
    assert len(asked) == 1
    assert asked[0] != threading.get_ident()
