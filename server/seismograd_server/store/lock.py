"""One server per SQLite database: a lock file beside it, held for the life of the process.

The kernel releases the lock when the process dies, however it dies, so that no stale lock ever has to be removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from pathlib import Path

from seismograd_server.errors import DatabaseTakenError, StartError

# A line of text about the owner; anything longer is not ours.
_NOTE_BYTES = 512


class ServerLock:
    """An exclusive lock on a file."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, path: Path, *, owner: str, database: str) -> ServerLock:
        """Take the lock, without waiting.

        Raises:
            DatabaseTakenError: another process holds it; the message names its pid and host.
            StartError: the file cannot be made.
        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StartError(
                f"database {database}: {path.parent} is not writable ({error.strerror}): "
                "give another data directory or its permission"
            ) from error
        try:
            # flock, not lockf: closing any other descriptor of the file in this process must not release it.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, _NOTE_BYTES, 0).decode("utf-8", "replace").strip() or "another process"
            os.close(descriptor)
            raise DatabaseTakenError(
                f"database {database} is in use by {holder}: stop that server, or give this one another data directory"
            ) from error
        note = f"pid {os.getpid()} on host {socket.gethostname()} ({owner})\n".encode()[:_NOTE_BYTES]
        with contextlib.suppress(OSError):  # a full disk: the lock holds without its note
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, note, 0)
        return cls(path, descriptor)

    def release(self) -> None:
        """Give the lock back; the file stays, because removing it would let two processes lock two files."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
