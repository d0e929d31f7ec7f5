"""What it means when a server says no: for how long, what becomes of the records, and what the user should hear."""

from __future__ import annotations

import logging
from pathlib import Path

from seismograd.outbox.report import SenderState

_log = logging.getLogger("seismograd")

# The request is malformed: the server will say the same for ever, another version of it, or of us, may not.
MALFORMED = frozenset({"INVALID_ARGUMENT"})
# The server will say the same for ever: this rank is taken, the launch contradicts itself.
FINAL = MALFORMED | {"ALREADY_EXISTS", "FAILED_PRECONDITION"}
ACCESS = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED"})


class SayOnce:
    """Says each kind of thing once: a log full of one sentence helps nobody."""

    def __init__(self) -> None:
        self.quiet = False  # for the records of others, of which training need not hear
        self._said: set[str] = set()

    def __call__(self, kind: str, message: str, level: int = logging.WARNING) -> None:
        """Says it, unless something of this kind has been said."""
        if kind not in self._said:
            self._said.add(kind)
            _log.log(logging.DEBUG if self.quiet else level, "%s", message)


def no_connection(server: str, why: object) -> str:
    """What is said once of a server that cannot be reached."""
    return (
        f"no connection to {server} ({why}); training goes on, records are kept and sent later;"
        " is `seismograd serve` running there? server (SEISMOGRAD_SERVER) names another"
    )


def refused_token(server: str, why: object) -> str:
    """What is said once of a server that does not let us in."""
    return (
        f"{server} refuses the token ({why}); records are kept, trying again in a minute;"
        " give a valid one as token or token_file (SEISMOGRAD_TOKEN, SEISMOGRAD_TOKEN_FILE)"
    )


def stopped(reason: str, folder: Path | None) -> str:
    """What is said once of a server that will never take the run. `folder`: where its records stay nevertheless."""
    if folder is None:
        return f"{reason}; nothing more is sent, training goes on"
    return (
        f"{reason}; nothing more is sent, training goes on; its records stay in {folder}:"
        f" `seismograd sync {folder}` tries once more, when the server has been changed; deleting it gives them up"
    )


def undelivered(state: SenderState, *, lost: int, refused: bool) -> str:
    """What is said at the end, when records have not been delivered; those that are not lost are in the spool."""
    means = "they stay in the spool" if refused else "`seismograd sync`, or the next run on this machine, delivers them"
    why = f" ({state.last_error})" if state.last_error else ""
    what = f"{state.waiting} of {state.offered} records were not delivered before the end{why}"
    return what if lost else f"{what}; {means}"
