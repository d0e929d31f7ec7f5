"""What is particular to PostgreSQL: connections, and what each of them asks of the server.

An acknowledgement survives the death of every process, PostgreSQL's included, and the loss of power, under either
durability: a commit returns when it is flushed (`synchronous_commit = on`), because with anything less the last half
second of acknowledged records would die with the postmaster.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import Connection, Engine, QueuePool, create_engine, event, text
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.exc import SQLAlchemyError

from seismograd_server.errors import StartError, StorageBusyError, StorageError
from seismograd_server.store import postgresql_failures
from seismograd_server.store.backend import BUSY_SECONDS, READERS
from seismograd_server.store.postgresql_tenure import Tenure, holder_of

# A peer that vanished without a word is noticed after about ten seconds, on either side.
_KEEPALIVE = {"idle": 5, "interval": 2, "count": 3}
_VANISHED_MILLISECONDS = 11_000
# A writer that stops in the middle of a transaction (a paused process, a cut network) gives the epoch's row back after
# this, so that another server can take over.
_IDLE_MILLISECONDS = 5_000
_CONNECT_SECONDS = 5
# The longest name of a connection that PostgreSQL keeps whole.
_NAME_BYTES = 63
# SQLSTATEs after which a connection is of no use although it is open: to a server that is, or has become, a replica.
_LEAVE = frozenset({"25006"})


class PostgresqlBackend:
    """A database that this process alone writes; see `Backend`."""

    kind = "postgresql"

    def __init__(self, address: URL) -> None:
        import psycopg  # noqa: PLC0415 (an extra)

        self.errors: tuple[type[Exception], ...] = (SQLAlchemyError, psycopg.Error)
        self.name = _name(address)
        # What tells this server's connections from those of any other.
        self._application = f"seismograd pid {os.getpid()} on {socket.gethostname()}"[: _NAME_BYTES - 9]
        self._application += f" {secrets.token_hex(4)}"
        self.writer = self._engine(address, 1, _WRITER)
        event.listen(self.writer, "commit", _refuse_a_failed_transaction)
        self.reader = self._engine(address, READERS, _READER)
        self.turn = threading.Lock()
        self.tenure = Tenure(self._engine(address, 1, _TENANT, isolation_level="AUTOCOMMIT"), self.name)

    @classmethod
    def open(cls, address: URL, *, owner: str, durability: str, standby: bool) -> PostgresqlBackend:  # noqa: ARG003 (connections bear their own names)
        """Take the database; see `Database.open`.

        Raises:
            DatabaseTakenError: another server has it.
            StartError: psycopg is not installed, or the database cannot be used.
            StorageError: it does not answer.
        """
        backend = cls._of(address)
        try:
            backend.tenure.take(from_the_silent=standby)
            with backend.writer.begin() as connection:
                _inspect(connection, backend.name, durability)
        except backend.errors as error:
            backend.close()
            raise backend.translate(error, committing=False) from error
        except BaseException:
            backend.close()
            raise
        return backend

    @classmethod
    def look_at(cls, address: URL) -> str:
        """See `database.look_at`.

        Raises:
            StartError: it cannot be used.
            StorageError: it does not answer.
        """
        backend = cls._of(address)
        try:
            with backend.reader.begin() as connection:
                _inspect(connection, backend.name, "process")
                release = connection.scalars(text("SHOW server_version")).one().split()[0]
                holder = holder_of(connection)
        except backend.errors as error:
            raise backend.translate(error, committing=False) from error
        finally:
            backend.close()
        return f"PostgreSQL {release}, {backend.name}, {f'in use by {holder}' if holder else 'free'}"

    @classmethod
    @contextlib.contextmanager
    def looking_into(cls, address: URL) -> Iterator[Engine]:
        """See `database.looking_into`."""
        backend = cls._of(address)
        try:
            yield backend.reader
        except backend.errors as error:
            raise backend.translate(error, committing=False) from error
        finally:
            backend.close()

    @classmethod
    def _of(cls, address: URL) -> PostgresqlBackend:
        """One that has not connected yet."""
        if importlib.util.find_spec("psycopg") is None:
            raise StartError(
                'database_url names PostgreSQL, and psycopg is not installed: pip install "seismograd[cluster]"'
            )
        try:
            return cls(address)
        except (SQLAlchemyError, ImportError, TypeError, ValueError) as error:
            raise StartError(f"database_url cannot be used: {type(error).__name__}: {error}") from None

    def translate(self, error: Exception, *, committing: bool) -> StorageError:
        """See `Backend`."""
        return postgresql_failures.translate(error, self.name, committing=committing)

    def is_final(self, error: Exception) -> bool:  # noqa: ARG002 (the protocol's signature)
        """Never: after a failed sync PostgreSQL itself starts anew and recovers from its log."""
        return False

    def abandon(self) -> None:
        """Nothing: there is no such error."""

    def watch(self, epoch: int, on_lost: Callable[[StorageError], None]) -> None:
        """See `Backend`."""
        self.tenure.watch(epoch, on_lost)

    def take_turn(self, seconds: float) -> bool:
        """See `Backend`."""
        return self.turn.acquire(timeout=seconds)

    def before_transaction(self) -> None:
        """Nothing: whatever fails says so itself."""

    def after_commit(self) -> None:
        """Nothing: PostgreSQL sees to its log."""

    def reclaim(self, connection: Connection, max_bytes: int, keep_bytes: int) -> int:  # noqa: ARG002 (the protocol's signature)
        """Nothing: autovacuum lets freed space be used again."""
        return 0

    def size_bytes(self) -> int:
        """Bytes of the database's files on PostgreSQL's machine, without its write-ahead log."""
        with self.reader.begin() as connection:
            return int(connection.scalars(text("SELECT pg_database_size(current_database())")).one())

    def free_bytes(self) -> int | None:
        """None: PostgreSQL does not tell about the disk of its machine."""
        return None

    def close(self) -> None:
        """Close every connection; with the last one goes the lock."""
        for engine in (self.writer, self.reader):
            engine.dispose()
        self.tenure.end()

    def _engine(self, address: URL, connections: int, parameters: dict[str, object], **options: Any) -> Engine:
        given = address.query.get("options", ())
        settings = [given] if isinstance(given, str) else list(given)
        settings += [f"-c {name}={str(value).replace(' ', chr(92) + ' ')}" for name, value in parameters.items()]
        engine = create_engine(
            address.set(drivername="postgresql+psycopg").difference_update_query(["options", "application_name"]),
            poolclass=QueuePool,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=BUSY_SECONDS,
            pool_pre_ping=True,  # after a restart of PostgreSQL nobody's first transaction has to fail
            hide_parameters=True,
            connect_args={
                "options": " ".join(settings),
                "application_name": self._application,
                "connect_timeout": _CONNECT_SECONDS,
                "tcp_user_timeout": _VANISHED_MILLISECONDS,
                **{f"keepalives_{name}": value for name, value in _KEEPALIVE.items()},
            },
            **options,
        )
        event.listen(engine, "handle_error", _leave_replicas)
        event.listen(engine, "connect", _accept_any_text)
        return engine


_SHARED: dict[str, object] = {
    "client_encoding": "UTF8",
    "lock_timeout": int(BUSY_SECONDS * 1000),
    "jit": "off",  # of no use to short statements, and hundreds of milliseconds to some
    **{f"tcp_keepalives_{name}": value for name, value in _KEEPALIVE.items()},
}
_WRITER = _SHARED | {
    "synchronous_commit": "on",
    "default_transaction_isolation": "read committed",  # what waited for the epoch's row then sees what is there
    "idle_in_transaction_session_timeout": _IDLE_MILLISECONDS,
}
_READER = _SHARED | {
    "default_transaction_isolation": "repeatable read",  # one snapshot
    "default_transaction_read_only": "on",
}
_TENANT = _SHARED | {"statement_timeout": int(BUSY_SECONDS * 1000)}


def _name(address: URL) -> str:
    """Database and place, without user and password."""
    host = address.host or address.query.get("host") or "this machine"
    shown = ", ".join(host) if isinstance(host, tuple) else host
    return (
        f"{address.database or address.username or 'postgres'} on {shown}{f':{address.port}' if address.port else ''}"
    )


def _inspect(connection: Connection, name: str, durability: str) -> None:
    """Refuse what would make an acknowledgement a lie, or text unreadable."""
    encoding, fsync = (connection.scalars(text(f"SHOW {what}")).one() for what in ("server_encoding", "fsync"))
    if encoding != "UTF8":
        raise StartError(f"database {name} has the encoding {encoding}: make it anew with ENCODING 'UTF8'")
    if not connection.scalars(text("SELECT has_schema_privilege(current_schema(), 'CREATE')")).one():
        raise StartError(
            f"database {name}: its user may not make tables there: make it the owner of the database, or of its schema"
        )
    if durability == "power" and fsync != "on":
        raise StartError(
            f'database {name}: durability = "power" needs fsync = on in PostgreSQL\'s configuration, which says {fsync}'
        )


def _refuse_a_failed_transaction(connection: Connection) -> None:
    """After an error PostgreSQL answers COMMIT with a rollback that no driver reports: nobody may be told it is stored.

    It would take somebody inside a transaction who catches the database's own error; this makes that mistake harmless.
    """
    import psycopg  # noqa: PLC0415 (an extra)

    driver: Any = connection.connection.dbapi_connection
    if driver.info.transaction_status == psycopg.pq.TransactionStatus.INERROR:
        raise StorageBusyError("a statement of this transaction has failed: nothing of it has been stored")


def _leave_replicas(context: ExceptionContext) -> None:
    """Connect anew, where the primary may be by then."""
    if postgresql_failures.sqlstate(context.original_exception) in _LEAVE:
        context.is_disconnect = True


def _accept_any_text(connection: Any, _record: object) -> None:
    """PostgreSQL cannot store the character NUL: it becomes the replacement character, as whatever else is unreadable.

    Names cannot hold it (`ingest.limits`); this is for reasons, messages and paths, which are stored as they come.
    """
    from psycopg.types.string import StrDumper  # noqa: PLC0415 (an extra)

    class Dumper(StrDumper):
        def dump(self, obj: str) -> Any:
            return super().dump(obj.replace("\0", "\N{REPLACEMENT CHARACTER}"))

    with contextlib.suppress(AttributeError):
        connection.adapters.register_dumper(str, Dumper)
