"""What one stream of records still owes the server: pure bookkeeping of sequence numbers.

A sequence is in exactly one place: not arrived, on disk (from `expected` on), an item in memory, a gap (it will never
come, and the server is told), or forgotten (sent, then dropped from memory while its ack was outstanding). Everything
below `durable` is gone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from seismograd.record import RecordKind, StepRecord


@dataclass(frozen=True, slots=True, order=True)
class StreamName:
    """Names a sequence of records of this rank."""

    kind: RecordKind
    optimizer: int


@dataclass(slots=True, eq=False)
class Item:
    """A record in memory."""

    record: StepRecord
    size: int  # bytes of memory
    anomalous: bool
    arrived: float  # monotonic clock


@dataclass(frozen=True, slots=True)
class Gap:
    """Sequences first <= s < end that will never come."""

    first: int
    end: int
    reason: str


@dataclass(slots=True)
class Confirmed:
    """What an acknowledgement freed."""

    items: list[tuple[int, Item]]
    delivered: int  # records, including those that were already forgotten


class StreamLog:
    """The records of one stream between arrival and durability."""

    def __init__(self) -> None:
        self.items: OrderedDict[int, Item] = OrderedDict()
        self.gaps: list[Gap] = []  # rising, disjoint
        self.forgotten: list[tuple[int, int]] = []  # rising, disjoint [first, end)
        self.arrived = 0  # sequence of the next record to arrive
        self.expected = 0  # sequence of the next record to come into memory; what lies between the two is on disk
        self.sent = 0  # everything below was sent or declared on this connection
        self.ever_sent = 0  # the same, on any connection: nothing above can be durable
        self.accepted = 0
        self.durable = 0

    def begin_at(self, durable: int) -> None:
        """Before the first record comes into memory: another process has delivered everything below."""
        self.expected = self.sent = self.ever_sent = self.accepted = self.durable = durable

    def add_gap(self, first: int, end: int, reason: str) -> None:
        """Marks sequences as lost for ever. Neighbours merge, so that a month of drops stays small."""
        position = bisect_right(self.gaps, first, key=lambda gap: gap.first)
        if position < len(self.gaps) and self.gaps[position].first == end and self.gaps[position].reason == reason:
            end = self.gaps.pop(position).end
        if position and self.gaps[position - 1].end == first and self.gaps[position - 1].reason == reason:
            position -= 1
            first = self.gaps.pop(position).first
        self.gaps.insert(position, Gap(first, end, reason))

    def without_gaps(self, first: int, end: int) -> list[tuple[int, int]]:
        """The parts of a range that are no gaps."""
        parts = []
        for gap in self.gaps[max(bisect_right(self.gaps, first, key=lambda gap: gap.first) - 1, 0) :]:
            if gap.first >= end:
                break
            if gap.first > first:
                parts.append((first, gap.first))
            first = max(first, gap.end)
        if first < end:
            parts.append((first, end))
        return parts

    def forget(self, sequence: int) -> tuple[Item, bool]:
        """Drops a record from memory. The flag says whether it may still arrive, because it is on its way."""
        item = self.items.pop(sequence)
        on_its_way = sequence < self.sent
        if on_its_way:
            self._forget_sent(sequence)
        else:
            self.add_gap(sequence, sequence + 1, "queue_full")
        return item, on_its_way

    def _forget_sent(self, sequence: int) -> None:
        position = bisect_right(self.forgotten, (sequence, sequence))
        first, end = sequence, sequence + 1
        if position < len(self.forgotten) and self.forgotten[position][0] == end:
            end = self.forgotten.pop(position)[1]
        if position and self.forgotten[position - 1][1] == first:
            position -= 1
            first = self.forgotten.pop(position)[0]
        self.forgotten.insert(position, (first, end))

    def discard(self, first: int, end: int, reason: str) -> list[tuple[int, Item]]:
        """Gives up records of a range that are in memory, and marks them as gaps."""
        # Over the items, not over the range: the bounds may come from a server that lies.
        found = [(sequence, item) for sequence, item in self.items.items() if first <= sequence < end]
        for sequence, _ in found:
            del self.items[sequence]
            self.add_gap(sequence, sequence + 1, reason)
        return found

    def confirm(self, accepted: int, durable: int) -> Confirmed:
        """Applies watermarks of this connection. What was never sent cannot be durable, whatever the server says."""
        self.accepted = max(self.accepted, min(accepted, self.ever_sent))
        durable = min(durable, self.ever_sent)
        confirmed = Confirmed([], 0)
        if durable <= self.durable:
            return confirmed
        self.durable = durable
        self.accepted = max(self.accepted, durable)
        self.sent = max(self.sent, durable)
        while self.items and next(iter(self.items)) < durable:
            confirmed.items.append(self.items.popitem(last=False))
        confirmed.delivered = len(confirmed.items)
        while self.forgotten and self.forgotten[0][0] < durable:
            first, end = self.forgotten.pop(0)
            confirmed.delivered += min(end, durable) - first
            if end > durable:
                self.forgotten.insert(0, (durable, end))
        while self.gaps and self.gaps[0].end <= durable:
            self.gaps.pop(0)
        if self.gaps and self.gaps[0].first < durable:
            self.gaps[0] = Gap(durable, self.gaps[0].end, self.gaps[0].reason)
        return confirmed

    def rewind(self, durable: int) -> tuple[Confirmed, int]:
        """A new connection: everything that the server does not hold is unsent again.

        Returns what its watermark freed, and the number of records that are now known to be lost.
        """
        confirmed = self.confirm(durable, durable)
        if durable < self.durable:
            # The server lost what it had called durable (an old backup, say): tell it, or it waits for ever.
            self.add_gap(durable, self.durable, "already_delivered")
            self.durable = durable
        lost = sum(end - first for first, end in self.forgotten)
        for first, end in self.forgotten:
            self.add_gap(first, end, "queue_full")
        self.forgotten.clear()
        self.sent = self.accepted = self.durable
        return confirmed, lost

    def unsent(self) -> Iterator[tuple[int, Item] | Gap]:
        """Records and gaps behind the cursor, in order."""
        sequence = self.sent
        while sequence < self.expected:
            item = self.items.get(sequence)
            if item is not None:
                yield sequence, item
                sequence += 1
                continue
            position = bisect_right(self.gaps, sequence, key=lambda gap: gap.first) - 1
            if position < 0 or self.gaps[position].end <= sequence:
                raise AssertionError(f"sequence {sequence} is neither in memory nor declared as lost")
            gap = self.gaps[position]
            yield Gap(sequence, gap.end, gap.reason)
            sequence = gap.end

    def mark_sent(self, end: int) -> None:
        """Everything below `end` has been handed to the connection."""
        self.sent = max(self.sent, end)
        self.ever_sent = max(self.ever_sent, self.sent)
