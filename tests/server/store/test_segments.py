from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from sqlalchemy import update

from seismograd_server.errors import InvalidBatchError, StorageDamageError, StorageError, UnknownRankError
from seismograd_server.model import DroppedRange, RankIdentity, RecordKind, StepBatch, StreamKey
from seismograd_server.store import segments as segments_module
from seismograd_server.store.codec import ENCODING_DENSE, encode_dense
from seismograd_server.store.database import Database
from seismograd_server.store.intervals import Intervals
from seismograd_server.store.schema import segments

BatchMaker = Callable[..., StepBatch]


@pytest.fixture
def handles(database: Database, make_identity: Callable[..., RankIdentity]) -> tuple[int, int]:
    """Two ranks of one launch."""
    with database.begin() as transaction:
        first, second = (
            transaction.runs.open_rank(make_identity(rank=rank, world_size=2), now=1.0).rank.handle for rank in (0, 1)
        )
    return first, second


def test_what_is_appended_is_read_back_in_the_order_of_arrival(
    database: Database, handles: tuple[int, int], make_batch: BatchMaker
) -> None:
    first, second = handles
    sent = [make_batch(first, 0), make_batch(second, 0), make_batch(first, 4)]
    with database.begin() as transaction:
        transaction.segments.append(sent[:2], received_at=2.0)
    with database.begin() as transaction:
        transaction.segments.append(sent[2:], received_at=3.0)

    with database.read() as transaction:
        found = list(transaction.segments.read(1, 0))
    assert [(batch.rank_handle, batch.first_sequence) for _, batch in found] == [(first, 0), (second, 0), (first, 4)]
    assert [segment for segment, _ in found] == sorted(segment for segment, _ in found)
    for (_, stored), batch in zip(found, sent, strict=True):
        np.testing.assert_array_equal(stored.steps, batch.steps)
        np.testing.assert_array_equal(stored.gradient_norms, batch.gradient_norms)


def test_reading_pages_without_a_repeat_or_a_hole(
    database: Database, handles: tuple[int, int], make_batch: BatchMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments_module, "_PAGE", 3)
    with database.begin() as transaction:
        transaction.segments.append([make_batch(handles[0], at) for at in range(0, 40, 4)], received_at=2.0)

    with database.read() as transaction:
        whole = [segment for segment, _ in transaction.segments.read(1, 0)]
    assert len(whole) == 10
    continued: list[int] = []
    while True:
        with database.read() as transaction:
            page = transaction.segments.read(1, 0, after_segment=continued[-1] if continued else 0)
            some = [segment for segment, _ in itertools.islice(page, 4)]
        if not some:
            break
        continued += some
    assert continued == whole


def test_a_window_of_steps_finds_the_segments_that_touch_it(
    database: Database, handles: tuple[int, int], make_batch: BatchMaker
) -> None:
    with database.begin() as transaction:
        transaction.segments.append([make_batch(handles[0], at) for at in range(0, 40, 4)], received_at=2.0)

    with database.read() as transaction:
        found = [batch.first_sequence for _, batch in transaction.segments.read(1, 0, first_step=7, last_step=12)]
        assert found == [4, 8, 12]


def test_kinds_and_optimizers_are_streams_of_their_own(
    database: Database, handles: tuple[int, int], make_batch: BatchMaker
) -> None:
    handle, other = handles
    batches = [
        make_batch(handle, 0),
        make_batch(handle, 0, kind=RecordKind.DETAIL),
        make_batch(handle, 0, optimizer=1),
    ]
    with database.begin() as transaction:
        transaction.segments.append(batches, received_at=2.0)

    with database.read() as transaction:
        assert transaction.segments.received([handle, other]) == {
            StreamKey(handle, 0, RecordKind.STEP): Intervals([(0, 4)]),
            StreamKey(handle, 0, RecordKind.DETAIL): Intervals([(0, 4)]),
            StreamKey(handle, 1, RecordKind.STEP): Intervals([(0, 4)]),
        }
        assert len(list(transaction.segments.read(1, 0))) == 1
        assert len(list(transaction.segments.read(1, 0, RecordKind.DETAIL))) == 1
        assert len(list(transaction.segments.read(1, 1))) == 1


def test_received_intervals_are_remembered_over_transactions_and_restarts(
    database: Database, database_url: str, handles: tuple[int, int], make_batch: BatchMaker
) -> None:
    handle = handles[0]
    with database.begin() as transaction:
        transaction.segments.append([make_batch(handle, 0)], received_at=2.0)
        transaction.segments.append([make_batch(handle, 8)], received_at=2.0)
    database.close()

    with Database.open(database_url, owner="test") as reopened, reopened.begin() as transaction:
        stream = StreamKey(handle, 0, RecordKind.STEP)
        assert transaction.segments.received([handle])[stream].missing(0, 12) == [(4, 8)]
        transaction.segments.append([make_batch(handle, 4)], received_at=3.0)
        assert list(transaction.segments.received([handle])[stream]) == [(0, 12)]


def test_intervals_handed_out_are_copies(database: Database, handles: tuple[int, int], make_batch: BatchMaker) -> None:
    handle = handles[0]
    with database.begin() as transaction:
        transaction.segments.append([make_batch(handle, 0)], received_at=2.0)
        for intervals in transaction.segments.received([handle]).values():
            intervals.add(4, 100)
        transaction.segments.append([make_batch(handle, 4)], received_at=2.0)
        (kept,) = transaction.segments.received([handle]).values()
        assert list(kept) == [(0, 8)]


def test_a_record_is_never_stored_twice(database: Database, handles: tuple[int, int], make_batch: BatchMaker) -> None:
    handle = handles[0]
    with database.begin() as transaction:
        transaction.segments.append([make_batch(handle, 0)], received_at=2.0)

    with pytest.raises(StorageError, match="2 of the records 2 to 5 are stored already"), database.begin() as again:
        again.segments.append([make_batch(handle, 2)], received_at=3.0)


def test_a_refused_call_leaves_the_transaction_as_it_was(
    database: Database, handles: tuple[int, int], make_batch: BatchMaker
) -> None:
    handle = handles[0]
    with database.begin() as transaction:
        with pytest.raises(UnknownRankError, match="rank handle 999 is not known here: open the run again"):
            transaction.segments.append([make_batch(handle, 0), make_batch(999, 0)], received_at=2.0)
        transaction.segments.append([make_batch(handle, 8)], received_at=2.0)

    with database.read() as transaction:
        (intervals,) = transaction.segments.received([handle]).values()
        assert list(intervals) == [(8, 12)], "what was not stored must not look received"
        assert [batch.first_sequence for _, batch in transaction.segments.read(1, 0)] == [8]


def test_a_rolled_back_append_was_never_received(
    database: Database, handles: tuple[int, int], make_batch: BatchMaker
) -> None:
    def fail_inside() -> None:
        with database.begin() as transaction:
            transaction.segments.append([make_batch(handles[0], 0)], received_at=2.0)
            raise LookupError

    with pytest.raises(LookupError):
        fail_inside()

    with database.begin() as transaction:
        assert transaction.segments.received(handles) == {}
        transaction.segments.append([make_batch(handles[0], 0)], received_at=2.0)


def test_sequences_beyond_storage_are_refused_by_field(
    database: Database, handles: tuple[int, int], make_batch: BatchMaker
) -> None:
    batch = make_batch(handles[0], 0, first_sequence=2**63 - 2)
    with pytest.raises(InvalidBatchError, match=r"first_sequence: .* leaves the range of int64"), database.begin() as t:
        t.segments.append([batch], received_at=2.0)


def test_declared_drops_close_their_hole_and_are_counted_once(
    database: Database, handles: tuple[int, int], make_batch: BatchMaker
) -> None:
    handle = handles[0]
    stream = StreamKey(handle, 0, RecordKind.STEP)
    dropped = DroppedRange(stream, first_sequence=2, count=8, reason="queue_full")
    with database.begin() as transaction:
        transaction.segments.append([make_batch(handle, 0), make_batch(handle, 12)], received_at=2.0)
    with database.begin() as transaction:
        assert transaction.segments.drop([dropped, dropped]) == 6
        assert transaction.segments.received([handle])[stream].watermark() == 10
    with database.begin() as transaction:
        assert transaction.segments.drop([dropped]) == 0

    with database.read() as transaction:
        assert transaction.segments.dropped(handles) == [DroppedRange(stream, 4, 6, "queue_full")]
        assert list(transaction.segments.received([handle])[stream]) == [(0, 10), (12, 16)]


def test_many_ranks_are_asked_for_at_once(
    database: Database, make_identity: Callable[..., RankIdentity], make_batch: BatchMaker
) -> None:
    count = 1100
    with database.begin() as transaction:
        handles = [
            transaction.runs.open_rank(make_identity(rank=rank, world_size=count), now=1.0).rank.handle
            for rank in range(count)
        ]
        transaction.segments.append([make_batch(handle, 0, 1) for handle in handles], received_at=2.0)

    with database.read() as transaction:
        assert len(transaction.segments.received(handles)) == count


def test_a_damaged_segment_is_named(database: Database, handles: tuple[int, int], make_batch: BatchMaker) -> None:
    with database.begin() as transaction:
        transaction.segments.append([make_batch(handles[0], 0)], received_at=2.0)
        transaction.connection.execute(update(segments).values(payload=b"\0"))

    with pytest.raises(StorageError, match="segment 1 cannot be read"), database.read() as transaction:
        list(transaction.segments.read(1, 0))


def test_an_encoding_from_the_future_is_named(
    database: Database, handles: tuple[int, int], make_batch: BatchMaker
) -> None:
    with database.begin() as transaction:
        transaction.segments.append([make_batch(handles[0], 0)], received_at=2.0)
        transaction.connection.exec_driver_sql("UPDATE segments SET encoding = 7")

    with pytest.raises(StorageError, match="segment 1 has encoding 7"), database.read() as transaction:
        list(transaction.segments.read(1, 0))


def test_a_dense_segment_is_read_like_a_plain_one(
    database: Database, handles: tuple[int, int], make_batch: BatchMaker
) -> None:
    batches = [make_batch(handles[0], first=first) for first in (0, 4)]
    with database.begin() as transaction:
        transaction.segments.append([make_batch(handles[0], count=8)], 1.0)
        transaction.connection.execute(update(segments).values(encoding=ENCODING_DENSE, payload=encode_dense(batches)))
    with database.read() as transaction:
        found = list(transaction.segments.read(1, 0))
    assert [(segment, batch.first_sequence, batch.count) for segment, batch in found] == [(1, 0, 4), (1, 4, 4)]


def test_a_dense_segment_that_lacks_records_is_damaged(
    database: Database, handles: tuple[int, int], make_batch: BatchMaker
) -> None:
    with database.begin() as transaction:
        transaction.segments.append([make_batch(handles[0], count=8)], 1.0)
        payload = encode_dense([make_batch(handles[0])])
        transaction.connection.execute(update(segments).values(encoding=ENCODING_DENSE, payload=payload))
    with (
        pytest.raises(StorageDamageError, match="segment 1 cannot be read: 4 of its 8"),
        database.read() as transaction,
    ):
        list(transaction.segments.read(1, 0))
