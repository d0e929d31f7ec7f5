"""What the sender says about itself."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class Phase(enum.StrEnum):
    """Where the connection is in its life."""

    INERT = "inert"  # mode off, or a forked child
    WAITING = "waiting"  # no record yet, or the launch has not agreed on its identity
    OPENING = "opening"
    STREAMING = "streaming"
    OFFLINE = "offline"  # nothing is sent, by choice
    BACKING_OFF = "backing off"
    DRAINING = "draining"  # all is sent; the server ends the stream when it has taken it
    CLOSING = "closing"
    STOPPED = "stopped"  # the server refused this rank for good
    DONE = "done"


CONNECTED = (Phase.STREAMING, Phase.DRAINING, Phase.CLOSING)


@dataclass(frozen=True, slots=True)
class SenderState:
    """The sender at one moment; every number is a running total since the process began."""

    phase: Phase
    offered: int = 0
    sent: int = 0  # records put into frames, those sent again included
    acknowledged: int = 0  # records that are durable on the server
    waiting: int = 0  # records that are neither durable nor given up, in memory or on disk
    queued_bytes: int = 0  # in memory
    spooled: int = 0  # of those that wait: on disk and not in memory
    dropped: Mapping[str, int] = field(default_factory=dict)  # by reason
    last_error: str = ""

    @property
    def connected(self) -> bool:
        """Whether a stream is open."""
        return self.phase in CONNECTED


@dataclass(frozen=True, slots=True)
class FlushReport:
    """How it ended: every record that was offered is in exactly one of the four numbers."""

    delivered: int = 0  # durable on the server
    undelivered: int = 0  # still in memory when the time was over; lost unless the server had them already
    spooled: int = 0  # in the spool: `seismograd sync`, or the next run on this machine, delivers them
    dropped: Mapping[str, int] = field(default_factory=dict)  # by reason
    last_error: str = ""

    @property
    def complete(self) -> bool:
        """Whether everything that was offered is durable."""
        return not self.undelivered and not self.spooled and not self.dropped
