"""Reads google.rpc.RetryInfo out of a failed call, without the package that holds Google's protobuf definitions.

The trailing metadata `grpc-status-details-bin` holds a google.rpc.Status { code = 1; message = 2; details = 3 }; one of
its details may be a RetryInfo { Duration retry_delay = 1 } with Duration { int64 seconds = 1; int32 nanos = 2 }.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

DETAILS_KEY = "grpc-status-details-bin"
_RETRY_INFO = b"type.googleapis.com/google.rpc.RetryInfo"
# A server that asks for more than this is misconfigured or worse; keep records for an hour at most before asking again.
_LONGEST_SECONDS = 3600.0


def retry_after(trailers: Iterable[tuple[str, str | bytes]]) -> float | None:
    """Seconds that the server asked to wait, from 0 to one hour, or None when it did not ask, or not legibly."""
    for key, value in trailers:
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                return _from_status(value)
            except ValueError:
                return None
    return None


def _from_status(status: bytes) -> float | None:
    for detail in _blocks(status, 3):
        if _RETRY_INFO not in _blocks(detail, 1):
            continue
        for info in _blocks(detail, 2):
            for duration in _blocks(info, 1):
                values = {number: value for number, value in _fields(duration) if isinstance(value, int)}
                seconds, nanos = values.get(1, 0), values.get(2, 0)
                if max(seconds, nanos) >= 1 << 63:  # a negative number, as varints spell them
                    return None
                return min(seconds + nanos * 1e-9, _LONGEST_SECONDS)
    return None


def _blocks(message: bytes, wanted: int) -> list[bytes]:
    return [value for number, value in _fields(message) if number == wanted and isinstance(value, bytes)]


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == 0:
            value, position = _varint(message, position)
            yield number, value
            continue
        if wire_type == 2:
            length, position = _varint(message, position)
        else:
            length = {1: 8, 5: 4}.get(wire_type, -1)
        if length < 0 or position + length > len(message):
            raise ValueError("not a protobuf message")
        yield number, message[position : position + length]
        position += length


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            break
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("not a protobuf message")
