"""The life of an alert as one table, in the spirit of h11's `_state.py`: what is not in it does not happen.

    ABSENT ---> PENDING ---> FIRING ---> RESOLVED
       |                       ^  ^         |
       '-----------------------'  '---------'  (within the reopening window, under the same id)

A stage is where an alert is; an event is what happened to it. `lifecycle.py` names the event, this table says what
comes of it. A pair that is not listed changes nothing. Acknowledgement, silence and inhibition are attributes of an
alert, not stages: an acknowledged explosion is still an explosion.

Resolving has its hysteresis on both sides of this table: a detector says that a condition is over only well below the
level at which it began, and what comes back soon afterwards is the same alert again, not a new one.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from seismograd_server.model import AlertState, Resolution


class Stage(enum.StrEnum):
    """Where the alert of a fingerprint is, as far as the next event is concerned."""

    ABSENT = "absent"  # never opened, or resolved for too long to be the same one
    PENDING = "pending"
    FIRING = "firing"
    RESOLVED = "resolved"  # may reopen


class Event(enum.StrEnum):
    """What happened to an alert."""

    APPEARED = "appeared"  # a finding that must hold for a while before people hear of it
    STRUCK = "struck"  # a finding that fires at once
    WORSENED = "worsened"  # the same severity again, with notably worse evidence
    ROSE = "rose"  # a higher severity than before
    EASED = "eased"  # a lower severity than before, but not over
    CLEARED = "cleared"  # the condition is over
    HELD = "held"  # it was pending for as long as the policy asks
    RUN_ENDED = "run ended"
    ACKNOWLEDGED = "acknowledged"  # somebody has seen it, and its run goes on
    LAID_TO_REST = "laid to rest"  # somebody has seen it, and its run is over
    UNSILENCED = "unsilenced"  # the silence for whose sake nobody was told is over
    MUTED = "muted"  # its signature is not looked for any more
    AGED = "aged"  # its run has been over for longer than anybody will look


class Voice(enum.Enum):
    """Who hears of a transition."""

    SILENT = "nobody"
    ALOUD = "everybody, unless an explosion of the same run inhibits it, a silence covers it, or somebody is at it"
    REPLY = "those who heard of the alert before: nobody, if it was inhibited all along"


@dataclass(frozen=True, slots=True)
class Row:
    """What comes of an event."""

    after: AlertState
    cause: str  # the name of the transition in an alert's history
    voice: Voice
    resolution: Resolution | None = None


_PENDING, _FIRING, _RESOLVED = AlertState.PENDING, AlertState.FIRING, AlertState.RESOLVED
_SILENT, _ALOUD, _REPLY = Voice.SILENT, Voice.ALOUD, Voice.REPLY
_RECOVERED, _ENDED, _EXPIRED = Resolution.RECOVERED, Resolution.ENDED, Resolution.EXPIRED
_MUTED = Resolution.MUTED

# fmt: off
TABLE: Mapping[Stage, Mapping[Event, Row]] = MappingProxyType({
    Stage.ABSENT: MappingProxyType({
        Event.APPEARED:     Row(_PENDING,  "appeared",           _SILENT),
        Event.STRUCK:       Row(_FIRING,   "opened",             _ALOUD),
    }),
    Stage.PENDING: MappingProxyType({
        Event.WORSENED:     Row(_PENDING,  "worsened",           _SILENT),
        Event.ROSE:         Row(_PENDING,  "worsened",           _SILENT),
        Event.STRUCK:       Row(_FIRING,   "escalated",          _ALOUD),
        Event.HELD:         Row(_FIRING,   "held",               _ALOUD),
        Event.CLEARED:      Row(_RESOLVED, "passed",             _SILENT, _RECOVERED),
        Event.RUN_ENDED:    Row(_RESOLVED, "run ended",          _SILENT, _ENDED),
        Event.MUTED:        Row(_RESOLVED, "muted",              _SILENT, _MUTED),
    }),
    Stage.FIRING: MappingProxyType({
        Event.WORSENED:     Row(_FIRING,   "worsened",           _SILENT),
        Event.ROSE:         Row(_FIRING,   "escalated",          _ALOUD),
        Event.CLEARED:      Row(_RESOLVED, "recovered",          _REPLY,  _RECOVERED),
        Event.ACKNOWLEDGED: Row(_FIRING,   "acknowledged",       _SILENT),
        Event.UNSILENCED:   Row(_FIRING,   "silence ended",      _ALOUD),
        Event.LAID_TO_REST: Row(_RESOLVED, "ended",              _REPLY,  _ENDED),
        Event.MUTED:        Row(_RESOLVED, "muted",              _REPLY,  _MUTED),
        Event.AGED:         Row(_RESOLVED, "expired",            _REPLY,  _EXPIRED),
        # Neither EASED (severity only rises while firing) nor RUN_ENDED: an explosion is not over because it killed
        # its run. It fires until somebody has seen it, or until it has aged.
    }),
    Stage.RESOLVED: MappingProxyType({
        Event.APPEARED:     Row(_PENDING,  "reappeared",         _SILENT),
        Event.STRUCK:       Row(_FIRING,   "reopened",           _ALOUD),
    }),
})
# fmt: on
