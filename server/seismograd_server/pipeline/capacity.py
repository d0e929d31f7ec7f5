"""What live runs, their ranks and open streams hold in memory, about, and whether there is room for one more.

Records on their way are bounded elsewhere (`ingest/log.py`): they come and go. What is counted here stays until a run
ends or a client hangs up, so that it can only be bounded by refusing whoever comes: before anything of them is taken,
and with a time to come back. Who is here already is never refused for want of room; runs that are over, and only still
shown, give theirs up, the oldest first.

Bytes are estimates, and rather too high: `make bench ARGS=overload` holds them against a server's memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import structlog

from seismograd_server.errors import LimitError
from seismograd_server.instruments import Instruments
from seismograd_server.model import Catalog, RankIdentity
from seismograd_server.pipeline.engine import RunEngine
from seismograd_server.pipeline.fleet import Fleet
from seismograd_server.pipeline.ranks import RankBook, Sender
from seismograd_server.store.database import Database

_log = structlog.get_logger(__name__)

# Measured with 60 to 200 runs of one model, of one rank and 10, 150 and 1,500 parameters each: a run, its rank and its
# stream took 88, 149 and 630 KiB. The figures below make that 204, 259 and 786, of which 128 may be on their way in.
# Baselines, the last norms and the view of a layer; of a rank, what the detectors know of it.
_RUN_BYTES, _LAYER_BYTES, _MEMBER_BYTES = 24 * 2**10, 400, 256
# A call, its connection, its tasks, and the 128 KiB that a client may send before it is read. Every rank has one.
_STREAM_BYTES = 160 * 2**10
# What is known of a rank; a parameter of a catalog (its name, shape and group), once however many runs share that.
_RANK_BYTES, _PARAMETER_BYTES = 16 * 2**10 + _STREAM_BYTES, 512
# What is there is counted anew so often; in between, what was admitted is added.
_LOOK_SECONDS = 5.0
# And so often while there is no room: with thousands of ranks it takes some milliseconds.
_NARROW_SECONDS = 1.0
# How often it is written to the log that there is no room.
_COMPLAIN_SECONDS = 60.0


class Capacity:
    """Used by the log's worker, but for `streams` and `admit_stream`, which belong to the event loop."""

    def __init__(
        self, database: Database, fleet: Fleet, book: RankBook, instruments: Instruments, limit_bytes: int
    ) -> None:
        self._database = database
        self._fleet = fleet
        self._book = book
        self._instruments = instruments
        self._limit = limit_bytes
        self.streams = 0  # open ones
        self._ranks = 0
        self._bytes = 0
        self._looked_at: float | None = None
        self._complained_at: float | None = None
        instruments.ingest_standing_limit_bytes.set(limit_bytes)

    @property
    def standing_bytes(self) -> int:
        """Bytes of live runs, their ranks and streams, about. Streams cost only where they are more than the ranks."""
        return self._bytes + max(0, self.streams - self._ranks) * _STREAM_BYTES

    def look(self, now: float, every: float = _LOOK_SECONDS) -> None:
        """Count what is there, now and then."""
        if self._looked_at is None or not 0 <= now - self._looked_at < every:
            self._looked_at = now
            self._count()

    def admit_rank(self, identity: RankIdentity, catalogs: Sequence[Catalog], now: float) -> None:
        """Make sure that there is room for a rank, and for its run when that is new.

        Raises:
            LimitError: there is none.
            StorageError: whether the rank is known could not be looked up.
        """
        parameters = sum(len(catalog.parameters) for catalog in catalogs)
        run, rank = _size_of_run(parameters, identity.world_size), _RANK_BYTES + parameters * _PARAMETER_BYTES
        if not self._fits(run + rank):
            # Only now does it pay to ask who it is, and what has gone since.
            self.look(now, _NARROW_SECONDS)
            run_id, handle = self._find(identity)
            sender = self._book.get(handle) if handle is not None else None
            new = sum(len(catalog.parameters) for catalog in catalogs if not self._book.has(catalog))
            rank = _RANK_BYTES + new * _PARAMETER_BYTES
            if sender is not None:
                rank = max(0, parameters - _parameters_of(sender)) * (_PARAMETER_BYTES + _LAYER_BYTES)
            run = 0 if run_id is not None and self._fleet.holds(run_id) else run
            self._make_room(run + rank, "run" if run else "rank", now)
        self._bytes += run + rank
        self._ranks += 1

    def admit_catalogs(self, catalogs: Iterable[tuple[int, Catalog]], now: float) -> None:
        """Make sure that there is room for catalogs, each with the handle of its rank; those that are known need none.

        Raises:
            LimitError: there is none.
            UnknownRankError, StorageError: as `RankBook.sender`.
        """
        new = sum(
            len(catalog.parameters)
            for handle, catalog in catalogs
            if (catalog.optimizer, catalog.version) not in self._book.sender(handle).catalogs
        )
        if new:
            size = new * (_PARAMETER_BYTES + _LAYER_BYTES)
            self._make_room(size, "catalog", now)
            self._bytes += size

    def admit_stream(self) -> None:
        """Make sure that there is room for a stream: every rank that is here has brought its own.

        Raises:
            LimitError: there is none.
        """
        if self.streams >= self._ranks and not self._fits(_STREAM_BYTES):
            self._instruments.ingest_refusals.labels(what="stream").inc()
            raise LimitError(f"{self.streams} streams are open, and there is no memory for more: {self._state()}")

    def _count(self) -> None:
        ranks: dict[int, list[Sender]] = {}
        for sender in self._book:
            ranks.setdefault(sender.rank.run_id, []).append(sender)
        engines = {engine.run_id: engine for engine in (*self._fleet, *self._fleet.resting)}
        held = [_held(engines.get(run_id), ranks.get(run_id, ())) for run_id in engines.keys() | ranks.keys()]
        shared = {id(catalog): catalog for each in ranks.values() for one in each for catalog in one.catalogs.values()}
        self._bytes = sum(held) + sum(len(each.parameters) for each in shared.values()) * _PARAMETER_BYTES
        self._ranks = sum(map(len, ranks.values()))
        self._instruments.ingest_standing_bytes.set(self.standing_bytes)

    def _find(self, identity: RankIdentity) -> tuple[int | None, int | None]:
        with self._database.read() as transaction:
            return transaction.runs.find_rank(identity)

    def _fits(self, size: int) -> bool:
        return self.standing_bytes + size <= self._limit

    def _make_room(self, size: int, what: str, now: float) -> None:
        for engine in self._fleet.resting:
            if self._fits(size):
                break
            self._fleet.forget(engine.run_id)
            self._count()
        if size and not self._fits(size):
            self._instruments.ingest_refusals.labels(what=what).inc()
            error = LimitError(f"there is no memory for this {what}, which is taken once others end: {self._state()}")
            self._complain(error, now)
            raise error

    def _state(self) -> str:
        held, limit = self.standing_bytes / 2**20, self._limit / 2**20
        return f"live runs hold {held:.1f} MiB of the {limit:.1f} MiB that max_memory_bytes leaves them"

    def _complain(self, error: LimitError, now: float) -> None:
        """Tell the operator what clients are told, without a line for each of them."""
        if self._complained_at is None or not 0 <= now - self._complained_at < _COMPLAIN_SECONDS:
            self._complained_at = now
            _log.warning("newcomers are refused: they keep their records and come back", reason=str(error))


def _held(engine: RunEngine | None, ranks: Sequence[Sender]) -> int:
    """Bytes of a run and of those of its ranks that are known, without catalogs.

    Its layers are those of the ranks before there is a record.
    """
    held = len(ranks) * _RANK_BYTES
    if engine is not None:
        layers = max([engine.layers, *map(_parameters_of, ranks)])
        held += _size_of_run(layers, engine.launch.world_size)
    return held


def _size_of_run(layers: int, world_size: int) -> int:
    return _RUN_BYTES + layers * _LAYER_BYTES + world_size * _MEMBER_BYTES


def _parameters_of(sender: Sender) -> int:
    return sum(len(catalog.parameters) for catalog in sender.catalogs.values())
