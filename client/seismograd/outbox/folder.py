"""The folder of one process in the spool, and the lock that says whether its process lives.

    <spool>/<pid>-<random>/
        lock        held (flock) while the process lives, or while somebody delivers the folder
        journal     who the process is and how it ended: messages of the wire, framed
        ring-0 ...  the last steps of each optimizer (ring.py)
        records-1 ...  older records that are not durable yet (segments.py)

Whoever holds the lock owns the folder. Files are private to the user. A forked child lets go of its copy of the lock,
so that a folder does not seem alive because a data loader's worker outlives its parent.
"""

from __future__ import annotations

import fcntl
import os
import stat
import uuid
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

from seismograd.outbox.frames import consecutive, frame

_LOCK = "lock"
_JOURNAL = "journal"
# A folder is made under this prefix and gets its name when its lock is held: nobody can take it in between.
_UNFINISHED = ".new-"


class SpoolFolder:
    """A folder whose lock is held. Methods raise OSError."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock: int | None = lock
        self._process = os.getpid()
        self._journal: int | None = None
        self._journal_size = 0
        reference = weakref.ref(self)

        def let_go() -> None:
            if (folder := reference()) is not None:
                folder.release()

        os.register_at_fork(after_in_child=let_go)

    @classmethod
    def create(cls, parents: Sequence[Path]) -> SpoolFolder:
        """A new folder in the first of the parents where one can be made."""
        for parent in parents[:-1]:
            try:
                return cls._create(parent)
            except OSError:
                continue
        return cls._create(parents[-1])

    @classmethod
    def _create(cls, parent: Path) -> SpoolFolder:
        _make_private(parent)
        name = f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
        unfinished = parent / (_UNFINISHED + name)
        unfinished.mkdir(mode=0o700)
        lock = os.open(unfinished / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unfinished.rename(parent / name)
        except OSError:
            os.close(lock)
            raise
        return cls(parent / name, lock)

    @classmethod
    def take(cls, path: Path) -> SpoolFolder | None:
        """The folder of a process that is dead; None while its process lives, or when somebody else has it."""
        try:
            lock = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever delivered it just now has removed what we opened.
            current = os.path.samestat(os.fstat(lock), (path / _LOCK).stat())
        except (BlockingIOError, FileNotFoundError):
            current = False
        except OSError:
            os.close(lock)
            raise
        if current:
            return cls(path, lock)
        os.close(lock)
        return None

    # ------------------------------------------------------------------------------------------------- the journal

    def note(self, tag: int, message: bytes) -> None:
        """Adds an entry to the journal, whole or not at all."""
        if self._journal is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._journal = os.open(self.path / _JOURNAL, flags, 0o600)
            self._journal_size = sum(entry.size for entry in consecutive((self.path / _JOURNAL).read_bytes()))
        write_whole(self._journal, self._journal_size, entry := frame(tag, message))
        self._journal_size += len(entry)

    def notes(self) -> Iterator[tuple[int, bytes]]:
        """(tag, message) of every entry of the journal."""
        return self.notes_of(self.path)

    @staticmethod
    def notes_of(path: Path) -> Iterator[tuple[int, bytes]]:
        """The same of any folder, also of one whose process lives."""
        try:
            content = (path / _JOURNAL).read_bytes()
        except FileNotFoundError:
            return
        for entry in consecutive(content):
            yield entry.tag, entry.payload

    # ----------------------------------------------------------------------------------------------------- the end

    def release(self) -> None:
        """Lets the folder be; somebody else may take it. Never raises."""
        lock, self._lock = self._lock, None
        journal, self._journal = self._journal, None
        for descriptor in (lock, journal):
            if descriptor is not None:
                os.close(descriptor)

    def remove(self) -> None:
        """Everything is delivered: removes the folder, the lock last, and lets go."""
        try:
            for path in sorted(self.path.iterdir(), key=lambda each: each.name == _LOCK):
                path.unlink()
            self.path.rmdir()
        except FileNotFoundError:
            pass  # somebody has cleaned up before us
        finally:
            self.release()


def left_behind(parent: Path) -> list[Path]:
    """Folders of processes, alive or dead, the oldest first; `parent` may be such a folder itself."""
    if (parent / _LOCK).is_file():
        return [parent]
    found = [path for path in parent.iterdir() if not path.name.startswith(".") and (path / _LOCK).is_file()]
    return sorted(found, key=lambda path: (path.stat().st_mtime, path.name))


def unfinished(parent: Path, *, older_than: float) -> list[Path]:
    """Folders that somebody began to make before that time (Unix seconds) and has not named yet."""
    begun = [path for path in parent.iterdir() if path.name.startswith(_UNFINISHED)]
    return [path for path in begun if path.stat().st_mtime < older_than]


def write_whole(descriptor: int, offset: int, content: bytes) -> None:
    """Writes at an offset, whole or not at all: what is written of it when the disk is full is cut off again."""
    view = memoryview(content)
    written = 0
    try:
        while written < len(view):
            written += os.pwrite(descriptor, view[written:], offset + written)
    except OSError:
        os.ftruncate(descriptor, offset)
        raise


def _make_private(folder: Path) -> None:
    """Makes a folder for this user alone. Below a folder that everybody writes to, all of the way must be ours."""
    for each in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
        each.mkdir(mode=0o700, exist_ok=True)
    below: list[Path] = []
    for each in (folder, *folder.parents):
        mode = each.stat().st_mode
        if mode & stat.S_ISVTX and mode & stat.S_IWOTH:
            if any(part.lstat().st_uid != os.getuid() for part in below):
                raise PermissionError(f"{folder} belongs to somebody else")
            return
        below.append(each)
