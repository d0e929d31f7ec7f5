"""What the sender needs of a connection. All calls return at once; results come by callback, from any thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from seismograd_proto.v1 import telemetry

# One frame stays well below the 4 MiB that a server accepts, also when a few columns were underestimated.
MAX_FRAME_BYTES = 1024 * 1024
MAX_MESSAGE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class TransportError:
    """Why a call or a stream failed."""

    code: str  # name of the gRPC status, for example "UNAVAILABLE"; "OK" when a stream ended in peace
    details: str
    retry_after: float | None = None  # seconds, when the server named them

    def __str__(self) -> str:
        return f"{self.code}: {self.details}" if self.details else self.code


class Stream(Protocol):
    """An open stream of frames."""

    def send(self, frame: bytes) -> None:
        """Hands over a serialised StreamStepsRequest."""
        ...

    def end(self) -> None:
        """No frame follows. The server answers what it has, and then ends the stream with "OK"."""
        ...

    def cancel(self) -> None:
        """Drops the stream now, whatever is on its way."""
        ...


class Transport(Protocol):
    """The three calls of TelemetryService over one connection; the first call after disconnect() makes a new one."""

    def open_run(
        self,
        request: telemetry.OpenRunRequest,
        timeout_seconds: float,
        done: Callable[[telemetry.OpenRunResponse | TransportError], None],
    ) -> None:
        """Calls OpenRun."""
        ...

    def start_stream(
        self,
        received: Callable[[telemetry.StreamStepsResponse], None],
        ended: Callable[[TransportError], None],
    ) -> Stream:
        """Calls StreamSteps; `ended` is called once, whatever happens."""
        ...

    def close_run(
        self,
        request: telemetry.CloseRunRequest,
        timeout_seconds: float,
        done: Callable[[telemetry.CloseRunResponse | TransportError], None],
    ) -> None:
        """Calls CloseRun."""
        ...

    def disconnect(self) -> None:
        """Drops the connection and everything that is under way on it."""
        ...
