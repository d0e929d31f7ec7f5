"""What each kind of database brings with it; everything else of the store is the same for all of them.

`sqlite.py` and `postgresql.py` have one each, and `database.py` chooses by the URL.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from sqlalchemy import Connection, Engine

from seismograd_server.errors import StorageError

# How long a write waits for the other writing thread, and the database for somebody else's lock (a backup, a shell).
# Longer than the slowest transaction that is healthy, shorter than a client's patience with an ack.
BUSY_SECONDS = 5.0
# More than the pages and commands that a person and a few scrapers keep busy; a reader in wait costs nothing else.
READERS = 16


class Backend(Protocol):
    """An opened database that this process alone may write, and nobody else until `close`.

    Attributes:
        kind: "sqlite" or "postgresql", as the metrics call it.
        name: how people call the database; never with a password.
        writer: makes the one writing connection.
        reader: makes connections that see one snapshot per transaction and cannot write.
        turn: whoever writes holds it.
        errors: what engines and connections raise.
    """

    kind: str
    name: str
    writer: Engine
    reader: Engine
    turn: threading.Lock
    errors: tuple[type[Exception], ...]

    def translate(self, error: Exception, *, committing: bool) -> StorageError:
        """The error of our tree for one of the driver's; `committing`: it came instead of a commit's success."""
        ...

    def is_final(self, error: Exception) -> bool:
        """Whether nothing may be written any more after this error."""
        ...

    def abandon(self) -> None:
        """After such an error, from whatever thread: nothing is written any more, not even by `close`."""
        ...

    def watch(self, epoch: int, on_lost: Callable[[StorageError], None]) -> None:
        """From now on tell, at most once, when another server is found to have taken the database over."""
        ...

    def take_turn(self, seconds: float) -> bool:
        """Wait for the turn, at most so long for another transaction; whether it has come."""
        ...

    def before_transaction(self) -> None:
        """Make ready for a transaction, in its turn; may take a while. Raises what has failed since the last one."""
        ...

    def after_commit(self) -> None:
        """See to what a commit leaves to be done, in its turn."""
        ...

    def reclaim(self, connection: Connection, max_bytes: int, keep_bytes: int) -> int:
        """Give up to so many freed bytes back to the file system, but keep some; the number of bytes given back."""
        ...

    def size_bytes(self) -> int:
        """Bytes on disk."""
        ...

    def free_bytes(self) -> int | None:
        """Free bytes on the volume under the database; None = cannot be known from here."""
        ...

    def close(self) -> None:
        """Close every connection and let others write; may be called twice."""
        ...
