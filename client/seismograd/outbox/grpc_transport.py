"""The transport that is gRPC. Synchronous API: its own threads read and write, so the sender's thread never blocks."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

from seismograd.channel import authorization, open_channel
from seismograd.errors import OptionError
from seismograd.options import Options
from seismograd.outbox.retryinfo import retry_after
from seismograd.outbox.transport import MAX_MESSAGE_BYTES, Stream, TransportError
from seismograd.quiet_grpc import grpc
from seismograd_proto.v1 import TELEMETRY_SERVICE, method_path, telemetry


class GrpcTransport:
    """Implements Transport. The channel is made by the first call, so never before a fork that comes first."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._channel: Any = None  # grpc.Channel; the stubs leave it untyped

    def open_run(
        self,
        request: telemetry.OpenRunRequest,
        timeout_seconds: float,
        done: Callable[[telemetry.OpenRunResponse | TransportError], None],
    ) -> None:
        """Calls OpenRun."""
        self._call("OpenRun", request, telemetry.OpenRunResponse.FromString, timeout_seconds, done)

    def close_run(
        self,
        request: telemetry.CloseRunRequest,
        timeout_seconds: float,
        done: Callable[[telemetry.CloseRunResponse | TransportError], None],
    ) -> None:
        """Calls CloseRun."""
        self._call("CloseRun", request, telemetry.CloseRunResponse.FromString, timeout_seconds, done)

    def start_stream(
        self,
        received: Callable[[telemetry.StreamStepsResponse], None],
        ended: Callable[[TransportError], None],
    ) -> Stream:
        """Calls StreamSteps."""
        stream = _GrpcStream(received, ended)
        try:
            method = self._connected().stream_stream(
                method_path(TELEMETRY_SERVICE, "StreamSteps"),
                request_serializer=None,
                response_deserializer=telemetry.StreamStepsResponse.FromString,
            )
            stream.start(method(stream.frames(), metadata=authorization(self._options)))
        except Exception as error:  # noqa: BLE001  # translated: the sender must hear of it as of any other failure
            ended(translate(error))
        return stream

    def disconnect(self) -> None:
        """Drops the connection and everything that is under way on it."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def _call(
        self,
        method: str,
        request: Any,
        parse: Callable[[bytes], Any],
        timeout_seconds: float,
        done: Callable[[Any], None],
    ) -> None:
        try:
            call = self._connected().unary_unary(
                method_path(TELEMETRY_SERVICE, method),
                request_serializer=type(request).SerializeToString,
                response_deserializer=parse,
            )
            future = call.future(request, timeout=timeout_seconds, metadata=authorization(self._options))
        except Exception as error:  # noqa: BLE001  # translated: see above
            done(translate(error))
            return
        future.add_done_callback(lambda finished: done(_outcome(finished)))

    def _connected(self) -> Any:
        if self._channel is None:
            self._channel = open_channel(self._options, MAX_MESSAGE_BYTES)
        return self._channel


class _GrpcStream:
    """One call of StreamSteps: frames go in by a queue, a thread reads what comes back."""

    def __init__(
        self, received: Callable[[telemetry.StreamStepsResponse], None], ended: Callable[[TransportError], None]
    ) -> None:
        self._received = received
        self._ended = ended
        self._frames: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._call: Any = None

    def start(self, call: Any) -> None:
        """The call exists: read its answers."""
        self._call = call
        threading.Thread(target=self._read, name="seismograd-receiver", daemon=True).start()

    def frames(self) -> Iterator[bytes]:
        """The frames; gRPC takes them on a thread of its own."""
        while (frame := self._frames.get()) is not None:
            yield frame

    def send(self, frame: bytes) -> None:
        """Hands over a serialised frame."""
        self._frames.put(frame)

    def end(self) -> None:
        """Closes our half: gRPC's thread ends behind the last frame."""
        self._frames.put(None)

    def cancel(self) -> None:
        """Drops the stream now, and lets gRPC's thread go."""
        self._frames.put(None)
        if self._call is not None:
            self._call.cancel()

    def _read(self) -> None:
        try:
            for response in self._call:
                self._received(response)
            failure = TransportError("OK", "the server ended the stream")
        except Exception as error:  # noqa: BLE001  # translated: a broken stream is an event, not an exception
            failure = translate(error)
            error.__traceback__ = None  # gRPC raises the call itself, which would keep this frame and what is unsent
        self._frames.put(None)
        self._ended(failure)


def _outcome(finished: Any) -> Any:
    try:
        return finished.result()
    except Exception as error:  # noqa: BLE001  # translated: a failed call is an event, not an exception
        error.__traceback__ = None  # as above
        return translate(error)


def translate(error: Exception) -> TransportError:
    """Every way in which gRPC fails, as one type."""
    if isinstance(error, grpc.FutureCancelledError):
        return TransportError("CANCELLED", "the connection was dropped")
    if isinstance(error, grpc.RpcError) and hasattr(error, "code"):
        call: Any = error  # it is a grpc.Call as well, which no annotation of the library says
        code = call.code()
        details = (call.details() or "").strip()
        return TransportError(
            "UNKNOWN" if code is None else code.name, details, retry_after(call.trailing_metadata() or ())
        )
    if isinstance(error, OptionError):
        return TransportError("UNAUTHENTICATED", str(error))
    return TransportError("INTERNAL", repr(error))
