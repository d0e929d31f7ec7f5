"""The ranks that may send: a cache of what the store knows of each handle.

Right for as long as this server is the only writer, which the store's epoch guarantees. It changes after a commit,
never before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from seismograd_server.model import Catalog, Health, Rank, StreamKey, Watermark
from seismograd_server.store.database import Database, Transaction
from seismograd_server.store.intervals import Intervals


@dataclass(slots=True)
class Sender:
    """One rank: who it is, which catalogs it has sent, and which sequences of each of its streams are durable."""

    rank: Rank
    attempt: int
    project: str
    catalogs: dict[tuple[int, int], Catalog] = field(default_factory=dict)  # by (optimizer, version)
    received: dict[StreamKey, Intervals] = field(default_factory=dict)
    health: Health | None = None

    def watermarks(self, streams: Iterable[StreamKey] | None = None) -> tuple[Watermark, ...]:
        """How far the given streams (default: all) have come; what is accepted here is durable."""
        found = []
        for stream in self.received if streams is None else streams:
            intervals = self.received.get(stream)
            mark = intervals.watermark() if intervals is not None else 0
            found.append(Watermark(stream, mark, mark))
        return tuple(found)


class RankBook:
    """The senders by handle."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._senders: dict[int, Sender] = {}
        self._catalogs: WeakValueDictionary[int, Catalog] = WeakValueDictionary()  # by hash, as long as any is in use

    def __iter__(self) -> Iterator[Sender]:
        """The senders that are in the book."""
        return iter(list(self._senders.values()))

    def get(self, handle: int) -> Sender | None:
        """A sender, if it is in the book."""
        return self._senders.get(handle)

    def sender(self, handle: int) -> Sender:
        """The rank behind a handle.

        Raises:
            UnknownRankError: it was never given, or its run has been deleted.
            StorageError: it could not be looked up.
        """
        found = self._senders.get(handle)
        if found is None:
            with self._database.read() as transaction:
                found = read_sender(transaction, handle)
            self.keep(found)
        return found

    def catalog(self, handle: int, optimizer: int, version: int) -> Catalog | None:
        """A catalog of a rank, or None. Raises as `sender`."""
        return self.sender(handle).catalogs.get((optimizer, version))

    def keep(self, sender: Sender) -> None:
        """Replace what is known of a rank."""
        sender.catalogs = {key: self.share(catalog) for key, catalog in sender.catalogs.items()}
        self._senders[sender.rank.handle] = sender

    def share(self, catalog: Catalog) -> Catalog:
        """The same catalog, as others have it already: of the ranks and runs of one model each sends its own."""
        found = self._catalogs.setdefault(hash(catalog), catalog)
        return found if found == catalog else catalog

    def has(self, catalog: Catalog) -> bool:
        """Whether some rank has sent the same catalog."""
        return self._catalogs.get(hash(catalog)) == catalog

    def of_run(self, run_id: int) -> list[Sender]:
        """The senders of a run that are in the book."""
        return [sender for sender in self._senders.values() if sender.rank.run_id == run_id]

    def spooled_bytes(self, project: str) -> int:
        """What the ranks of a project that have not ended said they hold in their spools."""
        return sum(
            sender.health.spool_bytes
            for sender in self._senders.values()
            if sender.health is not None and sender.project == project and sender.rank.ended_at is None
        )

    def forget(self, run_id: int) -> None:
        """Forget the ranks of a run, which may have been deleted."""
        self._senders = {handle: each for handle, each in self._senders.items() if each.rank.run_id != run_id}


def read_sender(transaction: Transaction, handle: int) -> Sender:
    """Read everything about a rank. Raises UnknownRankError."""
    rank = transaction.runs.rank(handle)
    run = transaction.runs.by_id(rank.run_id)
    sender = Sender(rank, transaction.runs.launch(rank.launch_row).attempt, run.key.project)
    sender.received = transaction.segments.received([handle])
    sender.catalogs = transaction.runs.catalogs_of(handle)
    sender.health = next((each for each in transaction.runs.health(rank.run_id) if each.rank_handle == handle), None)
    return sender
