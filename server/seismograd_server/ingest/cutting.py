"""The gradient norms of a frame where they lie: nearly all of its bytes, which a parser would copy twice.

    frame --cut--> the frame without them, to be parsed, + the norms of each batch, mostly a view

Only what a client of ours sends is cut; whatever else the bytes may be, it is left to the parser to say. That is found
out in few steps, for a client may send anything.
"""

from __future__ import annotations

from collections.abc import Sequence

from seismograd_proto.v1 import telemetry

# Wire types, and the tags of the two fields that are looked for.
_VARINT, _DELIMITED = 0, 2
_BATCHES = telemetry.StreamStepsRequest.BATCHES_FIELD_NUMBER << 3 | _DELIMITED
_GRADIENT_NORMS = telemetry.StepBatch.GRADIENT_NORMS_FIELD_NUMBER << 3 | _DELIMITED
# Of smaller frames and batches the copies cost less than to look for what need not be copied.
_WORTH_BYTES = 4096
# A batch has some twenty fields, and a frame some others beside its batches.
_MOST_FIELDS = 64
_MOST_OTHERS = 16
# Seven bits a byte: no tag and no length is longer.
_LAST_SHIFT = 28


class _NotOurs(Exception):  # noqa: N818 (no error: it never leaves this module)
    """The bytes are laid out in another way than ours."""


def cut(frames: Sequence[bytes]) -> tuple[bytes, list[bytes | memoryview]] | None:
    """Cut the gradient norms out of some frames; None = they had better be parsed as they are.

    Returns:
        the frames without them, joined, and for each of their batches in order its norms, perhaps empty. They are views
        where they are most of a frame, which then is kept for as long as they are.
    """
    if sum(map(len, frames)) < _WORTH_BYTES * len(frames):
        return None
    kept: list[bytes | memoryview] = []
    norms: list[bytes | memoryview] = []
    try:
        for frame in frames:
            _cut_frame(frame, kept, norms)
    except (_NotOurs, IndexError):  # beyond the end
        return None
    return b"".join(kept), norms


def _cut_frame(frame: bytes, kept: list[bytes | memoryview], norms: list[bytes | memoryview]) -> None:
    view, at, size = memoryview(frame), 0, len(frame)
    fields = size // _WORTH_BYTES + _MOST_OTHERS
    while at < size:
        start = at
        fields -= 1
        if not fields:
            raise _NotOurs
        tag, at = _varint(frame, at)
        if tag & 7 != _DELIMITED:
            raise _NotOurs
        length, at = _varint(frame, at)
        end = at + length
        if end > size:
            raise _NotOurs
        if tag == _BATCHES:
            place = _find_norms(frame, at, end)
            own = view[place[1] : place[2]]
            norms.append(own if 2 * len(own) >= size else bytes(own))
            kept += (_field_head(end - at - (place[2] - place[0])), view[at : place[0]], view[place[2] : end])
        else:
            kept.append(view[start:end])
        at = end


def _find_norms(frame: bytes, at: int, end: int) -> tuple[int, int, int]:
    """Where the norms of the batch in [at, end) lie: their tag, their first byte, the byte behind them."""
    found = None
    for _ in range(_MOST_FIELDS):
        if at >= end:
            break
        start = at
        tag, at = _varint(frame, at)
        kind = tag & 7
        if kind == _VARINT:
            while frame[at] > 127:  # that it may be too long, the parser sees
                at += 1
            at += 1
        elif kind == _DELIMITED:
            length, at = _varint(frame, at)
            if tag == _GRADIENT_NORMS:
                if found is not None:
                    raise _NotOurs
                found = (start, at, at + length)
            at += length
        else:
            raise _NotOurs
    if at != end:
        raise _NotOurs
    return found or (end, end, end)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The tag or the length that begins there, and where the next thing does."""
    byte = data[at]
    at += 1
    if byte < 128:  # nearly always
        return byte, at
    value, shift = byte & 127, 7
    while True:
        if shift > _LAST_SHIFT:
            raise _NotOurs
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def _field_head(length: int) -> bytes:
    """Tag and length of a batch."""
    head = bytearray((_BATCHES,))
    while length > 127:
        head.append(length & 127 | 128)
        length >>= 7
    head.append(length)
    return bytes(head)
