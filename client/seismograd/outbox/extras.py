"""What travels beside the records: catalogs, checkpoints, outcomes of directives, the client's health.

The training thread puts in (appending to a deque is atomic); the sender's thread takes out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from seismograd.outbox.encode import encode_catalog
from seismograd.outbox.queue import QueueTotals
from seismograd.outbox.transport import MAX_FRAME_BYTES
from seismograd.record import Catalog
from seismograd_proto.v1 import telemetry

# A job that saves more often than the server confirms needs only the latest ones.
_MOST_CHECKPOINTS = 64
_MOST_OUTCOMES = 64
_HEALTH_SECONDS = 1.0  # the wire's rule: at most one a second


@dataclass(slots=True)
class _Waiting:
    """An event that is kept until a frame sent with it, or after it, is durable."""

    event: telemetry.CheckpointEvent | telemetry.DirectiveOutcome
    frame: int | None = None  # number of the frame that carried it on this connection


class HookHealth(NamedTuple):
    """What our hooks cost: running totals since the process began, and their recent share of the step time."""

    seconds: float = 0.0
    calls: int = 0
    share: float = 0.0  # 0 = not known yet


class Extras:
    """Everything that one rank tells the server besides records."""

    def __init__(self) -> None:
        self._arriving: deque[Catalog | telemetry.CheckpointEvent | telemetry.DirectiveOutcome] = deque()
        self._catalogs: dict[tuple[int, int], telemetry.Catalog] = {}
        self._announced: set[tuple[int, int]] = set()
        self._reached: dict[int, int] = {}  # optimizer -> newest version that a record in the queue has used
        self._checkpoints: deque[_Waiting] = deque(maxlen=_MOST_CHECKPOINTS)
        self._outcomes: deque[_Waiting] = deque(maxlen=_MOST_OUTCOMES)
        self.health: Callable[[], Callable[[], HookHealth] | None] = lambda: None  # whom to ask, as in `Sender`
        self._health_sent_at = float("-inf")
        self._clock_skew_seconds = 0.0

    def compare_clocks(self, asked: float, server: float, answered: float) -> None:
        """When the server was asked, what its clock showed (0 = it did not say), when it had answered: Unix seconds."""
        if server > 0.0:
            # It looked at its clock about halfway between question and answer.
            self._clock_skew_seconds = (asked + answered) / 2 - server

    # -------------------------------------------------------------------------------------- the training thread

    def add(self, arrival: Catalog | telemetry.CheckpointEvent | telemetry.DirectiveOutcome) -> None:
        """Takes something to tell; never blocks."""
        self._arriving.append(arrival)

    # -------------------------------------------------------------------------------------- the sender's thread

    def absorb(self) -> None:
        """Sorts what arrived."""
        while self._arriving:
            arrival = self._arriving.popleft()
            if isinstance(arrival, Catalog):
                self._catalogs[arrival.optimizer, arrival.version] = encode_catalog(arrival)
            elif isinstance(arrival, telemetry.CheckpointEvent):
                self._checkpoints.append(_Waiting(arrival))
            else:
                self._outcomes.append(_Waiting(arrival))

    def catalogs_to_open(self, held: set[tuple[int, int]]) -> list[telemetry.Catalog]:
        """Catalogs for OpenRun: those that records in the queue (`held`) need, and those that later ones may need.

        Records come in the order of their versions: once one of version 2 is in the queue, none of version 1 is still
        on its way there, and version 1 is forgotten unless it is held. What does not fit into one request follows in
        frames of its own.
        """
        self.absorb()
        for optimizer, version in held:
            self._reached[optimizer] = max(version, self._reached.get(optimizer, 0))
        self._catalogs = {
            key: catalog
            for key, catalog in sorted(self._catalogs.items())
            if key in held or key[1] >= self._reached.get(key[0], 0)
        }
        self._announced = set()
        chosen, size = [], 0
        for key, catalog in self._catalogs.items():
            size += catalog.ByteSize()
            if size > MAX_FRAME_BYTES:
                break
            chosen.append(catalog)
            self._announced.add(key)
        return chosen

    def catalogs_to_send(self) -> list[telemetry.Catalog]:
        """Catalogs that this connection has not seen. Ask after taking records, and send before them."""
        self.absorb()
        fresh = [key for key in self._catalogs if key not in self._announced]
        self._announced.update(fresh)
        return [self._catalogs[key] for key in fresh]

    def has_unsent_events(self) -> bool:
        """Whether a checkpoint or an outcome waits."""
        self.absorb()
        return any(waiting.frame is None for waiting in (*self._checkpoints, *self._outcomes))

    def fill(self, frame: telemetry.StreamStepsRequest, rank_handle: int, number: int) -> None:
        """Puts the waiting events into a frame."""
        for waiting in self._checkpoints:
            if waiting.frame is None and isinstance(waiting.event, telemetry.CheckpointEvent):
                waiting.event.rank_handle, waiting.frame = rank_handle, number
                frame.checkpoints.append(waiting.event)
        for waiting in self._outcomes:
            if waiting.frame is None and isinstance(waiting.event, telemetry.DirectiveOutcome):
                waiting.event.rank_handle, waiting.frame = rank_handle, number
                frame.directive_outcomes.append(waiting.event)

    def add_health(
        self, frame: telemetry.StreamStepsRequest, rank_handle: int, totals: QueueTotals, now: float
    ) -> None:
        """Puts the client's health into a frame, at most once a second."""
        if now - self._health_sent_at < _HEALTH_SECONDS:
            return
        self._health_sent_at = now
        hooks = (self.health() or HookHealth)()
        frame.health.add(
            rank_handle=rank_handle,
            dropped_records=totals.dropped,
            queued_bytes=totals.queued_bytes,
            spool_bytes=totals.spool_bytes,
            hook_seconds=hooks.seconds,
            hook_calls=hooks.calls,
            capture_share=hooks.share,
            clock_skew_seconds=self._clock_skew_seconds,
        )

    def confirm(self, frame: int) -> None:
        """A frame is durable: so is what was sent with it or before it."""
        for queue in (self._checkpoints, self._outcomes):
            kept = [waiting for waiting in queue if waiting.frame is None or waiting.frame > frame]
            if len(kept) < len(queue):
                queue.clear()
                queue.extend(kept)

    def rewind(self) -> None:
        """A new connection: what was not confirmed is told again."""
        for waiting in _both(self._checkpoints, self._outcomes):
            waiting.frame = None


def _both(*queues: Iterable[_Waiting]) -> Iterable[_Waiting]:
    for queue in queues:
        yield from queue
