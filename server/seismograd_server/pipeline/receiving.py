"""The first transaction: records and what has been received of each stream, committed before any ack.

Duplicates, overlaps and reorders are cut off against the stored intervals, so that whatever a client sends again
changes nothing. Records that were refused or dropped count as received: a hole never stalls a stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from seismograd_server.errors import InvalidBatchError
from seismograd_server.instruments import Instruments
from seismograd_server.model import Catalog, DroppedRange, Health, StepBatch, StreamKey
from seismograd_server.pipeline.arrivals import Arrival, Receipt
from seismograd_server.pipeline.ranks import RankBook
from seismograd_server.store.codec import slice_batch
from seismograd_server.store.database import Transaction
from seismograd_server.store.intervals import Intervals

# Pieces in which a stream may lie. They are copied and written with every tick that adds to it, on the thread that
# stores for everybody: these take a millisecond. A client that sends in order has one, and a few more after a loss.
_MOST_PIECES = 4096


@dataclass(slots=True)
class Intake:
    """What a tick adds: built in a transaction, taken over by the book when that has been committed."""

    now: float
    batches: list[StepBatch] = field(default_factory=list)  # new records only
    drops: list[DroppedRange] = field(default_factory=list)
    received: dict[StreamKey, Intervals] = field(default_factory=dict)
    catalogs: dict[tuple[int, int, int], Catalog] = field(default_factory=dict)  # by (handle, optimizer, version)
    health: dict[int, Health] = field(default_factory=dict)
    touched: list[set[StreamKey]] = field(default_factory=list)  # per arrival
    duplicates: int = 0
    rejected: int = 0


def take_in(transaction: Transaction, book: RankBook, arrivals: Sequence[Arrival], now: float) -> Intake:
    """Write a tick's arrivals; nothing outside the transaction changes.

    Raises:
        UnknownRankError, InvalidBatchError, StorageError: the transaction must be rolled back.
    """
    intake = Intake(now)
    for arrival in arrivals:
        for handle in arrival.handles:
            book.sender(handle)  # raises for one that is not known (any more)
        _take_catalogs(transaction, intake, arrival)
        touched = {_trim(intake, book, batch) for batch in arrival.batches}
        for drop in _drops(arrival, intake):
            touched.add(drop.stream)
            end = drop.first_sequence + drop.count
            _add(_intervals(intake, book, drop.stream), drop.first_sequence, end)
            intake.drops.append(drop)
        for checkpoint in arrival.checkpoints:
            transaction.runs.save_checkpoint(checkpoint)
        for answer in arrival.answers:
            transaction.directives.answer(answer, now)
        intake.health.update((health.rank_handle, health) for health in arrival.health)
        intake.touched.append(touched)
    if intake.batches:
        transaction.segments.append(intake.batches, now)
    if intake.drops:
        transaction.segments.drop(intake.drops)
    for health in intake.health.values():
        transaction.runs.save_health(health)
    return intake


def commit_to_book(intake: Intake, book: RankBook, arrivals: Sequence[Arrival]) -> list[Receipt]:
    """Take over what has been committed, and answer each arrival."""
    for (handle, optimizer, version), catalog in intake.catalogs.items():
        book.sender(handle).catalogs[optimizer, version] = book.share(catalog)
    for stream, intervals in intake.received.items():
        book.sender(stream.rank_handle).received[stream] = intervals
    receipts = []
    for arrival, touched in zip(arrivals, intake.touched, strict=True):
        marks = [mark for stream in touched for mark in book.sender(stream.rank_handle).watermarks([stream])]
        receipts.append(Receipt(tuple(marks), arrival.rejections))
    return receipts


def report_health(intake: Intake, book: RankBook, instruments: Instruments) -> None:
    """Count what clients say of themselves: their totals only rise, so that the difference to the last one is new."""
    for handle, health in intake.health.items():
        sender = book.sender(handle)
        last = sender.health
        before: Mapping[str, int] = last.dropped_records if last is not None else {}
        calls, seconds = (last.hook_calls, last.hook_seconds) if last is not None else (0, 0.0)
        if health.hook_calls >= calls:
            spent = max(0.0, health.hook_seconds - seconds)
            instruments.client_hook_duration.add(sender.project, health.hook_calls - calls, spent)
        for reason, total in health.dropped_records.items():
            if total > before.get(reason, 0):
                counter = instruments.client_dropped_records.labels(project=sender.project, reason=reason)
                counter.inc(total - before.get(reason, 0))
        sender.health = health
    show_spools(book, instruments, {book.sender(handle).project for handle in intake.health})


def show_spools(book: RankBook, instruments: Instruments, projects: Iterable[str]) -> None:
    """Show what the ranks of some projects that have not ended hold in their spools."""
    for project in projects:
        instruments.client_spool_bytes.labels(project=project).set(book.spooled_bytes(project))


def count(intake: Intake, instruments: Instruments, now: float) -> None:
    """Tell the instruments what has become of the records."""
    accepted = sum(batch.count for batch in intake.batches)
    for result, number in (("accepted", accepted), ("duplicate", intake.duplicates), ("rejected", intake.rejected)):
        if number:
            instruments.ingest_records.labels(result=result).inc(number)
    for batch in intake.batches:
        instruments.ingest_record_delay.observe(max(0.0, now - float(batch.times[-1])))


def _take_catalogs(transaction: Transaction, intake: Intake, arrival: Arrival) -> None:
    for handle, catalog in arrival.catalogs:
        key = (handle, catalog.optimizer, catalog.version)
        if key not in intake.catalogs:
            transaction.runs.save_catalog(handle, catalog)
            intake.catalogs[key] = catalog


def _trim(intake: Intake, book: RankBook, batch: StepBatch) -> StreamKey:
    """Keep the records of a batch that have not been received."""
    stream = StreamKey(batch.rank_handle, batch.optimizer, batch.kind)
    intervals = _intervals(intake, book, stream)
    missing = intervals.missing(batch.first_sequence, batch.end_sequence)
    new = 0
    for first, end in missing:
        intake.batches.append(slice_batch(batch, first - batch.first_sequence, end - batch.first_sequence))
        _add(intervals, first, end)
        new += end - first
    intake.duplicates += batch.count - new
    return stream


def _drops(arrival: Arrival, intake: Intake) -> list[DroppedRange]:
    """Declared drops, and rejected records, which count as dropped."""
    drops = list(arrival.drops)
    for rejection in arrival.rejections:
        if rejection.count:
            drops.append(DroppedRange(rejection.stream, rejection.first_sequence, rejection.count, "rejected"))
            intake.rejected += rejection.count
    return drops


def _add(intervals: Intervals, first: int, end: int) -> None:
    before = len(intervals)
    intervals.add(first, end)
    if len(intervals) > max(before, _MOST_PIECES):
        raise InvalidBatchError(
            "first_sequence",
            f"{first} leaves more than {_MOST_PIECES} holes in its stream: send what is missing, or declare it dropped",
        )


def _intervals(intake: Intake, book: RankBook, stream: StreamKey) -> Intervals:
    found = intake.received.get(stream)
    if found is None:
        known = book.sender(stream.rank_handle).received.get(stream)
        found = intake.received[stream] = known.copy() if known is not None else Intervals()
    return found
