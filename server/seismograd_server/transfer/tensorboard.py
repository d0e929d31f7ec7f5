"""TensorBoard's event files: framed records with checksums, each an event with scalars.

    TFRecord: length uint64 | masked CRC-32C of it | bytes | masked CRC-32C of them      (little-endian)

A file that a job still writes, or died over, ends amid a record: what is whole before it counts, and the end is said.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from seismograd_server.errors import UsageError
from seismograd_server.transfer.extras import required
from seismograd_server.transfer.logs import Log
from seismograd_server.transfer.messages import message_classes

_HEAD, _TAIL = struct.Struct("<QI"), struct.Struct("<I")
# No event of scalars is larger; a length beyond it is damage, whatever its checksum says.
_LONGEST = 2**30
_MASK = 0xA282EAD8
# Field numbers from TensorFlow's event.proto, summary.proto and tensor.proto: of each message what is read here.
_EVENT, _MESSAGES = (
    "Event",
    {
        "Event": {"wall_time": (1, "double"), "step": (2, "int64"), "summary": (5, "Summary")},
        "Summary": {"value": (1, "Value*")},
        "Value": {"tag": (1, "string"), "simple_value": (2, "float?"), "tensor": (8, "Tensor?")},
        "Tensor": {
            "dtype": (1, "int32"),
            "tensor_content": (4, "bytes"),
            "float_val": (5, "float*"),
            "double_val": (6, "double*"),
        },
    },
)
_FLOAT, _DOUBLE = 1, 2  # of TensorFlow's DataType


def read_events(path: Path) -> Log:
    """The scalars of an event file, or of all of a folder, in the order in which they were begun.

    Raises:
        UsageError: no event file, a damaged one (the message names the byte), or one without a scalar.
    """
    files = _files(path)
    log = Log(path.name if path.is_dir() else path.parent.name or path.stem)
    event_class = message_classes("seismograd.tensorboard", _MESSAGES)[_EVENT]
    for file in files:
        for data in _records(file, log):
            event = event_class.FromString(data)
            for value in event.summary.value:
                _put(log, event, value)
    if not log.columns:
        kinds = ", ".join(f"{name} ({kind})" for name, kind in list(log.unreadable.items())[:5])
        raise UsageError(f"{path}: holds no scalar{f'; there is {kinds}' if kinds else ''}")
    return log


def _files(path: Path) -> list[Path]:
    try:
        if not path.is_dir():
            return [path]
        # Their names begin with the second in which they were made.
        files = sorted(each for each in path.iterdir() if ".tfevents." in each.name)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    if not files:
        inside = sorted({each.parent.name for each in path.glob("**/*.tfevents.*")})[:5]
        hint = f": import each of its folders ({', '.join(inside)})" if inside else ""
        raise UsageError(f"{path} has no event file (*.tfevents.*){hint}")
    return files


def _records(path: Path, log: Log) -> Iterator[bytes]:
    checksum = required("google_crc32c", "TensorBoard's event files").value
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    place = 0
    while place < len(data):
        head = data[place : place + _HEAD.size]
        if len(head) < _HEAD.size:
            break
        length, expected = _HEAD.unpack(head)
        if _masked(checksum(head[:8])) != expected or length > _LONGEST:
            if place == 0:
                raise UsageError(f"{path}: is no event file of TensorBoard")
            raise UsageError(f"{path}: is damaged at byte {place}: nothing of it was imported")
        end = place + _HEAD.size + length
        body, tail = data[place + _HEAD.size : end], data[end : end + _TAIL.size]
        if len(tail) < _TAIL.size:
            break
        if _masked(checksum(body)) != _TAIL.unpack(tail)[0]:
            raise UsageError(f"{path}: is damaged in the record at byte {place}: nothing of it was imported")
        yield body
        place = end + _TAIL.size
    if place < len(data):
        log.notes.append(f"{path.name} ends amid a record: the last {len(data) - place} bytes are left out")


def _masked(checksum: int) -> int:
    """TFRecord's own mask over a CRC-32C."""
    return (((checksum >> 15) | (checksum << 17)) + _MASK) & 0xFFFFFFFF


def _put(log: Log, event: Any, value: Any) -> None:
    if value.HasField("simple_value"):
        number: float | None = value.simple_value
    elif value.HasField("tensor"):
        number = _scalar(value.tensor)
    else:
        number = None
    if number is None:
        log.unreadable.setdefault(value.tag, "no scalar: a histogram, a picture or a text")
        return
    log.put(value.tag, event.step, number)
    log.times[event.step] = event.wall_time


def _scalar(tensor: Any) -> float | None:
    types = {_FLOAT: ("<f4", tensor.float_val), _DOUBLE: ("<f8", tensor.double_val)}
    if tensor.dtype not in types:
        return None
    form, values = types[tensor.dtype]
    if tensor.tensor_content and len(tensor.tensor_content) == np.dtype(form).itemsize:
        return float(np.frombuffer(tensor.tensor_content, form)[0])
    return float(values[0]) if len(values) == 1 else None
