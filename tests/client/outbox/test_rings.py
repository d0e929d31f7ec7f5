"""Which thread writes a record into the ring, and that each is written once and in order."""

from __future__ import annotations

from seismograd.outbox.ring import Ring
from seismograd.outbox.spooled import SpooledQueue
from seismograd.record import RecordKind, StepRecord
from tests.support.records import make_record


class Pending:
    """A record on its way from a device that the test plays."""

    def __init__(self, record: StepRecord, *, on_host: bool = False) -> None:
        self.record = record
        self.is_ready = on_host
        self.on_host = on_host

    def ready(self) -> bool:
        return self.is_ready

    def packed(self) -> None:
        return None

    def immediate(self) -> bool:
        return self.on_host

    def resolve(self) -> StepRecord:
        assert self.is_ready, "resolved before it was ready"
        return self.record


def queue_with_ring() -> tuple[SpooledQueue, Ring]:
    queue = SpooledQueue(1 << 20, 16)
    ring = Ring(None, 1 << 20)
    queue.rings.add(0, ring)
    return queue, ring


def held(ring: Ring) -> list[int]:
    return [record.sequence for record in ring.sequences(0, 1000)]


def test_a_record_whose_numbers_are_on_the_host_is_in_the_ring_when_offer_returns() -> None:
    queue, ring = queue_with_ring()
    queue.offer(make_record(0))
    queue.offer(Pending(make_record(1), on_host=True))

    assert held(ring) == [0, 1]
    queue.absorb(0.0)
    assert held(ring) == [0, 1]
    assert queue.totals().offered == 2


def test_a_record_from_a_device_is_written_when_it_has_arrived_and_what_comes_behind_it_waits() -> None:
    queue, ring = queue_with_ring()
    first = Pending(make_record(0))
    queue.offer(first)
    queue.offer(make_record(1))  # what is alarming overtakes nobody
    queue.absorb(0.0)
    assert held(ring) == []

    first.is_ready = True
    queue.absorb(0.0)

    assert held(ring) == [0, 1]
    queue.offer(make_record(2))
    assert held(ring) == [0, 1, 2]


def test_a_record_behind_a_number_that_never_came_is_written_by_the_sender() -> None:
    queue, ring = queue_with_ring()
    queue.offer(make_record(3))
    assert held(ring) == []

    queue.absorb(0.0)

    assert held(ring) == [3]


def test_optimizers_have_rings_of_their_own_and_details_are_in_none() -> None:
    queue, ring = queue_with_ring()
    other = Ring(None, 1 << 20)
    queue.rings.add(1, other)
    for sequence in range(3):
        queue.offer(make_record(sequence))
        queue.offer(make_record(sequence, optimizer=1, step=100 + sequence))
        queue.offer(make_record(sequence, kind=RecordKind.DETAIL))
    queue.offer(make_record(0, optimizer=7))  # nobody has announced it
    queue.absorb(0.0)

    assert held(ring) == held(other) == [0, 1, 2]
    assert [record.step for record in other.steps(100, 101)] == [100, 101]
    assert queue.rings.of(0) is ring
    assert queue.rings.of(7) is None
    assert queue.totals().waiting == 10
