"""The frames of one stream and tick to an Arrival: parsed once, validated, the bad records set apart.

    frames --cut, join--> bytes --parse--> StreamStepsRequest --> Arrival(batches, drops, catalogs, ..., rejections)

A frame holds repeated fields only, so that joined frames are one frame (telemetry.proto says so). Of large ones the
gradient norms stay where they are, and what is left is parsed (`cutting.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from itertools import repeat

from google.protobuf.message import DecodeError

from seismograd_proto.v1 import telemetry
from seismograd_server.errors import IngestError, InvalidBatchError, UnknownRankError
from seismograd_server.ingest.batches import ParameterCount, decode_batches
from seismograd_server.ingest.cutting import cut
from seismograd_server.ingest.identities import decode_catalog
from seismograd_server.ingest.limits import IngestLimits, shortened
from seismograd_server.model import (
    Answer,
    Catalog,
    Checkpoint,
    DirectiveKind,
    DirectiveOutcome,
    DroppedRange,
    Health,
    RecordKind,
    StreamKey,
)
from seismograd_server.pipeline import Arrival, Rejection

_KINDS = {int(kind): kind for kind in RecordKind}
_DIRECTIVE_KINDS = {int(kind): kind for kind in DirectiveKind}
_OUTCOMES = frozenset(outcome.value for outcome in DirectiveOutcome)
_INT62 = 2**62
# Reasons of drops as the protocol lists them; anything else a client says is counted under one name, because reasons
# become label values.
_DROP_REASONS = frozenset({"queue_full", "spool_full", "too_large", "rejected", "encode_error"})


class FrameError(IngestError):
    """Bytes that are no frame: the stream cannot go on."""


class Decoder:
    """Decodes the frames of streams; `catalog_of` tells what is known of a rank's catalogs.

    `catalog_of(handle, optimizer, version)` gives the catalog or None, and raises UnknownRankError for a handle that
    was never given.
    """

    def __init__(self, catalog_of: Callable[[int, int, int], Catalog | None], limits: IngestLimits) -> None:
        self._catalog_of = catalog_of
        self._limits = limits

    def decode(self, frames: Sequence[bytes], known_handles: Collection[int] = ()) -> Arrival:
        """Decode the frames of a stream, as if they were one.

        Args:
            frames: in the order in which they came; the arrival's arrays may be views of them.
            known_handles: the ranks that this stream has spoken for so far; a catalog that comes alone is theirs.

        Raises:
            FrameError: the bytes cannot be parsed.
            UnknownRankError: a handle that was never given; nothing of the frames is taken.
        """
        data, norms = cut(frames) or (b"".join(frames), [])
        try:
            frame = telemetry.StreamStepsRequest.FromString(data)
        except DecodeError as error:
            raise FrameError("StreamStepsRequest: the bytes are no protobuf message of this type") from error
        return _Frame(frame, norms, self._catalog_of, self._limits).arrival(known_handles)


class _Frame:
    def __init__(
        self,
        frame: telemetry.StreamStepsRequest,
        norms: Sequence[bytes | memoryview],
        catalog_of: Callable[[int, int, int], Catalog | None],
        limits: IngestLimits,
    ) -> None:
        self._frame = frame
        self._norms = norms  # of each batch, where they are not in the frame
        self._catalog_of = catalog_of
        self._limits = limits
        # Parameters of a catalog; the field and the message if there is something wrong with it; None = there is none.
        self._counts: dict[tuple[int, int, int], int | tuple[str, str] | None] = {}
        self._rejections: list[Rejection] = []

    def arrival(self, known_handles: Collection[int]) -> Arrival:
        frame = self._frame
        catalogs = self._catalogs(known_handles) if frame.catalogs else ()
        count: ParameterCount = self._parameter_count
        norms = self._norms or repeat(None, len(frame.batches))
        pairs = zip(frame.batches, norms, strict=True)
        batches = decode_batches(
            (pair for pair in pairs if self._addressed(pair[0])), count, self._limits, self._refuse
        )
        return Arrival(
            batches=tuple(batches),
            drops=tuple(self._drop(each) for each in frame.drops if self._droppable(each)),
            catalogs=catalogs,
            checkpoints=tuple(self._checkpoint(each) for each in frame.checkpoints),
            health=tuple(self._health(each) for each in frame.health),
            answers=tuple(self._answer(each) for each in frame.directive_outcomes if each.outcome in _OUTCOMES),
            rejections=tuple(self._rejections),
        )

    def _parameter_count(self, handle: int, optimizer: int, version: int) -> int | None:
        key = (handle, optimizer, version)
        if key not in self._counts:
            catalog = self._catalog_of(*key)
            self._counts[key] = None if catalog is None else len(catalog.parameters)
        found = self._counts[key]
        if isinstance(found, tuple):
            raise InvalidBatchError(*found)
        return found

    def _catalogs(self, known_handles: Collection[int]) -> tuple[tuple[int, Catalog], ...]:
        frame = self._frame
        handles = {each.rank_handle for each in frame.batches} or set(known_handles)
        if not handles:
            handles = {each.rank_handle for each in frame.drops} | {each.rank_handle for each in frame.health}
            handles |= {each.rank_handle for each in frame.checkpoints}
            handles |= {each.rank_handle for each in frame.directive_outcomes}
        decoded = []
        for wire in self._frame.catalogs:
            try:
                catalog: Catalog | tuple[str, str] = decode_catalog(wire, self._limits)
            except InvalidBatchError as error:
                catalog = error.field, _message(error)
            for handle in handles:
                key = (handle, wire.optimizer, wire.version)
                known = self._catalog_of(*key)
                if isinstance(catalog, tuple):
                    # What is wrong with a catalog is told with every batch that needs it.
                    self._counts[key] = catalog
                elif known is None:
                    self._counts[key] = len(catalog.parameters)
                    decoded.append((handle, catalog))
                elif known.parameters != catalog.parameters:
                    self._counts[key] = (
                        "catalogs.version",
                        f"{wire.version} of optimizer {wire.optimizer} was sent with other parameters: raise it",
                    )
        return tuple(decoded)

    def _addressed(self, wire: telemetry.StepBatch) -> bool:
        """Whether the batch belongs to a stream that can exist; others are refused without a place to advance."""
        if wire.rank_handle == 0:
            raise UnknownRankError("rank handle 0 is never given: open the run first")
        if wire.kind not in _KINDS:
            raise FrameError(f"kind: {wire.kind} is not a kind of record: see RecordKind")
        if wire.optimizer >= self._limits.max_optimizers:
            raise FrameError(f"optimizer: {wire.optimizer}: at most {self._limits.max_optimizers} are watched")
        if wire.branch >= 2**31:
            self._refuse(wire, InvalidBatchError("branch", f"is {wire.branch}: beyond int32"))
            return False
        return True

    def _refuse(self, wire: telemetry.StepBatch, error: InvalidBatchError) -> None:
        stream = StreamKey(wire.rank_handle, wire.optimizer, _KINDS[wire.kind])
        first = min(wire.first_sequence, _INT62)
        self._rejections.append(Rejection(stream, first, wire.count, error.field, _message(error)))

    def _droppable(self, wire: telemetry.DroppedRange) -> bool:
        if wire.kind not in _KINDS:
            raise FrameError(f"drops.kind: {wire.kind} is not a kind of record: see RecordKind")
        if wire.optimizer >= self._limits.max_optimizers:
            raise FrameError(f"drops.optimizer: {wire.optimizer}: at most {self._limits.max_optimizers} are watched")
        if wire.first_sequence + wire.count >= _INT62:
            raise FrameError("drops.count: leaves the range of sequences: it is a number of records")
        return wire.count > 0

    def _drop(self, wire: telemetry.DroppedRange) -> DroppedRange:
        stream = StreamKey(wire.rank_handle, wire.optimizer, _KINDS[wire.kind])
        reason = wire.reason if wire.reason in _DROP_REASONS else "other"
        return DroppedRange(stream, wire.first_sequence, wire.count, reason)

    def _checkpoint(self, wire: telemetry.CheckpointEvent) -> Checkpoint:
        path = shortened(wire.path, self._limits.max_reason_bytes)
        return Checkpoint(wire.rank_handle, wire.step, path, _finite(wire.time_unix_seconds))

    def _answer(self, wire: telemetry.DirectiveOutcome) -> Answer:
        return Answer(
            rank_handle=wire.rank_handle,
            # Cut rather than refused: it names nothing then.
            directive_id=shortened(wire.directive_id, self._limits.max_name_bytes),
            outcome=DirectiveOutcome(wire.outcome),
            reason=shortened(wire.reason, self._limits.max_reason_bytes),
            kind=_DIRECTIVE_KINDS.get(wire.kind),
            step=wire.step if wire.has_step else None,
            by_another_rank=wire.by_another_rank,
        )

    def _health(self, wire: telemetry.ClientHealth) -> Health:
        dropped = {reason: count for reason, count in wire.dropped_records.items() if reason in _DROP_REASONS}
        return Health(
            rank_handle=wire.rank_handle,
            dropped_records={reason: min(count, _INT62) for reason, count in dropped.items()},
            queued_bytes=min(wire.queued_bytes, _INT62),
            spool_bytes=min(wire.spool_bytes, _INT62),
            hook_seconds=_finite(wire.hook_seconds),
            hook_calls=min(wire.hook_calls, _INT62),
            capture_share=_finite(wire.capture_share),
            clock_skew_seconds=_finite(wire.clock_skew_seconds),
        )


def _message(error: InvalidBatchError) -> str:
    """What it says, without the field."""
    return str(error).removeprefix(f"{error.field}: ")


def _finite(value: float) -> float:
    """A number about the client itself: what is not finite means nothing here."""
    return value if math.isfinite(value) else 0.0
