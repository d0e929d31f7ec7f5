"""What the sender needs of a place for records, and the one that is memory.

The training thread calls `offer`; everything else belongs to the sender's thread. A disk spool or a ring can stand
behind the same few methods.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from seismograd.outbox.pending import PendingRecord
from seismograd.outbox.streamlog import Gap, StreamName
from seismograd.record import StepRecord


@dataclass(frozen=True, slots=True)
class Unsent:
    """What waits to be sent."""

    records: int
    bytes: int
    oldest: float | None  # monotonic clock at its arrival; None = nothing waits
    urgent: bool  # an anomalous record is among them
    gaps: bool  # drops wait to be declared


@dataclass(frozen=True, slots=True)
class Parcel:
    """Content of one frame: records and gaps in order of their streams, and where each stream then stands."""

    records: Mapping[StreamName, list[StepRecord]]
    gaps: Mapping[StreamName, list[Gap]]
    ends: Mapping[StreamName, int]
    record_count: int


@dataclass(frozen=True, slots=True)
class QueueTotals:
    """Running totals since the process began."""

    offered: int
    delivered: int
    dropped: Mapping[str, int]  # by reason
    waiting: int  # records that are neither durable nor given up
    queued_bytes: int
    spooled: int = 0  # of those that wait: on disk and not in memory
    spool_bytes: int = 0  # on disk


@dataclass(frozen=True, slots=True)
class StreamMark:
    """Watermarks of one stream, as the server sent them."""

    stream: StreamName
    accepted: int
    durable: int


class Queue(Protocol):
    """Records between offer and durable."""

    def offer(self, record: StepRecord | PendingRecord) -> bool:
        """Training thread: takes a record, never blocks. True = the sender should look at once."""
        ...

    def absorb(self, now: float) -> bool:
        """Resolves what is ready, in order. True = something was resolved."""
        ...

    def has_pending(self) -> bool:
        """Whether records wait for their device."""
        ...

    def unsent(self) -> Unsent:
        """What waits to be sent."""
        ...

    def take(self, max_records: int, max_bytes: int) -> Parcel:
        """The next frame's content, at least one record if there is any; it counts as sent."""
        ...

    def confirm(self, mark: StreamMark) -> None:
        """Forgets what is durable."""
        ...

    def accepted(self, stream: StreamName) -> int:
        """First sequence that the server does not hold in its log."""
        ...

    def durable(self, stream: StreamName) -> int:
        """First sequence that the server has not committed."""
        ...

    def discard(self, stream: StreamName, first: int, end: int, reason: str) -> int:
        """Gives records up; they are counted and declared. Returns how many there were."""
        ...

    def rewind(self, durable: Mapping[StreamName, int]) -> None:
        """A new connection holds these watermarks: everything above them is unsent again."""
        ...

    def discard_all(self, reason: str) -> None:
        """Gives everything up, and counts it."""
        ...

    def catalog_versions(self) -> set[tuple[int, int]]:
        """(optimizer, version) of every record that is held."""
        ...

    def totals(self) -> QueueTotals:
        """Running totals; safe from any thread."""
        ...


def add_up(counters: Counter[str]) -> dict[str, int]:
    """The counters that are not zero, as a plain mapping."""
    return {reason: count for reason, count in sorted(counters.items()) if count}
