"""Which server has a PostgreSQL database: the holder of an advisory lock on a session that does nothing else.

    take    the lock is free -> ours;  held -> by whom, and since when has that session been silent?
    watch   every second on the lock's own session: is the epoch still ours?  session lost -> a new one, the lock again
            (asked for until it is ours: PostgreSQL may take a while to end the lost session, which has it until then)

The lock says who should write; what makes it safe is the epoch, which every write checks. When a server dies, its
session ends and the lock is free at once. A server that lives but is silent (a stopped process, a cut network) is
sent away by the first standby that asks, and finds another epoch when it comes back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog
from sqlalchemy import Connection, Engine, bindparam, select, text
from sqlalchemy.exc import SQLAlchemyError

from seismograd_server.errors import DatabaseTakenError, StorageError, StorageFencedError
from seismograd_server.store.schema import server_epoch

_log = structlog.get_logger(__name__)

# "SEIS", so that a person who looks at pg_locks can tell; the second half of the key is the schema's.
_KEY = 0x53454953
# How often the session of the lock says that its server is well.
_BEAT_SECONDS = 1.0
# A server that has not said so for this long is taken for gone: several beats, and what a loaded machine may skip.
_SILENCE_SECONDS = 8.0
# After a start of PostgreSQL, whoever had the database before comes back first; a standby lets it.
_RETURN_SECONDS = 5.0

# The schema, because each may hold the tables of a server of its own.
_THE_KEY = f"{_KEY}, hashtext(current_schema())"
_TAKE = text(f"SELECT pg_try_advisory_lock({_THE_KEY})")
_HOLDER = text(
    "SELECT activity.application_name AS name, "  # noqa: S608 (likewise)
    "extract(epoch FROM clock_timestamp() - activity.state_change) AS silence "
    "FROM pg_locks AS locks JOIN pg_stat_activity AS activity ON activity.pid = locks.pid "
    "WHERE locks.locktype = 'advisory' AND locks.granted AND locks.objsubid = 2 "
    "AND locks.database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
    f"AND locks.classid::bigint = {_KEY} "
    "AND locks.objid::bigint = (hashtext(current_schema())::bigint & 4294967295)"
)
_SEND_AWAY = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = :name AND usename = current_user"
)
_AGE_OF_SERVER = text("SELECT extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())")
_EPOCH = select(server_epoch.c.epoch).where(server_epoch.c.row == bindparam("one"))


class Tenure:
    """This server's hold on the database."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._name = name
        self._session: Connection | None = None
        self._has_lock = False  # this session; another one does not get it by being connected
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self, *, from_the_silent: bool) -> None:
        """Take the lock, without waiting.

        Args:
            from_the_silent: a standby asks: it takes the lock from a server that has been silent for too long, and
                leaves a free one to its last owner for a while when PostgreSQL has only just started.

        Raises:
            DatabaseTakenError: another server has the database.
            SQLAlchemyError: the database does not answer.
        """
        session = self._engine.connect()
        try:
            young = from_the_silent and float(session.scalars(_AGE_OF_SERVER).one()) < _RETURN_SECONDS
            if young or not session.scalars(_TAKE).one():
                self._refuse(session, from_the_silent=from_the_silent)
        except BaseException:
            session.close()
            raise
        self._session, self._has_lock = session, True

    def watch(self, epoch: int, on_lost: Callable[[StorageError], None]) -> None:
        """Begin to say that this server is well, and to ask whether it still is the one that may write."""
        self._thread = threading.Thread(target=self._run, args=(epoch, on_lost), name="seismograd-tenure", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Give the lock back."""
        self._ending.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._leave()
        self._engine.dispose()

    def _refuse(self, session: Connection, *, from_the_silent: bool) -> None:
        holder = session.execute(_HOLDER).one_or_none()
        if holder is None:
            raise DatabaseTakenError(f"database {self._name}: its last server may come back in a moment: try again")
        # No number where PostgreSQL does not follow what sessions do (track_activities): then nobody is sent away.
        silence = float(holder.silence or 0.0)
        if from_the_silent and silence > _SILENCE_SECONDS:
            _log.warning("sending a silent server away", database=self._name, server=holder.name, silent=round(silence))
            session.execute(_SEND_AWAY, {"name": holder.name})
        raise DatabaseTakenError(
            f"database {self._name} is in use by {_shown(holder.name)}: stop that server, give this one another "
            "database, or let it wait with --standby"
        )

    def _run(self, epoch: int, on_lost: Callable[[StorageError], None]) -> None:
        well, waiting = True, False
        while not self._ending.wait(_BEAT_SECONDS):
            try:
                current = self._beat()
            except SQLAlchemyError:
                if well:
                    _log.warning("the hold on the database is lost: taking it again", database=self._name)
                well, waiting = False, False
                continue
            if current != epoch:
                on_lost(
                    StorageFencedError(
                        f"database {self._name}: another server has taken it over (epoch {current}, ours is {epoch}): "
                        "this server must exit"
                    )
                )
                return
            if self._has_lock and not well:
                _log.info("the database is held again", database=self._name)
            elif not self._has_lock and not waiting:
                _log.warning("the lock of the database is not free: asking for it again", database=self._name)
            well, waiting = self._has_lock, not self._has_lock

    def _beat(self) -> int:
        """Ask for the epoch on the lock's session, on a new one when that is lost; and for the lock until it is ours.

        Raises:
            SQLAlchemyError: the session is lost, and with it the lock; or there is no new one yet.
        """
        if self._session is None:
            self._session = self._engine.connect()
        try:
            current = int(self._session.scalars(_EPOCH, {"one": 1}).one())
            if not self._has_lock:
                self._has_lock = bool(self._session.scalars(_TAKE).one())
        except SQLAlchemyError:
            self._leave()
            raise
        return current

    def _leave(self) -> None:
        session, self._session, self._has_lock = self._session, None, False
        if session is not None:
            # Not back to the pool: the session ends, and with it the lock.
            session.invalidate()
            session.close()


def holder_of(connection: Connection) -> str:
    """Who has the database that this connection is to, as people say it; "" = nobody."""
    holder = connection.execute(_HOLDER).one_or_none()
    return "" if holder is None else _shown(holder.name)


def _shown(application: str) -> str:
    """The pid and the host in the name of a connection of ours, without what makes the name unique."""
    return application.removeprefix("seismograd ").rpartition(" ")[0] or "another program"
