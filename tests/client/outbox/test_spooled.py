"""The queue with its disk: every record is delivered once or counted as dropped, whatever server and disk do."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from seismograd.outbox.disk import RETRY_SECONDS, Disk, rings_of
from seismograd.outbox.queue import StreamMark
from seismograd.outbox.ring import Ring
from seismograd.outbox.segments import Segments
from seismograd.outbox.spooled import SpooledQueue
from seismograd.outbox.streamlog import StreamName
from seismograd.record import Nonfinite, RecordKind, StepRecord
from tests.support.records import FakeClock, make_record

STEPS = StreamName(RecordKind.STEP, 0)
NONFINITE = Nonfinite(np.zeros(1, np.uint32), *([np.ones(1, np.uint64)] * 3))
RING = 8192  # some forty records
MEMORY = 64 * 1024  # a window of some twenty


class Server:
    """What it was sent, by sequence; `durable` follows without a hole."""

    def __init__(self, queue: SpooledQueue) -> None:
        self.queue = queue
        self.records: dict[StreamName, dict[int, StepRecord]] = {}
        self.gaps: dict[StreamName, dict[int, str]] = {}
        self.duplicates = 0

    def take(self, records: int = 1000) -> int:
        parcel = self.queue.take(records, 1 << 20)
        for stream, sent in parcel.records.items():
            mine = self.records.setdefault(stream, {})
            for record in sent:
                self.duplicates += record.sequence in mine
                mine.setdefault(record.sequence, record)
        for stream, gaps in parcel.gaps.items():
            for gap in gaps:
                self.gaps.setdefault(stream, {}).update(dict.fromkeys(range(gap.first, gap.end), gap.reason))
        return parcel.record_count

    def watermark(self, stream: StreamName) -> int:
        mark = 0
        while mark in self.records.get(stream, {}) or mark in self.gaps.get(stream, {}):
            mark += 1
        return mark

    def acknowledge(self) -> None:
        for stream in {*self.records, *self.gaps}:
            mark = self.watermark(stream)
            self.queue.confirm(StreamMark(stream, mark, mark))


class Rig:
    """A queue, its disk, and a clock that the test moves."""

    def __init__(self, folder: Path, *, spool_bytes: int = 1 << 20, hoards: bool = False) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.queue = SpooledQueue(MEMORY, 16, hoards=hoards)
        for optimizer in (0, 1):
            self.queue.rings.add(optimizer, Ring(None, RING))
        self.disk = Disk([folder], spool_bytes, self.queue.rings, self.clock)
        self.queue.disk = self.disk
        self.disk.attend()
        self.server = Server(self.queue)
        self.offered: dict[StreamName, dict[int, StepRecord]] = {}

    def offer(self, count: int = 1, optimizer: int = 0, kind: RecordKind = RecordKind.STEP, **changes: Any) -> None:
        mine = self.offered.setdefault(StreamName(kind, optimizer), {})
        for _ in range(count):
            record = make_record(len(mine), optimizer=optimizer, kind=kind, **changes)
            mine[record.sequence] = record
            self.queue.offer(record)

    def absorb(self) -> None:
        self.disk.attend()
        self.queue.absorb(self.clock.now)

    def drain(self) -> None:
        """A server that takes everything."""
        for _ in range(1000):
            self.absorb()
            taken = self.server.take()
            self.server.acknowledge()
            if not taken and not self.queue.totals().waiting:
                return
        raise AssertionError(f"never empty: {self.queue.totals()}")

    def verify(self) -> None:
        """Each record that was offered is with the server, bit for bit, or declared; never both, never twice."""
        self.drain()
        assert self.server.duplicates == 0
        for stream, mine in self.offered.items():
            stored, gaps = self.server.records.get(stream, {}), self.server.gaps.get(stream, {})
            assert set(stored) | set(gaps) == set(mine)
            assert not set(stored) & set(gaps)
            for sequence, record in stored.items():
                assert record.step == mine[sequence].step
                np.testing.assert_array_equal(record.gradient_norms, mine[sequence].gradient_norms)
                assert (record.nonfinite is None) == (mine[sequence].nonfinite is None)
        totals = self.queue.totals()
        assert totals.offered == sum(map(len, self.offered.values()))
        assert totals.delivered + sum(totals.dropped.values()) == totals.offered
        assert sum(totals.dropped.values()) == sum(map(len, self.server.gaps.values()))
        assert (totals.waiting, totals.spooled, totals.queued_bytes) == (0, 0, 0)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.disk.finish(delivered=True, secured=True)


def test_what_no_memory_holds_waits_on_disk_and_comes_back_in_order(rig: Rig) -> None:
    for _ in range(100):
        rig.offer(10, parameters=20)
        rig.absorb()
    totals = rig.queue.totals()
    assert totals.queued_bytes <= MEMORY
    assert totals.spooled > 900
    assert totals.spool_bytes > 0
    assert totals.dropped == {}

    rig.verify()

    assert list(rig.server.records[STEPS]) == list(range(1000)), "in order"
    assert rig.disk.size == 0, "what is durable is removed"


def test_a_burst_that_the_sender_does_not_see_passes_through_the_ring(rig: Rig) -> None:
    rig.offer(60)
    assert rig.queue.totals().queued_bytes <= MEMORY
    rig.verify()
    assert rig.queue.totals().dropped == {}


def test_what_the_ring_loses_before_anybody_looked_is_counted_and_declared(rig: Rig) -> None:
    rig.offer(500)
    assert rig.queue.totals().queued_bytes <= MEMORY
    rig.verify()
    assert 100 < sum(rig.queue.totals().dropped.values()) < 500
    rig.offer(3)
    rig.verify()


def test_a_full_spool_drops_the_oldest_ordinary_records_first_and_anomalous_ones_last(tmp_path: Path) -> None:
    rig = Rig(tmp_path, spool_bytes=32 * 1024)
    for index in range(60):
        rig.offer(9)
        rig.offer(1, nonfinite=NONFINITE)
        rig.absorb()
        assert rig.disk.size <= 32 * 1024, index
    rig.verify()

    gone = rig.server.gaps[STEPS]
    assert set(gone.values()) == {"spool_full"}
    assert all(sequence % 10 != 9 for sequence in gone), "no anomalous record while there are ordinary ones"
    window = min(gone)
    assert window > 5, "memory keeps the oldest"
    assert sorted(gone) == [s for s in range(window, max(gone) + 1) if s % 10 != 9], "the oldest of the rest"


def test_when_only_anomalous_records_are_left_the_oldest_of_them_go(tmp_path: Path) -> None:
    rig = Rig(tmp_path, spool_bytes=32 * 1024)
    for _ in range(60):
        rig.offer(10, nonfinite=NONFINITE)
        rig.absorb()
    rig.verify()

    gone = sorted(rig.server.gaps[STEPS])
    assert gone == list(range(gone[0], gone[-1] + 1))
    assert 599 not in gone


def test_details_and_records_too_large_for_the_ring_go_to_the_spool_themselves(rig: Rig) -> None:
    for _ in range(40):
        rig.offer(3)
        rig.offer(2, kind=RecordKind.DETAIL)
        rig.offer(1, optimizer=1, parameters=3000)
        rig.absorb()
    assert rig.queue.totals().dropped == {}
    rig.verify()
    assert rig.queue.totals().dropped == {}


def test_a_process_that_dies_leaves_everything_that_is_not_durable_in_its_folder(rig: Rig) -> None:
    for _ in range(30):
        rig.offer(10)
        rig.absorb()
    rig.server.take(100)
    rig.server.acknowledge()
    durable = rig.server.watermark(STEPS)
    rig.offer(5)
    assert rig.disk.path is not None

    # Another process looks at the files as they are now.
    segments, rings = Segments(rig.disk.path, 1 << 20), rings_of(rig.disk.path)
    left = {record.sequence for record in segments.read(STEPS, durable)}
    left |= {record.sequence for record in rings[0].sequences(durable, 10_000)}

    assert left >= set(range(durable, 305))


def test_at_the_end_everything_is_in_the_spool_and_the_rings_are_not_needed(rig: Rig) -> None:
    for _ in range(10):
        rig.offer(10)
        rig.absorb()
    rig.offer(7)
    rig.absorb()
    path = rig.disk.path
    assert path is not None

    assert rig.queue.secure()
    rig.disk.finish(delivered=False, secured=True)

    assert sorted(each.name for each in path.iterdir() if each.name != "journal") == ["lock", "records-1"]
    assert [record.sequence for record in Segments(path, 1 << 20).read(STEPS, 0)] == list(range(107))


def test_what_is_hoarded_goes_to_the_disk_alone(tmp_path: Path) -> None:
    rig = Rig(tmp_path, hoards=True)
    for _ in range(50):
        rig.offer(10)
        rig.absorb()

    totals = rig.queue.totals()
    assert (totals.spooled, totals.dropped) == (500, {})
    assert totals.queued_bytes == 0
    assert rig.queue.secure()


def fail_writes(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "pwrite", fail)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EFBIG])
def test_a_disk_that_fails_is_said_once_and_memory_drops_the_oldest_until_it_is_back(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    with monkeypatch.context() as broken, caplog.at_level(logging.WARNING, "seismograd"):
        fail_writes(broken, code)
        for _ in range(60):
            rig.offer(10)
            rig.absorb()
            rig.clock.advance(RETRY_SECONDS / 4)
        assert rig.queue.totals().queued_bytes <= MEMORY
        assert sum(rig.queue.totals().dropped.values()) > 400
    assert [message for message in caplog.messages if os.strerror(code) in message] == caplog.messages[:1]

    rig.clock.advance(RETRY_SECONDS + 1)
    before = sum(rig.queue.totals().dropped.values())
    for _ in range(60):
        rig.offer(10)
        rig.absorb()
    assert rig.queue.totals().spooled > 300
    assert sum(rig.queue.totals().dropped.values()) - before < 60
    rig.verify()


def test_a_folder_that_somebody_removes_is_made_again(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.offer(10)
    rig.absorb()
    first = rig.disk.path
    assert first is not None
    for path in first.iterdir():
        path.unlink()
    first.rmdir()
    for _ in range(20):
        rig.offer(10)
        rig.absorb()
    rig.clock.advance(RETRY_SECONDS + 1)
    for _ in range(20):
        rig.offer(10)
        rig.absorb()

    assert rig.disk.path not in (None, first)
    assert rig.queue.totals().spooled > 0
    rig.verify()


# A full memory, a disk that fails and works again: what then comes back must not fill memory a second time.
BROKEN_AND_MENDED = [
    ("offer", 35, False),
    ("break", 1, False),
    ("absorb", 1, False),
    ("offer", 28, False),
    ("mend", 1, False),
    ("offer", 35, False),
    ("absorb", 1, False),
]
HISTORIES = st.lists(
    st.tuples(
        st.sampled_from(
            ["offer", "offer", "offer", "absorb", "absorb", "take", "acknowledge", "rewind", "break", "mend"]
        ),
        st.integers(1, 40),
        st.booleans(),
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=60)
@given(history=HISTORIES, spool_bytes=st.sampled_from([16 * 1024, 1 << 20]))
@example(history=BROKEN_AND_MENDED, spool_bytes=1 << 20)
def test_after_any_history_every_record_is_delivered_once_or_declared(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[str, int, bool]], spool_bytes: int
) -> None:
    rig = Rig(tmp_path_factory.mktemp("spool"), spool_bytes=spool_bytes)
    logging.getLogger("seismograd").setLevel(logging.ERROR)
    patch = pytest.MonkeyPatch()
    try:
        for event, count, odd in history:
            if event == "offer":
                rig.offer(count, optimizer=int(odd), nonfinite=NONFINITE if count % 7 == 0 else None)
            elif event == "absorb":
                rig.absorb()
            elif event == "take":
                rig.server.take(count)
            elif event == "acknowledge":
                rig.server.acknowledge()
            elif event == "rewind":
                rig.queue.rewind({stream: rig.server.watermark(stream) for stream in rig.offered})
            elif event == "break":
                fail_writes(patch, errno.ENOSPC)
            else:
                patch.undo()
                rig.clock.advance(RETRY_SECONDS + 1)
            assert rig.queue.totals().queued_bytes <= 2 * MEMORY
        patch.undo()
        rig.queue.rewind({stream: rig.server.watermark(stream) for stream in rig.offered})
        rig.server.duplicates = 0
        rig.drain()
        for stream in rig.offered:
            rig.offer(optimizer=stream.optimizer)  # a drop at the end shows when the next record comes
        rig.verify()
    finally:
        patch.undo()
        logging.getLogger("seismograd").setLevel(logging.NOTSET)
        rig.disk.finish(delivered=True, secured=True)
