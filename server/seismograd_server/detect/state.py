"""Detector state to bytes and back: plain values as compressed JSON, and behind it the arrays as they are.

No pickle: what a database holds may never run code. The same state gives the same bytes, so that checkpoints can be
compared.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import struct
import zlib
from collections.abc import Mapping
from typing import Any, Final, cast

import numpy as np

# Then the length of the JSON, the JSON, the arrays. Older checkpoints are SGW1: the arrays in the JSON.
_MAGIC, _FORMER = b"SGW2", b"SGW1"
_LENGTH = struct.Struct("<I")
# The level changes nothing but size and time: 1 is nearly as small as 9 and several times faster.
_COMPRESSION_LEVEL = 1

# Metadata of a field that is no state: because it comes from the configuration, so that a change of it must take effect
# at once, because it is empty whenever a state is saved, or because `derive` makes it of the others.
SETTING: Final = {"saved": False}
# Metadata of a list of numbers that is long: it is written as an array.
NUMBERS: Final = {"numbers": True}


class StateError(ValueError):
    """The bytes are not a state that this program can read."""


def pack(document: Mapping[str, Any]) -> bytes:
    """Write a tree of plain values, lists, mappings, dataclasses and arrays as bytes."""
    arrays: list[bytes] = []
    written = 0

    def plain(value: Any) -> Any:
        """What JSON can hold of an array, a number of numpy or a dataclass, one level deep."""
        nonlocal written
        if isinstance(value, np.generic):
            return value.item()
        if not isinstance(value, np.ndarray):
            return {each.name: _plain_field(each, getattr(value, each.name)) for each in _saved_fields(type(value))}
        arrays.append(np.ascontiguousarray(value).tobytes())
        written += len(arrays[-1])
        return {"__array__": value.dtype.str, "shape": list(value.shape), "at": written - len(arrays[-1])}

    # A state is hundreds of plain numbers: those the encoder writes by itself, and asks only about what it cannot hold.
    text = json.dumps(document, separators=(",", ":"), default=plain).encode()
    text = zlib.compress(text, _COMPRESSION_LEVEL)
    return b"".join((_MAGIC, _LENGTH.pack(len(text)), text, *arrays))


def unpack(data: bytes) -> dict[str, Any]:
    """Read what `pack` wrote; arrays come back as arrays, dataclasses and mappings as dictionaries.

    Raises:
        StateError: the bytes are damaged or of another format.
    """
    magic = data[: len(_MAGIC)]
    if magic not in (_MAGIC, _FORMER):
        raise StateError("detector state: unknown format; start the detectors afresh")
    try:
        start = len(_MAGIC)
        stop = len(data)
        if magic == _MAGIC:
            stop = start + _LENGTH.size + _LENGTH.unpack_from(data, start)[0]
            start += _LENGTH.size
        document = json.loads(zlib.decompress(data[start:stop]))
        return cast("dict[str, Any]", _revive(document, data[stop:]))
    except (zlib.error, struct.error, ValueError, TypeError, KeyError) as error:
        raise StateError(f"detector state: damaged ({error}); start the detectors afresh") from error


def _plain_field(field: dataclasses.Field[Any], value: Any) -> Any:
    return np.asarray(value, dtype=np.float64) if field.metadata.get("numbers") else value


def fill(target: Any, saved: Mapping[str, Any]) -> None:
    """Give a freshly made dataclass the values that `pack` took from another one of its class.

    Fields that the saved state does not have keep their fresh value, so that a newer program reads an older state.
    Lists stay lists; a field that holds a dataclass is filled in place. Then `derive`, where there is such a method,
    makes what is not saved.
    """
    for each in _saved_fields(type(target)):
        if each.name not in saved:
            continue
        current, value = getattr(target, each.name), saved[each.name]
        if dataclasses.is_dataclass(current) and not isinstance(current, type):
            fill(current, value)
        else:
            is_list = each.metadata.get("numbers") and isinstance(value, np.ndarray)
            setattr(target, each.name, value.tolist() if is_list else value)
    if derive := getattr(target, "derive", None):
        derive()


_fields: dict[type, tuple[dataclasses.Field[Any], ...]] = {}


def _saved_fields(kind: type[Any]) -> tuple[dataclasses.Field[Any], ...]:
    if kind not in _fields:
        _fields[kind] = tuple(each for each in dataclasses.fields(kind) if each.metadata.get("saved", True))
    return _fields[kind]


def _revive(value: Any, arrays: bytes) -> Any:
    if isinstance(value, list):
        return [_revive(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if "__array__" not in value:
        return {key: _revive(item, arrays) for key, item in value.items()}
    dtype, shape = np.dtype(value["__array__"]), value["shape"]
    if "at" in value:
        flat = np.frombuffer(arrays, dtype, math.prod(shape), value["at"])
    else:
        flat = np.frombuffer(base64.b64decode(value["data"]), dtype)
    return flat.reshape(shape).copy()  # a buffer's view could not be written to
