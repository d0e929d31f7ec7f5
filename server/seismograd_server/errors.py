"""Everything that can go wrong in the server, as one tree.

    SeismogradError
    ├── UsageError              the person gave something that cannot work; exit code 1 and one line, HTTP 400
    │   ├── ConfigError         a key or value of the configuration
    │   ├── NotFoundError       a run, alert or file that does not exist; HTTP 404, gRPC NOT_FOUND
    │   └── ConflictError       what is asked contradicts the state of the thing; HTTP 409
    ├── StartError              the server cannot start: port in use, data directory not writable
    │   ├── DatabaseTakenError  another server has the database: a standby waits until it is gone
    │   └── DatabaseAwayError   the database does not answer now: a standby goes on asking
    ├── IngestError             a client sent something that is refused
    │   ├── InvalidBatchError   a field with the wrong length or value; the records are rejected, the stream goes on
    │   ├── UnknownRankError    a handle that this server never gave; gRPC NOT_FOUND, the client opens the run again
    │   ├── RankTakenError      another process already is this rank; gRPC ALREADY_EXISTS
    │   ├── LaunchConflictError the launch contradicts what is known of it; gRPC FAILED_PRECONDITION
    │   └── LimitError          this server has as many as it may hold; gRPC RESOURCE_EXHAUSTED with RetryInfo
    ├── StorageError            the store failed
    │   ├── StorageBusyError    transient: try again; gRPC UNAVAILABLE with RetryInfo
    │   │   └── StorageUncertainError  whether it has been stored is not known: read again before writing again
    │   ├── StorageFencedError  another server owns the database now: this one must exit
    │   └── StorageDamageError  stored bytes are not what was written; only what they held is lost
    ├── TransferError           a server does not take what is imported
    └── DeliveryError           a notification did not arrive
        ├── TransientDeliveryError  try again later
        └── PermanentDeliveryError  never try this one again: count it and go on

Each boundary translates once: `ingest/` to gRPC status codes, `web/` to HTTP, `commands` to exit codes.
"""

from __future__ import annotations

from typing import TypeVar


class SeismogradError(Exception):
    """Root of the tree. The message is one line that names the thing and the fix."""


class UsageError(SeismogradError):
    """The person gave something that cannot work."""


class ConfigError(UsageError):
    """A key or value of the configuration cannot be used."""


class NotFoundError(UsageError):
    """A run, alert or file that does not exist."""


class ConflictError(UsageError):
    """What is asked contradicts the state of the thing: a run that still goes cannot be deleted."""


class StartError(SeismogradError):
    """The server cannot start."""


class DatabaseTakenError(StartError):
    """Another server has the database."""


class DatabaseAwayError(StartError):
    """The database does not answer, or is too busy to be opened."""


class IngestError(SeismogradError):
    """A client sent something that is refused."""


class InvalidBatchError(IngestError):
    """A field has the wrong length or value.

    Attributes:
        field: the field at fault, as the protocol names it.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class UnknownRankError(IngestError):
    """A rank handle that this server never gave."""


class RankTakenError(IngestError):
    """Another living process already is this rank of the launch."""


class LaunchConflictError(IngestError):
    """What the rank says contradicts what is known of its launch."""


class LimitError(IngestError):
    """This server holds as many runs, ranks or streams as it may: the same request may succeed later."""


class BeingDeletedError(LimitError):
    """The run is being deleted, piece by piece; when it is gone, the same request begins it anew."""


class StorageError(SeismogradError):
    """The store failed."""


class StorageBusyError(StorageError):
    """The store cannot take this now; the same request may succeed later."""


class StorageUncertainError(StorageBusyError):
    """The connection was lost while a commit was under way: the transaction is stored as a whole, or not at all."""


class StorageFencedError(StorageError):
    """Another server owns the database now."""


class StorageDamageError(StorageError):
    """Stored bytes are not what was written: the disk, or somebody's editor, has changed them.

    `what` is "segment", "closed_block" or "summary"; it held steps from `first_step` to `last_step`, as its row says.
    """

    def __init__(self, message: str, *, what: str, first_step: int, last_step: int) -> None:
        super().__init__(message)
        self.what = what
        self.first_step = first_step
        self.last_step = last_step


class TransferError(SeismogradError):
    """A server does not take what is imported; what it has acknowledged stays."""


class DeliveryError(SeismogradError):
    """A notification did not arrive."""


class TransientDeliveryError(DeliveryError):
    """The target may accept it later."""


class PermanentDeliveryError(DeliveryError):
    """The target will never accept this notification."""


_Error = TypeVar("_Error", bound=BaseException)


def without_frames(error: _Error) -> _Error:
    """The error itself; from now on neither it nor what caused it keeps the frames alive that it came through.

    For one that is handed on: those frames hold a tick's records, and often the error as well, so that only the
    collector would free them, and it comes seldom.
    """
    seen: set[int] = set()
    chain: list[BaseException | None] = [error]
    while chain:
        each = chain.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            each.__traceback__ = None
            chain += (each.__cause__, each.__context__)
    return error
