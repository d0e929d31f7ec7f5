"""Bounded memory: what goes first, what is counted, in which order things are resolved."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seismograd.outbox.columns import record_size
from seismograd.outbox.memory import MemoryQueue
from seismograd.outbox.queue import Parcel, StreamMark
from seismograd.outbox.streamlog import Gap, StreamName
from seismograd.record import Nonfinite, RecordKind, StepRecord
from tests.support.records import make_record

STREAM = StreamName(RecordKind.STEP, 0)
PARAMETERS = 1000
SIZE = record_size(make_record(0, parameters=PARAMETERS))
NONFINITE = Nonfinite(np.zeros(1, np.uint32), *([np.ones(1, np.uint64)] * 3))


class Pending:
    """A record on its way from a device that the test plays."""

    def __init__(self, record: StepRecord, *, ready: bool = True, failure: Exception | None = None) -> None:
        self.record = record
        self.is_ready = ready
        self.failure = failure

    def ready(self) -> bool:
        return self.is_ready

    def packed(self) -> None:
        return None

    def immediate(self) -> bool:
        return False

    def resolve(self) -> StepRecord:
        assert self.is_ready, "resolved before it was ready"
        if self.failure is not None:
            raise self.failure
        return self.record


def queue_for(records: float) -> MemoryQueue:
    """A queue with room for so many records of PARAMETERS parameters."""
    queue = MemoryQueue(int(records * SIZE), wake_after=16)
    queue.expect(0)
    return queue


def big(sequence: int, **changes: Any) -> StepRecord:
    return make_record(sequence, parameters=PARAMETERS, **changes)


def take_all(queue: MemoryQueue) -> Parcel:
    return queue.take(10**6, 10**9)


def sequences(parcel: Parcel, stream: StreamName = STREAM) -> list[int]:
    return [record.sequence for record in parcel.records.get(stream, [])]


def test_the_oldest_ordinary_record_goes_first() -> None:
    queue = queue_for(3.5)
    for sequence in range(5):
        queue.offer(big(sequence))
        queue.absorb(0.0)
    parcel = take_all(queue)
    assert sequences(parcel) == [2, 3, 4]
    assert parcel.gaps[STREAM] == [Gap(0, 2, "queue_full")]
    assert queue.totals().dropped == {"queue_full": 2}


def test_no_anomalous_record_goes_before_an_ordinary_one() -> None:
    queue = queue_for(3.5)
    for sequence in range(8):
        queue.offer(big(sequence, nonfinite=NONFINITE if sequence in (1, 2) else None))
        queue.absorb(0.0)
    assert sequences(take_all(queue)) == [1, 2, 7]


def test_when_only_anomalous_records_are_left_the_oldest_of_them_goes() -> None:
    queue = queue_for(3.5)
    for sequence in range(6):
        queue.offer(big(sequence, nonfinite=NONFINITE))
        queue.absorb(0.0)
    assert sequences(take_all(queue)) == [3, 4, 5]
    assert queue.totals().dropped == {"queue_full": 3}


def test_memory_is_bounded_while_the_sender_never_looks() -> None:
    queue = MemoryQueue(1024 * 1024, wake_after=16)
    queue.expect(PARAMETERS)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for sequence in range(2000):
            queue.offer(big(sequence))
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 1.25 * 1024 * 1024
    totals = queue.totals()
    assert totals.queued_bytes <= 1024 * 1024
    assert totals.waiting + totals.dropped["queue_full"] == totals.offered == 2000


def test_memory_is_bounded_while_the_server_is_away() -> None:
    queue = MemoryQueue(1024 * 1024, wake_after=16)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for sequence in range(3000):
            queue.offer(make_record(sequence, parameters=100, nonfinite=NONFINITE if sequence % 9 == 0 else None))
            queue.absorb(0.0)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 1.25 * 1024 * 1024
    assert queue.totals().queued_bytes <= 1024 * 1024


def test_drops_from_the_inbox_are_declared_when_the_next_record_shows_their_numbers() -> None:
    queue = queue_for(3.5)
    queue.expect(PARAMETERS)
    for sequence in range(6):
        queue.offer(Pending(big(sequence)))
    queue.absorb(0.0)
    parcel = take_all(queue)
    dropped = queue.totals().dropped["queue_full"]
    assert dropped >= 3
    assert parcel.gaps[STREAM] == [Gap(0, dropped, "queue_full")]
    assert sequences(parcel) == list(range(dropped, 6))


def test_pending_records_are_resolved_in_order_and_only_when_ready() -> None:
    queue = queue_for(100)
    first, second = Pending(make_record(0), ready=False), Pending(make_record(1))
    queue.offer(first)
    queue.offer(second)
    assert queue.absorb(0.0) is False
    assert sequences(take_all(queue)) == []
    first.is_ready = True
    assert queue.absorb(0.0) is True
    assert sequences(take_all(queue)) == [0, 1]


def test_a_record_that_cannot_be_resolved_is_counted_and_declared() -> None:
    queue = queue_for(100)
    queue.offer(make_record(0))
    queue.offer(Pending(make_record(1), failure=RuntimeError("device lost")))
    queue.offer(make_record(2, gradient_norms=np.zeros((2, 2), np.float32)))
    queue.offer(make_record(3))
    queue.absorb(0.0)
    parcel = take_all(queue)
    assert sequences(parcel) == [0, 3]
    assert parcel.gaps[STREAM] == [Gap(1, 3, "encode_error")]
    assert queue.totals().dropped == {"encode_error": 2}


def test_a_number_that_was_never_offered_is_declared_and_counted() -> None:
    queue = queue_for(100)
    queue.offer(make_record(2))
    queue.absorb(0.0)
    assert take_all(queue).gaps[STREAM] == [Gap(0, 2, "encode_error")]
    assert queue.totals().dropped == {"encode_error": 2}


def test_a_sequence_number_used_twice_keeps_its_first_record() -> None:
    queue = queue_for(100)
    queue.offer(make_record(0, step=1))
    queue.offer(make_record(0, step=2))
    queue.absorb(0.0)
    assert [record.step for record in take_all(queue).records[STREAM]] == [1]
    assert queue.totals().dropped == {"encode_error": 1}


def test_streams_keep_their_own_numbers() -> None:
    queue = queue_for(100)
    other = StreamName(RecordKind.DETAIL, 1)
    queue.offer(make_record(0))
    queue.offer(make_record(0, optimizer=1, kind=RecordKind.DETAIL))
    queue.offer(make_record(1))
    queue.absorb(0.0)
    parcel = take_all(queue)
    assert (sequences(parcel), sequences(parcel, other)) == ([0, 1], [0])
    queue.confirm(StreamMark(other, 1, 1))
    assert (queue.durable(STREAM), queue.durable(other)) == (0, 1)
    assert queue.totals().delivered == 1


@pytest.mark.parametrize(("limits", "expected"), [((2, 10**9), [0, 1]), ((10, 1), [0]), ((0, 0), [0])])
def test_a_frame_is_bounded_but_never_empty(limits: tuple[int, int], expected: list[int]) -> None:
    queue = queue_for(100)
    for sequence in range(5):
        queue.offer(make_record(sequence))
    queue.absorb(0.0)
    assert sequences(queue.take(*limits)) == expected


def test_what_waits_is_known_by_number_size_age_and_haste() -> None:
    queue = queue_for(100)
    queue.offer(make_record(0))
    queue.absorb(5.0)
    queue.offer(make_record(1, nonfinite=NONFINITE))
    queue.absorb(6.0)
    unsent = queue.unsent()
    assert (unsent.records, unsent.oldest, unsent.urgent) == (2, 5.0, True)
    take_all(queue)
    unsent = queue.unsent()
    assert (unsent.records, unsent.bytes, unsent.oldest, unsent.urgent) == (0, 0, None, False)
    queue.rewind({})
    assert (queue.unsent().records, queue.unsent().urgent) == (2, True)


def test_the_sender_is_woken_for_an_anomaly_and_for_a_full_frame() -> None:
    queue = MemoryQueue(10**8, wake_after=3)
    assert [queue.offer(make_record(n)) for n in range(5)] == [False, False, True, False, False]
    assert queue.offer(make_record(5, nonfinite=NONFINITE)) is True


def test_giving_up_counts_everything_that_was_held() -> None:
    queue = queue_for(100)
    for sequence in range(4):
        queue.offer(make_record(sequence))
    queue.absorb(0.0)
    queue.offer(Pending(make_record(4), ready=False))
    queue.discard_all("rejected")
    totals = queue.totals()
    assert (totals.offered, totals.waiting, totals.dropped) == (5, 0, {"rejected": 5})
    assert queue.unsent().records == 0


def test_two_threads_may_offer_while_the_sender_works() -> None:
    queue = MemoryQueue(10**8, wake_after=16)
    done = threading.Event()

    def offer(optimizer: int) -> None:
        for sequence in range(500):
            queue.offer(make_record(sequence, optimizer=optimizer))

    def absorb() -> None:
        while not done.is_set():
            queue.absorb(0.0)

    sender = threading.Thread(target=absorb)
    trainers = [threading.Thread(target=offer, args=(optimizer,)) for optimizer in range(2)]
    for thread in (sender, *trainers):
        thread.start()
    for thread in trainers:
        thread.join()
    done.set()
    sender.join()
    queue.absorb(0.0)
    parcel = take_all(queue)
    assert [sequences(parcel, StreamName(RecordKind.STEP, n)) for n in range(2)] == [list(range(500))] * 2


events = st.one_of(
    st.tuples(st.just("offer"), st.booleans()),
    st.tuples(st.just("absorb"), st.just(False)),
    st.tuples(st.just("send"), st.just(False)),
    st.tuples(st.just("acknowledge"), st.just(False)),
    st.tuples(st.just("reconnect"), st.just(False)),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(events, max_size=80))
def test_after_any_history_the_numbers_add_up(history: list[tuple[str, bool]]) -> None:
    queue = queue_for(4.5)
    offered = 0
    acknowledged = sent = 0

    def perform(event: str, anomalous: bool) -> None:
        nonlocal offered, acknowledged, sent
        if event == "offer":
            queue.offer(big(offered, nonfinite=NONFINITE if anomalous else None))
            offered += 1
        elif event == "absorb":
            queue.absorb(0.0)
        elif event == "send":
            sent = max(sent, queue.take(2, 10**9).ends.get(STREAM, 0))
        elif event == "acknowledge":
            acknowledged = sent
            queue.confirm(StreamMark(STREAM, sent, sent))
        else:
            queue.rewind({STREAM: acknowledged})

    run: Callable[[str, bool], None] = perform
    for event, anomalous in history:
        run(event, anomalous)
        totals = queue.totals()
        assert totals.offered == offered
        assert totals.delivered + totals.waiting + sum(totals.dropped.values()) == offered
        assert totals.queued_bytes <= 4.5 * SIZE
