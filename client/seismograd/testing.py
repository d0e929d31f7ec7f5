"""Stand-ins for a server, for tests of training code: what was sent can be looked at, nothing leaves the process.

transport = RecordingTransport()                    # no network at all
sender = Sender(options, transport=transport)
...
assert [record.step for record in transport.ledger.records()] == [0, 1, 2]

with RecordingServer() as server:                   # real gRPC on a free loopback port
    seismograd.watch(model, optimizer, server=server.address, ...)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from seismograd.outbox.decode import decode_answer, decode_batch, decode_catalog, decode_identity
from seismograd.outbox.transport import MAX_MESSAGE_BYTES, TransportError
from seismograd.quiet_grpc import grpc
from seismograd.record import AlertNotice, Catalog, Directive, DirectiveAnswer, RecordKind, RunIdentity, StepRecord
from seismograd_proto.v1 import TELEMETRY_SERVICE, method_path, telemetry

__all__ = ["Ledger", "RecordingServer", "RecordingTransport"]

_StreamKey = tuple[int, int, int]  # handle, optimizer, kind


class Ledger:
    """What a server keeps: every record once, whatever is sent again. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._handles: dict[tuple[str, int], int] = {}
        self._records: dict[_StreamKey, dict[int, StepRecord]] = {}
        self._missing: dict[_StreamKey, dict[int, str]] = {}
        self._watermarks: dict[_StreamKey, int] = {}
        self._news: list[tuple[list[AlertNotice], list[Directive]]] = []
        self.identities: dict[int, RunIdentity] = {}  # by rank handle
        self.catalogs: list[Catalog] = []
        self.checkpoints: list[tuple[int, str]] = []  # (step, path)
        self.health: list[telemetry.ClientHealth] = []
        self.answers: list[DirectiveAnswer] = []  # to directives
        self.closed: list[tuple[str, str]] = []  # (outcome, reason)
        self.duplicates = 0  # records that arrived again
        self.frames = 0

    # ------------------------------------------------------------------------------------------------ for the tests

    def records(self, optimizer: int = 0, kind: RecordKind = RecordKind.STEP, rank: int = 0) -> list[StepRecord]:
        """The records of one stream, in order of their sequences."""
        with self._lock:
            found = self._records.get((self._handle_of(rank), optimizer, kind), {})
            return [found[sequence] for sequence in sorted(found)]

    def dropped(self, optimizer: int = 0, kind: RecordKind = RecordKind.STEP, rank: int = 0) -> dict[int, str]:
        """Sequences that the client declared as dropped, with its reasons."""
        with self._lock:
            return dict(self._missing.get((self._handle_of(rank), optimizer, kind), {}))

    def notify(self, notices: Iterable[AlertNotice] = (), directives: Iterable[Directive] = ()) -> None:
        """Tells the client something with the next answer."""
        with self._lock:
            self._news.append((list(notices), list(directives)))

    def wait_for(self, condition: Callable[[Ledger], bool], timeout_seconds: float = 10.0) -> bool:
        """Waits until the condition holds for this ledger. Returns whether it came to hold in time."""
        deadline = time.monotonic() + timeout_seconds
        pause = threading.Event()
        while not condition(self):
            if time.monotonic() > deadline:
                return False
            pause.wait(0.005)
        return True

    def _handle_of(self, rank: int) -> int:
        return next((handle for handle, identity in self.identities.items() if identity.rank == rank), 0)

    # ---------------------------------------------------------------------------------------------- for the servers

    def open(self, request: telemetry.OpenRunRequest) -> telemetry.OpenRunResponse:
        """Answers OpenRun."""
        with self._lock:
            handle = self._handles.setdefault((request.launch_id, request.rank), len(self._handles) + 1)
            self.identities[handle] = decode_identity(request)
            self.catalogs.extend(map(decode_catalog, request.catalogs))
            return telemetry.OpenRunResponse(
                rank_handle=handle,
                attempt=1,
                server_time_unix_seconds=time.time(),
                watermarks=self._marks({key for key in self._watermarks if key[0] == handle}),
            )

    def receive(self, frame: telemetry.StreamStepsRequest) -> telemetry.StreamStepsResponse:
        """Takes a frame and answers with the watermarks of its streams."""
        with self._lock:
            self.frames += 1
            self.catalogs.extend(map(decode_catalog, frame.catalogs))
            self.checkpoints.extend((event.step, event.path) for event in frame.checkpoints)
            self.health.extend(frame.health)
            self.answers.extend(map(decode_answer, frame.directive_outcomes))
            touched = {self._take_batch(batch) for batch in frame.batches}
            touched |= {self._take_drop(drop) for drop in frame.drops}
            response = telemetry.StreamStepsResponse(
                watermarks=self._marks(touched), server_time_unix_seconds=time.time()
            )
            for notices, directives in self._news:
                _tell(response, notices, directives)
            self._news.clear()
            return response

    def close(self, request: telemetry.CloseRunRequest) -> telemetry.CloseRunResponse:
        """Answers CloseRun."""
        with self._lock:
            outcome = "failed" if request.outcome == telemetry.RANK_OUTCOME_FAILED else "finished"
            self.closed.append((outcome, request.reason))
            handle = request.rank_handle
            return telemetry.CloseRunResponse(watermarks=self._marks({k for k in self._watermarks if k[0] == handle}))

    def knows(self, frame: telemetry.StreamStepsRequest) -> bool:
        """Whether every handle in the frame was given by this ledger."""
        with self._lock:
            parts: list[Any] = [*frame.batches, *frame.drops, *frame.health, *frame.checkpoints]
            return all(part.rank_handle in self.identities for part in parts)

    def _take_batch(self, batch: telemetry.StepBatch) -> _StreamKey:
        key = (batch.rank_handle, batch.optimizer, int(batch.kind))
        stored = self._records.setdefault(key, {})
        for record in decode_batch(batch):
            self.duplicates += record.sequence in stored
            stored.setdefault(record.sequence, record)
        return key

    def _take_drop(self, drop: telemetry.DroppedRange) -> _StreamKey:
        key = (drop.rank_handle, drop.optimizer, int(drop.kind))
        missing = self._missing.setdefault(key, {})
        for sequence in range(drop.first_sequence, drop.first_sequence + drop.count):
            missing.setdefault(sequence, drop.reason)
        return key

    def _marks(self, keys: set[_StreamKey]) -> list[telemetry.Watermark]:
        return [self._mark(key) for key in sorted(keys)]

    def _mark(self, key: _StreamKey) -> telemetry.Watermark:
        position = self._watermarks.get(key, 0)
        stored, missing = self._records.get(key, {}), self._missing.get(key, {})
        while position in stored or position in missing:
            position += 1
        self._watermarks[key] = position
        handle, optimizer, kind = key
        return telemetry.Watermark(
            rank_handle=handle,
            optimizer=optimizer,
            kind=kind,  # type: ignore[arg-type]  # the number of the enum
            accepted_sequence=position,
            durable_sequence=position,
        )


def _tell(response: telemetry.StreamStepsResponse, notices: list[AlertNotice], directives: list[Directive]) -> None:
    for notice in notices:
        response.alerts.add(
            alert_id=notice.alert_id,
            signature=notice.signature,
            severity=notice.severity,
            state=notice.state,
            step=notice.step,
            reason=notice.reason,
        )
    for each in directives:
        response.directives.add(
            directive_id=each.directive_id,
            kind=int(each.kind),
            reason=each.reason,
            alert_id=each.alert_id,
            first_step=each.first_step,
            last_step=each.last_step,
        )


class RecordingTransport:
    """A transport without a network: every frame is in the ledger as soon as it is sent, and acknowledged."""

    def __init__(self, ledger: Ledger | None = None) -> None:
        self.ledger = ledger or Ledger()

    def open_run(
        self,
        request: telemetry.OpenRunRequest,
        timeout_seconds: float,
        done: Callable[[telemetry.OpenRunResponse | TransportError], None],
    ) -> None:
        """Answers at once."""
        del timeout_seconds
        done(self.ledger.open(request))

    def start_stream(
        self,
        received: Callable[[telemetry.StreamStepsResponse], None],
        ended: Callable[[TransportError], None],
    ) -> _RecordingStream:
        """Opens a stream whose frames are answered at once."""
        return _RecordingStream(self.ledger, received, ended)

    def close_run(
        self,
        request: telemetry.CloseRunRequest,
        timeout_seconds: float,
        done: Callable[[telemetry.CloseRunResponse | TransportError], None],
    ) -> None:
        """Answers at once."""
        del timeout_seconds
        done(self.ledger.close(request))

    def disconnect(self) -> None:
        """There is nothing to drop."""


class _RecordingStream:
    def __init__(
        self,
        ledger: Ledger,
        received: Callable[[telemetry.StreamStepsResponse], None],
        ended: Callable[[TransportError], None],
    ) -> None:
        self._ledger = ledger
        self._received = received
        self._ended = ended

    def send(self, frame: bytes) -> None:
        self._received(self._ledger.receive(telemetry.StreamStepsRequest.FromString(frame)))

    def end(self) -> None:
        self._ended(TransportError("OK", "the client sends no more"))

    def cancel(self) -> None:
        pass


class RecordingServer:
    """A server that stores and acknowledges, on real gRPC. Port 0 takes a free one; a ledger may outlive its server."""

    def __init__(self, ledger: Ledger | None = None, port: int = 0, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self.ledger = ledger or Ledger()
        settings = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", max_message_bytes)]
        # Each open stream holds a thread; tests have a handful of ranks.
        self._server = grpc.server(ThreadPoolExecutor(max_workers=16), options=settings)
        self._server.add_generic_rpc_handlers((_Handlers(self.ledger),))
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.address = f"127.0.0.1:{self.port}"
        self._server.start()

    def stop(self, grace_seconds: float | None = None) -> None:
        """Ends the server; without grace, calls under way are cut off. Returns when it is down."""
        self._server.stop(grace_seconds).wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def service(self, details: Any) -> Any:
        """The handler of a method, or None when there is no such method."""
        makers = {
            method_path(TELEMETRY_SERVICE, "OpenRun"): self._open_run,
            method_path(TELEMETRY_SERVICE, "StreamSteps"): self._stream_steps,
            method_path(TELEMETRY_SERVICE, "CloseRun"): self._close_run,
        }
        maker = makers.get(details.method)
        return None if maker is None else maker()

    def _open_run(self) -> Any:
        return grpc.unary_unary_rpc_method_handler(
            lambda request, _: self._ledger.open(request),
            request_deserializer=telemetry.OpenRunRequest.FromString,
            response_serializer=telemetry.OpenRunResponse.SerializeToString,
        )

    def _close_run(self) -> Any:
        return grpc.unary_unary_rpc_method_handler(
            lambda request, _: self._ledger.close(request),
            request_deserializer=telemetry.CloseRunRequest.FromString,
            response_serializer=telemetry.CloseRunResponse.SerializeToString,
        )

    def _stream_steps(self) -> Any:
        return grpc.stream_stream_rpc_method_handler(
            self._answer,
            request_deserializer=telemetry.StreamStepsRequest.FromString,
            response_serializer=telemetry.StreamStepsResponse.SerializeToString,
        )

    def _answer(
        self, frames: Iterator[telemetry.StreamStepsRequest], context: Any
    ) -> Iterator[telemetry.StreamStepsResponse]:
        try:
            for frame in frames:
                if not self._ledger.knows(frame):
                    context.abort(grpc.StatusCode.NOT_FOUND, "this server never gave that rank handle")
                yield self._ledger.receive(frame)
        except grpc.RpcError:
            return  # the client hung up
