"""The open stream: when a frame is due, what goes into it, and what its acks mean.

A frame is sent at 16 steps, 256 KiB or half a second, whichever is first, and at once for an anomaly. Two things
make it grow instead: an outstanding ack, so that a slow server is asked less often, not more; and a frame less than a
tenth of a second ago, because a frame costs about a millisecond of CPU in gRPC's threads, however little it holds.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from seismograd.options import Options
from seismograd.outbox.columns import travelling
from seismograd.outbox.encode import encode_batch, encode_gap, group
from seismograd.outbox.extras import Extras
from seismograd.outbox.flight import Flight
from seismograd.outbox.queue import Parcel, Queue, Unsent
from seismograd.outbox.streamlog import Gap, StreamName
from seismograd.outbox.transport import MAX_FRAME_BYTES, Stream, TransportError
from seismograd.record import StepRecord
from seismograd_proto.v1 import telemetry

_log = logging.getLogger("seismograd")

MOST_FRAMES_IN_FLIGHT = 4  # for anomalies and at the end; an ordinary frame waits for the one before
HEARTBEAT_SECONDS = 10.0  # a long evaluation must not look like a death: the server gives a silent rank up after 60 s
# Measured at 470 steps a second on a busy machine: 95 us of CPU per record beside the training thread, 47 with this.
FRAME_SECONDS = 0.1
_ANY_NUMBER = 2**31
_NOTHING = Parcel({}, {}, {}, 0)
_UNFIT = (ValueError, TypeError, OverflowError)  # of what the wire cannot hold


class Lane:
    """Sends frames over one stream at a time. Belongs to the sender's thread."""

    def __init__(self, options: Options, queue: Queue, extras: Extras) -> None:
        self._flush_steps = options.flush_steps
        self._flush_bytes = options.flush_bytes
        self._flush_seconds = options.flush_seconds
        # What is in flight is held twice, as records and as bytes; a small memory gets small frames.
        self._frame_bytes = min(MAX_FRAME_BYTES, options.queue_bytes // 16)
        self._queue = queue
        self._extras = extras
        self._flight = Flight()
        self._stream: Stream | None = None
        self._handle = 0
        self._not_before = 0.0  # monotonic clock: the server asked for a pause until then
        self._sent_at = 0.0
        self._most_records = _ANY_NUMBER
        self.sent = 0

    def open(self, stream: Stream, rank_handle: int) -> None:
        """A new connection: the first frame, if only a sign of life, is due at once."""
        self._stream, self._handle = stream, rank_handle
        self._not_before = 0.0
        self._sent_at = float("-inf")

    def end(self) -> None:
        """Nothing more will be sent over this stream; its last answers still come."""
        if self._stream is not None:
            self._stream.end()

    def close(self) -> None:
        """The connection is over."""
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None

    def hold(self, until: float) -> None:
        """The server asked for a pause."""
        self._not_before = until

    def silent_seconds(self, now: float) -> float:
        """For how long the server has owed an ack."""
        return self._flight.silent_seconds(now)

    def due(self, now: float) -> float:
        """When ship() should be called next, if nothing happens before (monotonic clock)."""
        due = self._sent_at + HEARTBEAT_SECONDS
        unsent = self._queue.unsent()
        if unsent.oldest is not None and self._has_room(unsent.urgent):
            due = min(due, max(unsent.oldest + self._flush_seconds, self._sent_at + FRAME_SECONDS))
        elif self._flight.outstanding:
            due = min(due, now + self._flush_seconds)  # its ack makes a turn; this is for the ack that never comes
        return max(due, self._not_before)

    def ship(self, now: float, *, finishing: bool) -> None:
        """Sends every frame that is due."""
        if self._stream is None or (now < self._not_before and not finishing):
            return
        while True:
            unsent = self._queue.unsent()
            if not self._is_due(unsent, now, finishing):
                return
            self._send(now)

    def _is_due(self, unsent: Unsent, now: float, finishing: bool) -> bool:
        if now - self._sent_at >= HEARTBEAT_SECONDS or self._extras.has_unsent_events():
            return True
        if unsent.oldest is None:
            return unsent.gaps and self._has_room(hasty=True)
        if not self._has_room(unsent.urgent or finishing):
            return False
        if finishing or unsent.urgent or unsent.bytes >= self._frame_bytes:
            return True
        return now - self._sent_at >= FRAME_SECONDS and (
            unsent.records >= self._flush_steps
            or unsent.bytes >= self._flush_bytes
            or now - unsent.oldest >= self._flush_seconds
        )

    def _has_room(self, hasty: bool) -> bool:
        return self._flight.outstanding < (MOST_FRAMES_IN_FLIGHT if hasty else 1)

    def _send(self, now: float) -> None:
        if self._stream is None:
            return
        number = self._flight.next_number()
        parcel = _NOTHING
        if self._has_room(hasty=True):
            parcel = self._queue.take(self._most_records, self._frame_bytes)
        # After taking: a record's catalog was handed over before the record.
        self._send_catalogs()
        frame = telemetry.StreamStepsRequest()
        for stream, gaps in parcel.gaps.items():
            frame.drops.extend(encode_gap(self._handle, stream, gap) for gap in gaps)
        for stream, records in parcel.records.items():
            self._encode(frame, stream, records)
        self._extras.fill(frame, self._handle, number)
        self._extras.add_health(frame, self._handle, self._queue.totals(), now)
        self._stream.send(frame.SerializeToString())
        self._sent_at = now
        self.sent += parcel.record_count
        if parcel.record_count:
            self._flight.launch(number, parcel.ends, parcel.record_count, now)

    def _send_catalogs(self) -> None:
        for catalog in self._extras.catalogs_to_send():
            if self._stream is not None:
                self._stream.send(telemetry.StreamStepsRequest(catalogs=[catalog]).SerializeToString())

    def _encode(self, frame: telemetry.StreamStepsRequest, stream: StreamName, records: list[StepRecord]) -> None:
        for batch in group(map(travelling, records)):
            try:
                frame.batches.append(encode_batch(self._handle, batch))
            except _UNFIT:
                # One by one, lest a record that the wire cannot hold takes its neighbours with it.
                for record in batch:
                    self._encode_alone(frame, stream, record)

    def _encode_alone(self, frame: telemetry.StreamStepsRequest, stream: StreamName, record: StepRecord) -> None:
        """As it is, else without the name of its data, else as a drop: it will never fit, and nobody waits for it."""
        first, end = record.sequence, record.sequence + 1
        try:
            frame.batches.append(encode_batch(self._handle, [record]))
        except _UNFIT as error:
            if record.data_ids is not None:
                self._encode_alone(frame, stream, replace(record, data_ids=None))
                return
            _log.warning("dropped the record of step %d, which does not fit the wire: %s", record.step, error)
            self._queue.discard(stream, first, end, "encode_error")
            frame.drops.append(encode_gap(self._handle, stream, Gap(first, end, "encode_error")))

    def settle(self, now: float) -> bool:
        """Watermarks came. Returns whether the server accepted another frame."""
        progress, durable = self._flight.settle(self._queue, now)
        if durable:
            self._extras.confirm(durable)
        if progress:
            self._most_records = min(_ANY_NUMBER, self._most_records * 2)
        return progress

    def shrink_after(self, error: TransportError) -> bool:
        """After the stream failed: if a frame was too large, makes the next ones smaller, or gives its one record up.

        Returns whether that was the reason.
        """
        frame = self._flight.oldest_outstanding()
        self._flight.clear()
        if frame is None or error.code != "RESOURCE_EXHAUSTED" or "larger than max" not in error.details:
            return False
        if frame.records > 1:
            self._most_records = frame.records // 2
        else:
            for stream, end in frame.ends.items():
                _log.warning("dropped a record that is too large for the server (%s)", error.details)
                self._queue.discard(stream, end - 1, end, "too_large")
        return True
