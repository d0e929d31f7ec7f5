"""What a folder of the spool says besides records: who its process is, what it has told, how it ended.

Each note is a message of the wire; whoever delivers the folder says with it what the process would have said.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from seismograd.ending import Outcome
from seismograd.outbox.decode import decode_catalog, decode_identity
from seismograd.outbox.encode import encode_catalog, encode_open
from seismograd.record import Catalog, RunIdentity
from seismograd_proto.v1 import telemetry

Note = tuple[int, bytes]


class Tag(enum.IntEnum):
    """What a note is."""

    IDENTITY = 16  # OpenRunRequest
    PROVISIONAL = 17  # OpenRunRequest whose launch_id only tells which processes belong together
    CATALOG = 18
    CHECKPOINT = 19  # CheckpointEvent
    ENDING = 20  # CloseRunRequest
    SERVER = 21  # the address, as text
    ANSWER = 22  # DirectiveOutcome
    KEPT = 23  # nothing: the records are here on purpose


def note_identity(identity: RunIdentity, *, provisional: bool = False) -> Note:
    """Who the process is."""
    tag = Tag.PROVISIONAL if provisional else Tag.IDENTITY
    return tag, encode_open(identity, (), 0.0).SerializeToString()


def note_catalog(catalog: Catalog) -> Note:
    """A catalog, before the first record that uses it."""
    return Tag.CATALOG, encode_catalog(catalog).SerializeToString()


def note_checkpoint(event: telemetry.CheckpointEvent) -> Note:
    """A checkpoint that the job has written."""
    return Tag.CHECKPOINT, event.SerializeToString()


def note_answer(outcome: telemetry.DirectiveOutcome) -> Note:
    """What the job made of a directive."""
    return Tag.ANSWER, outcome.SerializeToString()


def note_ending(outcome: str, reason: str) -> Note:
    """How the process ended: "finished" or "failed", and why."""
    failed = outcome == "failed"
    request = telemetry.CloseRunRequest(
        outcome=telemetry.RANK_OUTCOME_FAILED if failed else telemetry.RANK_OUTCOME_FINISHED, reason=reason
    )
    return Tag.ENDING, request.SerializeToString()


def note_kept() -> Note:
    """The records are here because the job wanted them here: nobody clears them away."""
    return Tag.KEPT, b""


def note_server(address: str) -> Note:
    """Where the process would have sent its records."""
    return Tag.SERVER, address.encode()


@dataclass(slots=True)
class Account:
    """Everything that a journal says."""

    identity: RunIdentity | None = None
    provisional: RunIdentity | None = None
    catalogs: list[Catalog] = field(default_factory=list)
    checkpoints: list[telemetry.CheckpointEvent] = field(default_factory=list)
    answers: list[telemetry.DirectiveOutcome] = field(default_factory=list)
    ending: tuple[Outcome, str] | None = None  # None = it was killed, or it lives
    server: str = ""
    kept: bool = False


def read_account(notes: Iterable[Note]) -> Account:
    """What the notes say together; a note that cannot be read is left out."""
    account = Account()
    for tag, message in notes:
        try:
            _add(account, tag, message)
        except (DecodeError, ValueError):
            continue
    return account


def _add(account: Account, tag: int, message: bytes) -> None:
    if tag == Tag.IDENTITY:
        account.identity = decode_identity(telemetry.OpenRunRequest.FromString(message))
    elif tag == Tag.PROVISIONAL:
        account.provisional = decode_identity(telemetry.OpenRunRequest.FromString(message))
    elif tag == Tag.CATALOG:
        account.catalogs.append(decode_catalog(telemetry.Catalog.FromString(message)))
    elif tag == Tag.CHECKPOINT:
        account.checkpoints.append(telemetry.CheckpointEvent.FromString(message))
    elif tag == Tag.ANSWER:
        account.answers.append(telemetry.DirectiveOutcome.FromString(message))
    elif tag == Tag.ENDING:
        request = telemetry.CloseRunRequest.FromString(message)
        outcome: Outcome = "failed" if request.outcome == telemetry.RANK_OUTCOME_FAILED else "finished"
        account.ending = (outcome, request.reason)
    elif tag == Tag.SERVER:
        account.server = message.decode()
    elif tag == Tag.KEPT:
        account.kept = True
