r"""The queue behind the sender: the ring first, then bounded memory, then the disk spool, then counted drops.

    offer --> ring --------(about to be overwritten, not durable)--------> spool
                \                                                             |
                 '--> memory, while it has room and nothing waits on disk <---'   in order, as room comes

The training thread writes a record into its optimizer's ring when every number is on the host; what has to come from
a device is written by the sender's thread, as soon as it has arrived. Ring and spool together are the write-ahead log:
whatever is not durable on the server is in one of them. Memory is a window on its oldest part. A stream's records come
into memory in order; those that have arrived and wait on disk are its *backlog*.
Without a disk that can be written, memory is all there is, and drops its oldest ordinary record when it is full.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import takewhile

from seismograd.outbox.columns import normalise, record_size, travelling
from seismograd.outbox.disk import Storage
from seismograd.outbox.memory import MemoryQueue
from seismograd.outbox.packing import PackedError, PackedRecord, pack, unpack
from seismograd.outbox.pending import PendingRecord
from seismograd.outbox.queue import QueueTotals, StreamMark
from seismograd.outbox.ring import Ring
from seismograd.outbox.rings import Rings
from seismograd.outbox.segments import Spooled
from seismograd.outbox.skips import Skips
from seismograd.outbox.streamlog import Item, StreamLog, StreamName
from seismograd.record import RecordKind, StepRecord

# From half a ring on, records that are not durable move to the spool, in portions that keep a turn short; from three
# quarters on, all at once.
_CROWDED, _URGENT = 0.5, 0.75
_PORTION = 256
_REFILL = 512  # records that come back into memory in one turn: some milliseconds of work
# The share of memory from which on the ring alone takes what arrives; the rest is for one large record.
_FULL = 0.75


class SpooledQueue(MemoryQueue):
    """Implements Queue. With `hoards`, nothing is sent: every record goes to the disk while there is one."""

    def __init__(self, limit_bytes: int, wake_after: int, *, hoards: bool = False) -> None:
        super().__init__(limit_bytes, wake_after)
        self.rings = Rings()
        self.disk: Storage | None = None
        self._window = 0 if hoards else limit_bytes // 2  # the rest is for what arrives
        self._hoards = hoards
        self._backlog: Counter[StreamName] = Counter()
        self._spilled: dict[StreamName, int] = {}  # what is there below this sequence, and not durable, is in the spool
        self._direct: dict[StreamName, list[Spooled]] = {}  # on the way to the spool without a ring
        self._anomalies: dict[StreamName, set[int]] = {}  # sequences that are not in the spool yet
        self._skips = Skips()
        self.inbox_room = 0  # records, as of the last turn: the training thread looks up one number a step, not three

    # -------------------------------------------------------------------------------------- the training thread

    def offer(self, record: StepRecord | PendingRecord) -> bool:
        """Takes a record, never blocks. True = the sender should look at once."""
        try:
            if isinstance(record, StepRecord):
                record = normalise(record)
            else:
                record = record.packed() or (record.resolve() if record.immediate() else record)
            if isinstance(record, StepRecord | PackedRecord) and self.rings.offer(record) and self._is_full():
                # The sender will find it there; memory that is full of what is older need not drop anything.
                self._skips.add(record.optimizer, record.sequence)
                return isinstance(record, StepRecord) and record.nonfinite is not None
        except Exception:  # noqa: BLE001, S110  # one bad record: it fails again where it is counted
            pass
        return super().offer(record)

    def _is_full(self) -> bool:
        return len(self.inbox) + 1 > self._inbox_room() and self.disk is not None and self.disk.usable

    def _inbox_room(self) -> int:
        return int(_FULL * self.limit_bytes - self.occupied) // self.typical_size

    def make_room(self) -> None:
        """Under the lock: while there is a disk, memory is not filled beyond its limit in the first place."""
        if self.disk is None or not self.disk.usable:
            super().make_room()

    # --------------------------------------------------------------------- the sender's thread: what has arrived

    def absorb(self, now: float) -> bool:
        """Resolves what is ready, in order, and moves records between ring, memory and spool."""
        # Counted first: what was offered before one of these is in the inbox by now.
        skipped = self._skips.counts()
        moved = super().absorb(now)
        for optimizer, count in skipped.items():
            self._take_skipped(optimizer, count, now)
        if self.disk is not None:
            self._spill()
            moved = self._refill(now) or moved
        self.inbox_room = self._inbox_room()
        return moved

    def has_pending(self) -> bool:
        """Whether records wait to be looked at."""
        return super().has_pending() or bool(self._skips)

    def admit(self, record: StepRecord, now: float) -> None:
        """Takes in a record that is finished; the sequences of a stream rise."""
        if record.kind is RecordKind.STEP and self._skips:
            self._take_skipped(record.optimizer, self._skips.count_before(record.optimizer, record.sequence), now)
        self.rings.keep(record)
        super().admit(travelling(record), now)

    def _take_skipped(self, optimizer: int, count: int, now: float) -> None:
        """Records that were offered, and that only the ring has: arrivals like any other, if they are still there."""
        sequences, ring = self._skips.take(optimizer, count), self.rings.of(optimizer)
        if not sequences:
            return
        records = () if ring is None else ring.sequences(sequences[0], sequences[-1] + 1)
        found = {record.sequence: record for record in records}
        for sequence in sequences:
            record = found.get(sequence)
            with self._lock:
                self._looked_at += 1
                if record is None:
                    self._lose("queue_full")
            if record is not None:
                super().admit(travelling(record), now)

    def place(self, stream: StreamName, sequence: int, item: Item) -> None:
        """Under the lock: a record has arrived; into memory with it, or leave it on disk."""
        if self.disk is None:
            super().place(stream, sequence, item)
            return
        if item.anomalous:
            self._anomalies.setdefault(stream, set()).add(sequence)
        ring = self._ring(stream)
        behind = self._backlog[stream] > 0
        full = self._hoards or self.occupied >= self._window
        if not behind and not (full and self.disk.usable):
            super().place(stream, sequence, item)
        elif ring is not None and ring.oldest <= sequence < ring.end:
            self._backlog[stream] += 1
        elif self.disk.usable:
            self._backlog[stream] += 1
            record = Spooled(stream, sequence, item.anomalous, pack(item.record))
            self._direct.setdefault(stream, []).append(record)
        else:
            self._backlog[stream] += 1
            self._lose_range(stream, sequence, sequence + 1)

    def _ring(self, stream: StreamName) -> Ring | None:
        return self.rings.of(stream.optimizer) if stream.kind is RecordKind.STEP else None

    def _declare_hole(self, log: StreamLog, sequence: int) -> None:
        for _ in range(self._skips.forgotten(sequence - log.arrived)):
            self._looked_at += 1
            self._lose("queue_full")
        super()._declare_hole(log, sequence)

    def _lose_range(self, stream: StreamName, first: int, end: int, reason: str = "spool_full") -> None:
        """Under the lock: records of the backlog that are in no place any more."""
        log = self._streams[stream]
        for begin, stop in log.without_gaps(max(first, log.expected), min(end, log.arrived)):
            log.add_gap(begin, stop, reason)
            self._dropped[reason] += stop - begin
            self._backlog[stream] -= stop - begin

    # ------------------------------------------------------------------------------- the sender's thread: to the disk

    def _spill(self) -> None:
        for stream in sorted(self._streams):
            ring, first = self._ring(stream), self._unspilled(stream)
            share = 0.0 if ring is None else ring.share_since(first)
            if self._direct.get(stream) or share > _URGENT:
                self._spill_until(stream, self._streams[stream].arrived)
            elif share > _CROWDED:
                self._spill_until(stream, min(first + _PORTION, self._streams[stream].arrived))

    def _unspilled(self, stream: StreamName) -> int:
        return max(self._spilled.get(stream, 0), self._streams[stream].durable)

    def _spill_until(self, stream: StreamName, end: int) -> bool:
        """Copies what is not durable and not there yet into the spool. Returns whether all of it is there now."""
        first = self._unspilled(stream)
        if self.disk is None or not self.disk.usable:
            # The rings go on; what they lose of the backlog, nobody has.
            ring = self._ring(stream)
            with self._lock:
                self._lose_range(stream, first, 0 if ring is None else ring.oldest)
                for record in self._direct.pop(stream, []):
                    self._lose_range(stream, record.sequence, record.sequence + 1)
            return first >= end
        records = self._gather(stream, first, end)
        dropped = self.disk.append(records) if records else []
        if dropped is None:
            return False  # the next turn finds the disk unusable, until it is tried again
        self._direct.pop(stream, None)
        self._spilled[stream] = max(first, end)
        self._anomalies[stream] = {sequence for sequence in self._anomalies.get(stream, ()) if sequence >= end}
        with self._lock:
            held = {record.sequence for record in records}
            self._lose_missing(stream, first, end, held)
            for record in dropped:
                self._lose_range(record.stream, record.sequence, record.sequence + 1)
        return True

    def _gather(self, stream: StreamName, first: int, end: int) -> list[Spooled]:
        """Every record of a range that is in the ring, in memory, or on its way."""
        ring, anomalies = self._ring(stream), self._anomalies.get(stream, set())
        found = {record.sequence: record for record in self._direct.get(stream, [])}
        if ring is not None:
            for sequence, packed in ring.packed(first, end):
                found[sequence] = Spooled(stream, sequence, sequence in anomalies, packed)
        with self._lock:
            items = self._streams[stream].items
            held = [(each, items[each]) for each in range(first, end) if each not in found and each in items]
        for sequence, item in held:
            found[sequence] = Spooled(stream, sequence, item.anomalous, pack(item.record))
        return [found[sequence] for sequence in sorted(found)]

    def _lose_missing(self, stream: StreamName, first: int, end: int, held: Iterable[int]) -> None:
        """Under the lock: what of the range is not held was overwritten before it could be saved."""
        begin = first
        for sequence in [*sorted(held), end]:
            if sequence > begin:
                self._lose_range(stream, begin, sequence)
            begin = sequence + 1

    def secure(self) -> bool:
        """At the end: copies everything that is not durable into the spool. Returns whether all of it is there."""
        if self.disk is None:
            return False
        saved = [self._spill_until(stream, self._streams[stream].arrived) for stream in sorted(self._streams)]
        return all(saved)

    # ----------------------------------------------------------------------------- the sender's thread: from the disk

    def _refill(self, now: float) -> bool:
        """Brings the oldest part of the backlog into memory, as far as there is room."""
        loaded = 0
        with self._lock:
            for stream, log in self._streams.items():
                if self._backlog[stream] == 0:
                    log.expected = log.arrived  # only gaps lie between
        for stream in sorted(stream for stream, count in self._backlog.items() if count > 0):
            while self._backlog[stream] > 0 and loaded < _REFILL and not self._hoards and self.occupied < self._window:
                loaded += self._load(stream, _REFILL - loaded, now)
        return loaded > 0

    def _load(self, stream: StreamName, most: int, now: float) -> int:
        log = self._streams[stream]
        chunk = self._read(stream, log.expected, most)
        with self._lock:
            if not chunk:  # nobody has the rest
                self._lose_range(stream, log.expected, log.arrived)
                log.expected = log.arrived
                return 0
            for spooled in takewhile(lambda _: self.occupied < self._window, chunk):
                # Neither what was written twice, because the first time failed, nor what was given up before.
                if spooled.sequence < log.expected or not log.without_gaps(spooled.sequence, spooled.sequence + 1):
                    continue
                self._lose_range(stream, log.expected, spooled.sequence)
                try:
                    record = travelling(unpack(spooled.packed))
                except PackedError:
                    self._lose_range(stream, spooled.sequence, spooled.sequence + 1, "encode_error")
                    log.expected = spooled.sequence + 1
                    continue
                self._backlog[stream] -= 1
                super().place(stream, spooled.sequence, Item(record, record_size(record), spooled.anomalous, now))
        return len(chunk)

    def _read(self, stream: StreamName, first: int, most: int) -> list[Spooled]:
        spilled = self._spilled.get(stream, 0)
        if first < spilled and self.disk is not None:
            if chunk := [each for each in self.disk.read(stream, first)[:most] if each.sequence < spilled]:
                return chunk
            first = spilled
        ring, anomalies = self._ring(stream), self._anomalies.get(stream, set())
        if ring is None:
            return []
        first = max(first, ring.oldest)
        return [
            Spooled(stream, sequence, sequence in anomalies, packed)
            for sequence, packed in ring.packed(first, min(first + most, self._streams[stream].arrived))
        ]

    # -------------------------------------------------------------------------------- the sender's thread: the server

    def confirm(self, mark: StreamMark) -> None:
        """Forgets what is durable."""
        super().confirm(mark)
        self._give_back()

    def rewind(self, durable: Mapping[StreamName, int]) -> None:
        """A new connection holds these watermarks: everything above them is unsent again."""
        super().rewind(durable)
        self._give_back()

    def _give_back(self) -> None:
        if self.disk is not None:
            self.disk.confirm({stream: log.durable for stream, log in self._streams.items()})
        for stream, anomalies in self._anomalies.items():
            self._anomalies[stream] = {each for each in anomalies if each >= self._streams[stream].durable}

    def discard_all(self, reason: str) -> None:
        """Gives everything up, and counts it."""
        super().discard_all(reason)
        with self._lock:
            for stream, log in self._streams.items():
                self._lose_range(stream, log.expected, log.arrived, reason)
                log.expected = log.arrived

    def totals(self) -> QueueTotals:
        """Running totals; safe from any thread."""
        with self._lock:
            totals = super().totals()
            spooled = sum(self._backlog.values())
            on_disk = 0 if self.disk is None else self.disk.size
            return replace(totals, waiting=totals.waiting + spooled, spooled=spooled, spool_bytes=on_disk)
