"""TelemetryService over grpc.aio: raw bytes in, one answer per stream and tick out, errors as gRPC statuses.

Streams are read as bytes (no deserialiser): the log parses what a stream sent in a tick at once. Errors of the domain
become statuses here and nowhere else.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeAlias

import grpc
import structlog
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc import aio

from seismograd_proto.v1 import TELEMETRY_SERVICE, telemetry
from seismograd_server.errors import (
    InvalidBatchError,
    LaunchConflictError,
    LimitError,
    RankTakenError,
    SeismogradError,
    StorageBusyError,
    StorageError,
    UnknownRankError,
    without_frames,
)
from seismograd_server.ingest.decode import FrameError
from seismograd_server.ingest.identities import decode_catalog, decode_identity
from seismograd_server.ingest.limits import IngestLimits, shortened
from seismograd_server.ingest.log import Log
from seismograd_server.ingest.stream import Stream, add_watermarks
from seismograd_server.instruments import Instruments
from seismograd_server.model import Catalog
from seismograd_server.pipeline import Pipeline

_log = structlog.get_logger(__name__)
# An aio.ServicerContext; the stubs know nothing of aio.
Context: TypeAlias = Any

# A busy database is free again after a moment; a full or failing disk takes a person.
_BUSY_RETRY_SECONDS = 1
_FAILED_RETRY_SECONDS = 10
# Room comes when a run ends. Who was refused together need not come back together: between these two, by chance.
_FULL_RETRY_SECONDS = (2.0, 8.0)
# Parameters that are checked on the event loop, in some ten milliseconds. Tens of thousands take seconds, and every
# other stream lives there too.
_CHECKED_AT_ONCE = 1_000
_STATUSES: tuple[tuple[type[SeismogradError], grpc.StatusCode], ...] = (
    (InvalidBatchError, grpc.StatusCode.INVALID_ARGUMENT),
    (FrameError, grpc.StatusCode.INVALID_ARGUMENT),
    (UnknownRankError, grpc.StatusCode.NOT_FOUND),
    (RankTakenError, grpc.StatusCode.ALREADY_EXISTS),
    (LaunchConflictError, grpc.StatusCode.FAILED_PRECONDITION),
    (LimitError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (StorageError, grpc.StatusCode.UNAVAILABLE),
)
_DETAILS_KEY = "grpc-status-details-bin"


class TelemetryServicer:
    """The ingest service. `run_url` gives the page of a run: (project, run) -> URL."""

    def __init__(
        self,
        log: Log,
        pipeline: Pipeline,
        instruments: Instruments,
        limits: IngestLimits,
        *,
        run_url: Callable[[str, str], str] = lambda project, run: "",  # noqa: ARG005 (no web page)
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._log = log
        self._pipeline = pipeline
        self._instruments = instruments
        self._limits = limits
        self._run_url = run_url
        self._clock = clock

    def handlers(self) -> grpc.GenericRpcHandler:
        """The service, for `server.add_generic_rpc_handlers((servicer.handlers(),))`."""
        handler: grpc.GenericRpcHandler = grpc.method_handlers_generic_handler(
            TELEMETRY_SERVICE,
            {
                "OpenRun": grpc.unary_unary_rpc_method_handler(
                    self._guarded("OpenRun", self._open_run),
                    request_deserializer=telemetry.OpenRunRequest.FromString,
                    response_serializer=telemetry.OpenRunResponse.SerializeToString,
                ),
                "StreamSteps": grpc.stream_stream_rpc_method_handler(self._guarded("StreamSteps", self._stream_steps)),
                "CloseRun": grpc.unary_unary_rpc_method_handler(
                    self._guarded("CloseRun", self._close_run),
                    request_deserializer=telemetry.CloseRunRequest.FromString,
                    response_serializer=telemetry.CloseRunResponse.SerializeToString,
                ),
            },
        )
        return handler

    async def _open_run(self, request: telemetry.OpenRunRequest, _context: Context) -> telemetry.OpenRunResponse:
        identity = decode_identity(request, self._limits, self._clock())
        catalogs = await self._catalogs(request)
        opened = await self._log.call(lambda at: self._pipeline.open_rank(identity, catalogs, at))
        response = telemetry.OpenRunResponse(
            rank_handle=opened.handle,
            attempt=opened.attempt,
            server_time_unix_seconds=self._clock(),
            limits=telemetry.Limits(
                max_frame_bytes=self._limits.max_frame_bytes, max_batch_records=self._limits.max_batch_records
            ),
            run_url=self._run_url(request.project, request.run),
        )
        add_watermarks(response.watermarks, opened.watermarks)
        return response

    async def _catalogs(self, request: telemetry.OpenRunRequest) -> list[Catalog]:
        def decoded() -> list[Catalog]:
            return [decode_catalog(each, self._limits) for each in request.catalogs]

        if sum(len(each.parameters) for each in request.catalogs) <= _CHECKED_AT_ONCE:
            return decoded()
        return await asyncio.to_thread(decoded)

    async def _close_run(self, request: telemetry.CloseRunRequest, _context: Context) -> telemetry.CloseRunResponse:
        outcome = "failed" if request.outcome == telemetry.RANK_OUTCOME_FAILED else "finished"
        reason = shortened(request.reason, self._limits.max_reason_bytes)
        handle = request.rank_handle
        receipt = await self._log.call(
            lambda at: self._pipeline.close_rank(handle, outcome, reason, at), behind_frames=True
        )
        response = telemetry.CloseRunResponse()
        add_watermarks(response.watermarks, receipt.watermarks)
        return response

    async def _stream_steps(self, _requests: object, context: Context) -> None:
        self._pipeline.capacity.admit_stream()
        stream = Stream()
        self._log.attach(stream)
        reader = asyncio.create_task(self._read(stream, context))
        try:
            while (response := await stream.answer(self._clock())) is not None:
                await context.write(response.SerializeToString())
        finally:
            reader.cancel()
            self._log.detach(stream)

    async def _read(self, stream: Stream, context: Context) -> None:
        try:
            while (data := await context.read()) is not aio.EOF:
                await self._log.append(stream, data)
                del data  # or every stream would hold its last frame until the next one comes
            stream.end()
        except StorageBusyError as error:
            stream.fail(error)
        except aio.BaseError:  # the client has gone; whoever writes to it hears of that too
            stream.end()

    def _guarded(
        self, method: str, function: Callable[[Any, Context], Awaitable[Any]]
    ) -> Callable[[Any, Context], Awaitable[Any]]:
        """Count calls by status, and turn errors of the domain into statuses."""

        async def handle(request: object, context: Context) -> object:
            try:
                answer = await function(request, context)
            except SeismogradError as error:
                self._count(method, status_of(error))
                del request  # gRPC keeps what `abort` raises, and with it this frame, until the collector comes
                await abort(context, without_frames(error))
            except asyncio.CancelledError:
                self._count(method, grpc.StatusCode.CANCELLED)
                raise
            except Exception:
                self._count(method, grpc.StatusCode.INTERNAL)
                _log.exception("a call failed", method=method)
                await context.abort(grpc.StatusCode.INTERNAL, f"{method} failed: the server's log says why")
                raise
            self._count(method, grpc.StatusCode.OK)
            return answer

        return handle

    def _count(self, method: str, code: grpc.StatusCode) -> None:
        """Before the client hears: who has an answer finds it counted."""
        self._instruments.ingest_requests.labels(method=method, code=code.name).inc()


def status_of(error: SeismogradError) -> grpc.StatusCode:
    """The gRPC status of an error of the domain."""
    return next((code for kind, code in _STATUSES if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


def _retry_seconds(error: StorageError | LimitError) -> float:
    if isinstance(error, LimitError):
        return random.uniform(*_FULL_RETRY_SECONDS)  # noqa: S311 (no secret)
    return _BUSY_RETRY_SECONDS if isinstance(error, StorageBusyError) else _FAILED_RETRY_SECONDS


async def abort(context: Context, error: SeismogradError) -> NoReturn:
    """End a call with the status of an error; for what passes by itself, say when to try again."""
    code = status_of(error)
    metadata: tuple[tuple[str, bytes], ...] = ()
    if isinstance(error, StorageError | LimitError):
        delay = Duration()
        delay.FromMilliseconds(round(1000 * _retry_seconds(error)))
        details = Status(code=code.value[0], message=str(error))
        details.details.add().Pack(RetryInfo(retry_delay=delay))
        metadata = ((_DETAILS_KEY, details.SerializeToString()),)
    await context.abort(code, str(error), metadata)
    raise AssertionError("abort always raises")
