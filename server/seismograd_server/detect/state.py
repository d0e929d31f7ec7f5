"""Detector state to bytes and back: plain values as JSON, and behind it the arrays as they are.

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
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, Final, cast

import numpy as np

# Then the length of the JSON, the JSON, the arrays. Older checkpoints are SGW2, their JSON compressed (which took a
# sixth of the time, to spare two kilobytes a run), and SGW1: compressed, with the arrays in the JSON.
_MAGIC, _COMPRESSED, _WITHIN = b"SGW3", b"SGW2", b"SGW1"
_LENGTH = struct.Struct("<I")

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
        if isinstance(value, np.ndarray):
            arrays.append(value.tobytes())
            written += len(arrays[-1])
            return {"__array__": value.dtype.str, "shape": value.shape, "at": written - len(arrays[-1])}
        if isinstance(value, np.generic):
            return value.item()
        names, numbers, read = _plan(type(value))
        found = dict(zip(names, read(value), strict=True))
        for name in numbers:
            if found[name]:
                found[name] = np.array(found[name], dtype=np.float64)
        return found

    # A state is hundreds of plain numbers: those the encoder writes by itself, and asks only about what it cannot hold.
    text = json.dumps(document, separators=(",", ":"), default=plain).encode()
    return b"".join((_MAGIC, _LENGTH.pack(len(text)), text, *arrays))


def unpack(data: bytes) -> dict[str, Any]:
    """Read what `pack` wrote; arrays come back as arrays, dataclasses and mappings as dictionaries.

    Raises:
        StateError: the bytes are damaged or of another format.
    """
    magic = data[: len(_MAGIC)]
    if magic not in (_MAGIC, _COMPRESSED, _WITHIN):
        raise StateError("detector state: unknown format; start the detectors afresh")
    try:
        start = len(_MAGIC)
        stop = len(data)
        if magic != _WITHIN:
            stop = start + _LENGTH.size + _LENGTH.unpack_from(data, start)[0]
            start += _LENGTH.size
        text = data[start:stop]
        document = json.loads(text if magic == _MAGIC else zlib.decompress(text))
        return cast("dict[str, Any]", _revive(document, data[stop:]))
    except (zlib.error, struct.error, ValueError, TypeError, KeyError) as error:
        raise StateError(f"detector state: damaged ({error}); start the detectors afresh") from error


def fill(target: Any, saved: Mapping[str, Any]) -> None:
    """Give a freshly made dataclass the values that `pack` took from another one of its class.

    Fields that the saved state does not have keep their fresh value, so that a newer program reads an older state.
    Lists stay lists; a field that holds a dataclass is filled in place. Then `derive`, where there is such a method,
    makes what is not saved.
    """
    names, numbers, _ = _plan(type(target))
    for name in names:
        if name not in saved:
            continue
        current, value = getattr(target, name), saved[name]
        if dataclasses.is_dataclass(current) and not isinstance(current, type):
            fill(current, value)
        else:
            is_list = name in numbers and isinstance(value, np.ndarray)
            setattr(target, name, value.tolist() if is_list else value)
    if derive := getattr(target, "derive", None):
        derive()


# What is saved of a dataclass: names of fields, those of long lists of numbers, and what reads all of them.
_Plan = tuple[tuple[str, ...], tuple[str, ...], Callable[[Any], tuple[Any, ...]]]
_plans: dict[type[Any], _Plan] = {}


def _plan(kind: type[Any]) -> _Plan:
    found = _plans.get(kind)
    if found is None:
        fields = [each for each in dataclasses.fields(kind) if each.metadata.get("saved", True)]
        names = tuple(each.name for each in fields)
        # `attrgetter` gives a tuple for two names or more; for fewer the values are taken one by one.
        read = attrgetter(*names) if len(names) > 1 else lambda value: tuple(getattr(value, name) for name in names)
        found = _plans[kind] = names, tuple(each.name for each in fields if each.metadata.get("numbers")), read
    return found


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
