"""What goes into the pipeline and what comes out of it: the wire's frames in the domain's words."""

from __future__ import annotations

from dataclasses import dataclass

from seismograd_server.model import (
    Alert,
    Answer,
    Catalog,
    Checkpoint,
    DroppedRange,
    Health,
    StepBatch,
    StreamKey,
    Watermark,
)


@dataclass(frozen=True, slots=True)
class Rejection:
    """Records that are refused: they count as received, so that a hole never stalls their stream."""

    stream: StreamKey
    first_sequence: int
    count: int
    field: str
    message: str


@dataclass(frozen=True, slots=True)
class Arrival:
    """What one stream sent in a tick, validated; `catalogs` are (rank handle, catalog)."""

    batches: tuple[StepBatch, ...] = ()
    drops: tuple[DroppedRange, ...] = ()
    catalogs: tuple[tuple[int, Catalog], ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()
    health: tuple[Health, ...] = ()
    answers: tuple[Answer, ...] = ()
    rejections: tuple[Rejection, ...] = ()

    @property
    def handles(self) -> set[int]:
        """The ranks that spoke."""
        found = {batch.rank_handle for batch in self.batches}
        if not (self.drops or self.catalogs or self.checkpoints or self.health or self.answers or self.rejections):
            return found  # nearly always, and asked for several times a frame
        found.update(drop.stream.rank_handle for drop in self.drops)
        found.update(handle for handle, _ in self.catalogs)
        found.update(checkpoint.rank_handle for checkpoint in self.checkpoints)
        found.update(health.rank_handle for health in self.health)
        found.update(answer.rank_handle for answer in self.answers)
        found.update(rejection.stream.rank_handle for rejection in self.rejections)
        return found


@dataclass(frozen=True, slots=True)
class Receipt:
    """The answer to an arrival, true once it is given: what is durable now, and what was refused."""

    watermarks: tuple[Watermark, ...]
    rejections: tuple[Rejection, ...]


@dataclass(frozen=True, slots=True)
class Opened:
    """A rank that may send now."""

    handle: int
    run_id: int
    attempt: int
    watermarks: tuple[Watermark, ...]


@dataclass(frozen=True, slots=True)
class Notice:
    """An alert of a run that changed, for the jobs of that run; `step` is where it reached its state."""

    run_id: int
    alert: Alert
    step: int
