"""Frames that were sent and are not durable yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from seismograd.outbox.queue import Queue
from seismograd.outbox.streamlog import StreamName


@dataclass(slots=True)
class Frame:
    """A frame with records."""

    number: int
    ends: Mapping[StreamName, int]
    records: int
    accepted: bool = False


class Flight:
    """Counts frames without an ack: the sender lets the next frame grow while one is out."""

    def __init__(self) -> None:
        self._frames: deque[Frame] = deque()
        self._numbers = 0
        self._progress_at = 0.0

    def next_number(self) -> int:
        """A number for a frame; numbers rise over all connections."""
        self._numbers += 1
        return self._numbers

    def launch(self, number: int, ends: Mapping[StreamName, int], records: int, now: float) -> None:
        """A frame with records was sent."""
        if not self.outstanding:
            self._progress_at = now
        self._frames.append(Frame(number, ends, records))

    @property
    def outstanding(self) -> int:
        """Number of frames that the server has not accepted."""
        return sum(not frame.accepted for frame in self._frames)

    def silent_seconds(self, now: float) -> float:
        """For how long the server has owed an ack; 0 when it owes none."""
        return now - self._progress_at if self.outstanding else 0.0

    def oldest_outstanding(self) -> Frame | None:
        """The frame that the server would have to accept next."""
        return next((frame for frame in self._frames if not frame.accepted), None)

    def settle(self, queue: Queue, now: float) -> tuple[bool, int]:
        """Looks at the watermarks.

        Returns whether a frame was newly accepted, and the number of the last frame that became durable, or 0.
        """
        progress = False
        for frame in self._frames:
            if not frame.accepted and all(queue.accepted(stream) >= end for stream, end in frame.ends.items()):
                frame.accepted = progress = True
        durable = 0
        while self._frames and all(queue.durable(stream) >= end for stream, end in self._frames[0].ends.items()):
            durable = self._frames.popleft().number
        if progress:
            self._progress_at = now
        return progress, durable

    def clear(self) -> None:
        """The connection is gone."""
        self._frames.clear()
