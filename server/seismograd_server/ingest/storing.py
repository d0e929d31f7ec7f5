"""A tick's frames to the store: one decode per stream, one transaction for all of them, an outcome for each."""

from __future__ import annotations

import time
from collections.abc import Sequence

import structlog

from seismograd_server.errors import (
    IngestError,
    SeismogradError,
    StorageBusyError,
    StorageError,
    StorageFencedError,
    without_frames,
)
from seismograd_server.ingest.decode import Decoder, FrameError
from seismograd_server.ingest.limits import IngestLimits
from seismograd_server.ingest.stream import Frame, Outcome, Stream
from seismograd_server.instruments import Instruments
from seismograd_server.pipeline import Arrival, Pipeline, Receipt

_log = structlog.get_logger(__name__)

# How often a store that takes nothing is written to the log.
_COMPLAIN_SECONDS = 60.0
# And how often it is tried, when nobody sends: whoever watches readiness may have taken every client away.
_TRY_SECONDS = 1.0


class Storing:
    """Used by the log's worker alone."""

    def __init__(self, pipeline: Pipeline, limits: IngestLimits, instruments: Instruments) -> None:
        self._pipeline = pipeline
        self._limits = limits
        self._instruments = instruments
        self._decoder = Decoder(pipeline.book.catalog, limits)
        self._complained_at: float | None = None
        self._refused_at: float | None = None  # when the store last took nothing; None = it takes records

    @property
    def takes_records(self) -> bool:
        """Whether the store took what it was last given; from any thread."""
        return self._refused_at is None

    def heed(self, error: SeismogradError, now: float) -> None:
        """Something else than records could not be stored: see whether records can."""
        if isinstance(error, StorageError):
            self._note(now)

    def look(self, now: float) -> None:
        """While records are refused, see now and then whether the store can be written again.

        Raises:
            StorageError: it cannot, and never will: this server must exit.
        """
        if self._refused_at is not None and not 0 <= now - self._refused_at < _TRY_SECONDS:
            self._note(None if self._pipeline.probe() else now)

    def _note(self, refused_at: float | None) -> None:
        self._refused_at = refused_at
        self._instruments.storage_writable.set(refused_at is None)

    def store(self, frames: Sequence[Frame], now: float) -> list[Outcome]:
        """Make durable what some frames hold, and say for each stream what became of its own.

        Raises:
            StorageError: another server has the database, or the disk has failed for good: this one must exit.
        """
        by_stream: dict[Stream, list[Frame]] = {}
        for frame in frames:
            by_stream.setdefault(frame.stream, []).append(frame)
        decoded: list[tuple[Stream, list[Frame], Arrival]] = []
        outcomes: list[Outcome] = []
        for stream, own in by_stream.items():
            try:
                data = [frame.data for frame in own]
                if stream.unclaimed:
                    data.insert(0, stream.unclaimed)
                arrival = self._decoder.decode(data, stream.handles)
                self._pipeline.capacity.admit_catalogs(arrival.catalogs, now)
                stream.speak_for(arrival.handles)
                # A new stream may begin with nothing but catalogs, which do not say whose they are: they are read
                # again with what comes next.
                stream.unclaimed = b"" if stream.handles else self._bounded(b"".join(data))
                decoded.append((stream, own, arrival))
            except (IngestError, StorageError) as error:
                outcomes.append(_refused(stream, own, error))
        outcomes += self._ingest(decoded, now)
        arrived = time.perf_counter()
        speakers = {id(stream): next(iter(arrival.handles), None) for stream, _, arrival in decoded}
        for stream, own in by_stream.items():
            duration = arrived - own[0].arrived
            self._instruments.ingest_request_duration.observe(duration, self._exemplar(speakers.get(id(stream))))
        return outcomes

    def _exemplar(self, handle: int | None) -> dict[str, str] | None:
        """Whose frame it was, so that a slow one leads to a run; None = it could not be told."""
        try:
            return None if handle is None else {"run_id": str(self._pipeline.book.sender(handle).rank.run_id)}
        except (IngestError, StorageError):  # as the outcome has told already
            return None

    def _bounded(self, unclaimed: bytes) -> bytes:
        if len(unclaimed) > self._limits.max_message_bytes:
            raise FrameError("catalogs: come without any batch, and are too many to be kept: send records with them")
        return unclaimed

    def _ingest(self, decoded: Sequence[tuple[Stream, list[Frame], Arrival]], now: float) -> list[Outcome]:
        """Store all streams together; when that fails for a reason of one of them, each alone."""
        if not decoded:
            return []
        try:
            receipts: Sequence[Receipt] = self._pipeline.ingest([arrival for *_, arrival in decoded], now)
        except StorageFencedError:
            raise
        except StorageBusyError as error:
            self._instruments.storage_errors.labels(op="ingest").inc()
            self._note(now)
            self._complain(error, now)
            return [_refused(stream, own, error) for stream, own, _ in decoded]
        except Exception as error:  # noqa: BLE001 (one stream's trouble must not cost the others their records)
            if len(decoded) > 1:
                return [outcome for one in decoded for outcome in self._ingest([one], now)]
            if isinstance(error, StorageError):
                self._instruments.storage_errors.labels(op="ingest").inc()
                self._note(now)
                self._pipeline.probe()
            elif not isinstance(error, IngestError):
                _log.exception("a stream's records could not be stored")
                error = StorageError(f"the records could not be stored: {type(error).__name__}")
            stream, own, _ = decoded[0]
            return [_refused(stream, own, error)]
        self._note(None)
        return [
            Outcome(stream, len(own), receipt, None)
            for (stream, own, _), receipt in zip(decoded, receipts, strict=True)
        ]

    def _complain(self, error: StorageBusyError, now: float) -> None:
        """Tell the operator what clients are told, without a line for every tick of a full disk."""
        if self._complained_at is None or not 0 <= now - self._complained_at < _COMPLAIN_SECONDS:
            self._complained_at = now
            _log.error("records are refused: clients keep them and send them again", reason=str(error))


def _refused(stream: Stream, frames: Sequence[Frame], error: SeismogradError) -> Outcome:
    return Outcome(stream, len(frames), None, without_frames(error))
