"""The queue that is bounded memory.

When it is full, the oldest ordinary record goes first, then the oldest anomalous one. Every drop is counted by reason
and becomes a gap that is declared to the server, so that its watermark never waits for a record that will not come.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping

from seismograd.outbox.columns import RECORD_OVERHEAD, normalise, record_size
from seismograd.outbox.guard import AnomalyGuard
from seismograd.outbox.pending import Arrival, PendingRecord, finished, is_ready
from seismograd.outbox.queue import Parcel, QueueTotals, StreamMark, Unsent, add_up
from seismograd.outbox.streamlog import Gap, Item, StreamLog, StreamName
from seismograd.record import RecordKind, StepRecord

# Size of the first records, until one has been looked at: 150 parameters with two sampled columns.
_FIRST_SIZE = 4096
# Three columns of float32: the gradient norms and two sampled ones.
_BYTES_PER_PARAMETER = 12

_Place = tuple[StreamName, int]


class MemoryQueue:
    """Implements Queue. `limit_bytes` bounds the memory of all records that are not durable."""

    def __init__(self, limit_bytes: int, wake_after: int) -> None:
        self.limit_bytes = limit_bytes
        self.wake_after = wake_after
        # Re-entrant, because a signal handler of the user's may call into the monitor in the middle of an offer.
        self._lock = threading.RLock()
        # Appending to a deque is atomic: the training thread takes the lock only when memory is full. A lock that the
        # sender holds would cost it a switch of threads, which is a hundred times the work done here.
        self.inbox: deque[Arrival] = deque()
        self.typical_size = _FIRST_SIZE
        self._streams: dict[StreamName, StreamLog] = {}
        self._guards: dict[StreamName, AnomalyGuard] = {}
        self._ordinary: OrderedDict[_Place, Item] = OrderedDict()  # both in order of arrival, so oldest first
        self._anomalous: OrderedDict[_Place, Item] = OrderedDict()
        self.occupied = 0  # of the items; the inbox is estimated
        self._looked_at = 0  # records that have left the inbox
        self._delivered = 0
        self._dropped: Counter[str] = Counter()
        # Drops from the inbox, whose sequences show only when the next record of their stream arrives.
        self._holes: Counter[str] = Counter()
        self._unsent_records = self._unsent_bytes = self._unsent_anomalous = 0

    # -------------------------------------------------------------------------------------- the training thread

    def expect(self, parameters: int) -> None:
        """How many parameters a record will cover: a first guess at its size."""
        self.typical_size = max(_FIRST_SIZE, RECORD_OVERHEAD + parameters * _BYTES_PER_PARAMETER)

    def offer(self, record: StepRecord | PendingRecord) -> bool:
        """Takes a record, never blocks. True = the sender should look at once."""
        self.inbox.append(record)
        arrived = len(self.inbox)
        if self.occupied + arrived * self.typical_size > self.limit_bytes:
            with self._lock:
                self.make_room()
        return arrived == self.wake_after or _is_known_anomalous(record)

    def make_room(self) -> None:
        """Under the lock: drops records until what is left fits."""
        while self.occupied + len(self.inbox) * self.typical_size > self.limit_bytes:
            if self._ordinary:
                self._forget(self._ordinary.popitem(last=False))
            elif (index := self._oldest_ordinary_arrival()) is not None:
                self._drop_arrival(index, "queue_full")
            elif self._anomalous:
                self._forget(self._anomalous.popitem(last=False))
            elif self.inbox:
                self._drop_arrival(0, "queue_full")
            else:
                return

    def _oldest_ordinary_arrival(self) -> int | None:
        return next((index for index, record in enumerate(self.inbox) if not _is_known_anomalous(record)), None)

    def _drop_arrival(self, index: int, reason: str) -> None:
        del self.inbox[index]
        self._looked_at += 1
        self._lose(reason)

    def _lose(self, reason: str) -> None:
        with self._lock:
            self._dropped[reason] += 1
            self._holes[reason] += 1

    def _forget(self, entry: tuple[_Place, Item]) -> None:
        (stream, sequence), item = entry
        _, on_its_way = self._streams[stream].forget(sequence)
        self.occupied -= item.size
        if not on_its_way:
            self._dropped["queue_full"] += 1
            self._leave_unsent(item)

    # -------------------------------------------------------------------------------------- the sender's thread

    def absorb(self, now: float) -> bool:
        """Resolves what is ready, in order. True = something was resolved."""
        resolved = False
        while self.inbox:
            arrival = self.inbox[0]
            try:
                ready = is_ready(arrival)
            except Exception:  # noqa: BLE001  # a broken device must not stop the records that did arrive
                ready = True  # resolve() fails too, and is accounted for
            if not ready:
                break
            with self._lock:
                if not self.inbox or self.inbox[0] is not arrival:
                    continue  # dropped for want of room in the meantime
                self.inbox.popleft()
                self._looked_at += 1
            self._resolve(arrival, now)
            resolved = True
        return resolved

    def _resolve(self, arrival: Arrival, now: float) -> None:
        try:
            record = normalise(finished(arrival))
        except Exception:  # noqa: BLE001  # one bad record is dropped and counted; the rest goes on
            self._lose("encode_error")
        else:
            self.admit(record, now)

    def admit(self, record: StepRecord, now: float) -> None:
        """Takes in a record that is finished; the sequences of a stream rise."""
        try:
            stream = StreamName(record.kind, record.optimizer)
            # A detail is history: its step was urgent when it was made.
            anomalous = record.kind is RecordKind.STEP and (
                self._guards.setdefault(stream, AnomalyGuard()).is_anomalous(record)
            )
            size = record_size(record)
        except Exception:  # noqa: BLE001  # see above
            self._lose("encode_error")
            return
        with self._lock:
            # Slowly downwards: a sampled record is large, and the next one is never far.
            self.typical_size = max(size, self.typical_size - self.typical_size // 16)
            self._insert(stream, record.sequence, Item(record, size, anomalous, now))
            self.make_room()

    def _insert(self, stream: StreamName, sequence: int, item: Item) -> None:
        log = self._log_of(stream)
        if sequence < log.arrived:
            # A sequence number that was used before: the first record keeps it.
            self._dropped["encode_error"] += 1
            return
        if sequence > log.arrived:
            self._declare_hole(log, sequence)
        log.arrived = sequence + 1
        self.place(stream, sequence, item)

    def _log_of(self, stream: StreamName) -> StreamLog:
        return self._streams.setdefault(stream, StreamLog())

    def place(self, stream: StreamName, sequence: int, item: Item) -> None:
        """Under the lock: puts a record that has arrived into memory."""
        log = self._log_of(stream)
        log.items[sequence] = item
        self.occupied += item.size
        log.expected = sequence + 1
        (self._anomalous if item.anomalous else self._ordinary)[stream, sequence] = item
        self._unsent_records += 1
        self._unsent_bytes += item.size
        self._unsent_anomalous += item.anomalous

    def _declare_hole(self, log: StreamLog, sequence: int) -> None:
        missing = sequence - log.arrived
        reason = next((name for name, count in self._holes.items() if count), "encode_error")
        unknown = missing
        for name, count in self._holes.items():
            known = min(unknown, count)
            self._holes[name] -= known
            unknown -= known
        # Nobody offered the others: the capture gave up between numbering and offering.
        self._dropped["encode_error"] += unknown
        log.add_gap(log.arrived, sequence, reason)

    def has_pending(self) -> bool:
        """Whether records wait for their device."""
        return bool(self.inbox)

    def unsent(self) -> Unsent:
        """What waits to be sent."""
        with self._lock:
            oldest = None
            gaps = False
            for log in self._streams.values():
                for entry in log.unsent():
                    if isinstance(entry, Gap):
                        gaps = True
                        continue
                    oldest = entry[1].arrived if oldest is None else min(oldest, entry[1].arrived)
                    break
            return Unsent(self._unsent_records, self._unsent_bytes, oldest, self._unsent_anomalous > 0, gaps)

    def take(self, max_records: int, max_bytes: int) -> Parcel:
        """The next frame's content, at least one record if there is any; it counts as sent."""
        records: dict[StreamName, list[StepRecord]] = {}
        gaps: dict[StreamName, list[Gap]] = {}
        ends: dict[StreamName, int] = {}
        count = size = 0
        with self._lock:
            for stream in sorted(self._streams):
                log = self._streams[stream]
                for entry in log.unsent():
                    if isinstance(entry, Gap):
                        gaps.setdefault(stream, []).append(entry)
                        ends[stream] = entry.end
                        continue
                    sequence, item = entry
                    if count and (count >= max_records or size + item.size > max_bytes):
                        break
                    records.setdefault(stream, []).append(item.record)
                    ends[stream] = sequence + 1
                    count += 1
                    size += item.size
                    self._leave_unsent(item)
                if stream in ends:
                    log.mark_sent(ends[stream])
        return Parcel(records, gaps, ends, count)

    def _leave_unsent(self, item: Item) -> None:
        self._unsent_records -= 1
        self._unsent_bytes -= item.size
        self._unsent_anomalous -= item.anomalous

    def confirm(self, mark: StreamMark) -> None:
        """Forgets what is durable."""
        with self._lock:
            log = self._streams.get(mark.stream)
            if log is not None:
                confirmed = log.confirm(mark.accepted, mark.durable)
                self._release(mark.stream, confirmed.items)
                self._delivered += confirmed.delivered

    def accepted(self, stream: StreamName) -> int:
        """First sequence that the server does not hold in its log."""
        with self._lock:
            return self._streams[stream].accepted

    def durable(self, stream: StreamName) -> int:
        """First sequence that the server has not committed."""
        with self._lock:
            log = self._streams.get(stream)
            return 0 if log is None else log.durable

    def discard(self, stream: StreamName, first: int, end: int, reason: str) -> int:
        """Gives records up; they are counted and declared. Returns how many there were."""
        with self._lock:
            log = self._streams.get(stream)
            if log is None:
                return 0
            found = log.discard(first, end, reason)
            self._release(stream, found)
            for sequence, item in found:
                if sequence >= log.sent:
                    self._leave_unsent(item)
            self._dropped[reason] += len(found)
            return len(found)

    def rewind(self, durable: Mapping[StreamName, int]) -> None:
        """A new connection holds these watermarks: everything above them is unsent again."""
        with self._lock:
            for stream, log in self._streams.items():
                confirmed, lost = log.rewind(durable.get(stream, 0))
                self._release(stream, confirmed.items)
                self._delivered += confirmed.delivered
                self._dropped["queue_full"] += lost
            self._recount_unsent()

    def _release(self, stream: StreamName, items: list[tuple[int, Item]]) -> None:
        for sequence, item in items:
            del (self._anomalous if item.anomalous else self._ordinary)[stream, sequence]
            self.occupied -= item.size

    def _recount_unsent(self) -> None:
        items = [item for log in self._streams.values() for item in log.items.values()]
        self._unsent_records = len(items)
        self._unsent_bytes = sum(item.size for item in items)
        self._unsent_anomalous = sum(item.anomalous for item in items)

    def discard_all(self, reason: str) -> None:
        """Gives everything up, and counts it."""
        with self._lock:
            while self.inbox:
                self._drop_arrival(0, reason)
            for stream, log in self._streams.items():
                self.discard(stream, 0, log.expected, reason)

    def catalog_versions(self) -> set[tuple[int, int]]:
        """(optimizer, version) of every record that is held."""
        with self._lock:
            return {
                (stream.optimizer, item.record.catalog_version)
                for stream, log in self._streams.items()
                for item in log.items.values()
            }

    def totals(self) -> QueueTotals:
        """Running totals; safe from any thread."""
        with self._lock:
            # Forgotten ones count: their ack may still come.
            forgotten = sum(end - first for log in self._streams.values() for first, end in log.forgotten)
            waiting = len(self.inbox) + len(self._ordinary) + len(self._anomalous) + forgotten
            queued_bytes = self.occupied + len(self.inbox) * self.typical_size
            offered = self._looked_at + len(self.inbox)
            return QueueTotals(offered, self._delivered, add_up(self._dropped), waiting, queued_bytes)


def _is_known_anomalous(record: Arrival) -> bool:
    return type(record) is StepRecord and record.nonfinite is not None and record.kind is RecordKind.STEP
