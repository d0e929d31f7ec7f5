"""What PostgreSQL says of a failure, translated once to `errors.py`; each message names the database and the fix."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from seismograd_server.errors import StorageBusyError, StorageError, StorageUncertainError

# SQLSTATEs that pass by themselves or once an operator has made room, and classes of them (two characters);
# https://www.postgresql.org/docs/current/errcodes-appendix.html.
_TRANSIENT = {
    "08": "the connection failed: is PostgreSQL running, and can it be reached from here?",
    "25006": "it is read-only: connect to the primary, or end its default_transaction_read_only",
    "25P03": "a transaction was idle for too long and was ended: try again",
    "25P04": "a transaction took too long and was ended: try again",
    "40": "a transaction came into the way of another one: try again",
    "53100": "the disk of PostgreSQL is full: free some space, nothing that was acknowledged is lost",
    "53200": "the memory of PostgreSQL is exhausted: give it more, or lower max_inflight_bytes",
    "53300": "PostgreSQL has no connection left for us: raise its max_connections, or end other clients",
    "53": "PostgreSQL lacks resources: look at its log",
    "55P03": "somebody else holds a lock on its tables: try again, or end that transaction",
    "57014": "a statement took too long and was ended: try again",
    "57": "PostgreSQL is starting, stopping or has sent us away: try again",
}
_LASTING = {
    "22P05": "a text holds what its encoding cannot: make the database anew with ENCODING 'UTF8'",
    "42501": "the user lacks a privilege: make it the owner of the database and of its schema",
    "58": "the disk of PostgreSQL failed: look at its log and at the kernel's",
    "XX": "it is damaged: look at PostgreSQL's log, and restore it from a backup",
}
# The classes that come in the place of an answer; any other SQLSTATE is PostgreSQL's word that nothing was committed.
_SENT_AWAY = frozenset({"08", "57"})
_AWAY = "it does not answer: is PostgreSQL running, and can it be reached from here?"


def sqlstate(error: BaseException) -> str:
    """The SQLSTATE behind an error; "" when PostgreSQL did not get to say one."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    return getattr(origin, "sqlstate", None) or ""


def translate(error: Exception, name: str, *, committing: bool) -> StorageError:
    """The error of our tree for one of the driver's; `name` is how people call the database.

    Args:
        error: what SQLAlchemy or psycopg raised.
        name: of the database.
        committing: whether it came instead of the answer to a commit.
    """
    if isinstance(error, PoolTimeoutError):
        return StorageBusyError(f"database {name}: too many readers at once; try again")
    code = sqlstate(error)
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    if committing and (lost or not code or code[:2] in _SENT_AWAY):
        return StorageUncertainError(f"database {name}: the connection was lost during a commit: try again")
    for known, kind in ((_TRANSIENT, StorageBusyError), (_LASTING, StorageError)):
        if (reason := known.get(code) or known.get(code[:2])) is not None:
            return kind(f"database {name}: {reason}")
    origin = error.orig if isinstance(error, DBAPIError) else error
    first_line = (str(origin).splitlines() or [""])[0]
    if lost or (not code and type(origin).__name__ in {"OperationalError", "ConnectionTimeout"}):
        return StorageBusyError(f"database {name}: {_AWAY} ({first_line})")
    return StorageError(f"database {name}: {type(origin).__name__}: {first_line}")
