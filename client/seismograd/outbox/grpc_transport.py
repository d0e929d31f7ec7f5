"""The transport that is gRPC. Synchronous API: its own threads read and write, so the sender's thread never blocks."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from seismograd.errors import OptionError
from seismograd.options import Options
from seismograd.outbox.retryinfo import retry_after
from seismograd.outbox.transport import MAX_MESSAGE_BYTES, Stream, TransportError
from seismograd_proto.v1 import TELEMETRY_SERVICE, method_path, telemetry

_CHANNEL_OPTIONS = (
    # A dead peer is found within 40 seconds: half-open connections are what firewalls leave behind.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # Retries are ours: gRPC's own see neither the queue nor RetryInfo, and end after five attempts.
    ("grpc.enable_retries", 0),
    # Each connection starts afresh; a shared pool would hand back a channel in the middle of its own back-off.
    ("grpc.use_local_subchannel_pool", 1),
)


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
            stream.start(method(stream.frames(), metadata=self._metadata()))
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
            future = call.future(request, timeout=timeout_seconds, metadata=self._metadata())
        except Exception as error:  # noqa: BLE001  # translated: see above
            done(translate(error))
            return
        future.add_done_callback(lambda finished: done(_outcome(finished)))

    def _connected(self) -> Any:
        if self._channel is None:
            self._channel = open_channel(self._options)
        return self._channel

    def _metadata(self) -> list[tuple[str, str]]:
        return authorization(self._options)


def open_channel(options: Options) -> Any:
    """A grpc.Channel to the server of the options. Raises OptionError when the certificate file cannot be read."""
    target = options.address.target
    if not options.tls:
        return grpc.insecure_channel(target, options=_CHANNEL_OPTIONS)
    authority = None
    if options.ca_file is not None:
        try:
            authority = options.ca_file.read_bytes()
        except OSError as error:
            raise OptionError(f"ca_file: cannot read {str(options.ca_file)!r}: {error}") from error
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(authority), options=_CHANNEL_OPTIONS)


def authorization(options: Options) -> list[tuple[str, str]]:
    """The metadata that carries the token; Options refuses a token that would travel unencrypted."""
    token = options.read_token()
    return [] if token is None else [("authorization", f"Bearer {token}")]


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

    def cancel(self) -> None:
        """Ends the stream now, and lets gRPC's thread go."""
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
        self._frames.put(None)
        self._ended(failure)


def _outcome(finished: Any) -> Any:
    try:
        return finished.result()
    except Exception as error:  # noqa: BLE001  # translated: a failed call is an event, not an exception
        return translate(error)


def translate(error: Exception) -> TransportError:
    """Every way in which gRPC fails, as one type."""
    if isinstance(error, grpc.FutureCancelledError):
        return TransportError("CANCELLED", "the connection was dropped")
    if isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call):
        call: Any = error  # the stubs leave its methods untyped
        code = call.code()
        details = (call.details() or "").strip()
        return TransportError(
            "UNKNOWN" if code is None else code.name, details, retry_after(call.trailing_metadata() or ())
        )
    if isinstance(error, OptionError):
        return TransportError("UNAUTHENTICATED", str(error))
    return TransportError("INTERNAL", repr(error))
