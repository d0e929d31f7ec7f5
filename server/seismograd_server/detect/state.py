"""Detector state to bytes and back: dataclasses of plain values and arrays, as compressed JSON with a version.

No pickle: what a database holds may never run code. The same state gives the same bytes, so that checkpoints can be
compared.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import zlib
from collections.abc import Mapping
from typing import Any, Final, cast

import numpy as np

_MAGIC = b"SGW1"
# The level changes nothing but size and time: for these arrays 1 is nearly as small as 9 and several times faster.
_COMPRESSION_LEVEL = 1

# Metadata of a field that is no state: because it comes from the configuration, so that a change of it must take effect
# at once, or because it is empty whenever a state is saved.
SETTING: Final = {"saved": False}


class StateError(ValueError):
    """The bytes are not a state that this program can read."""


def pack(document: Mapping[str, Any]) -> bytes:
    """Write a tree of plain values, lists, mappings, dataclasses and arrays as bytes."""
    # A state is hundreds of plain numbers: those the encoder writes by itself, and asks only about what it cannot hold.
    text = json.dumps(document, separators=(",", ":"), default=_plain)
    return _MAGIC + zlib.compress(text.encode(), _COMPRESSION_LEVEL)


def unpack(data: bytes) -> dict[str, Any]:
    """Read what `pack` wrote; arrays come back as arrays, dataclasses and mappings as dictionaries.

    Raises:
        StateError: the bytes are damaged or of another format.
    """
    if data[: len(_MAGIC)] != _MAGIC:
        raise StateError("detector state: unknown format; start the detectors afresh")
    try:
        document = json.loads(zlib.decompress(data[len(_MAGIC) :]))
        return cast("dict[str, Any]", _revive(document))
    except (zlib.error, ValueError, TypeError, KeyError) as error:
        raise StateError(f"detector state: damaged ({error}); start the detectors afresh") from error


def _plain(value: Any) -> Any:
    """Turn an array, a number of numpy or a dataclass into what JSON can hold, one level deep.

    Raises:
        TypeError: it is none of them.
    """
    if isinstance(value, np.ndarray):
        raw = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {"__array__": value.dtype.str, "shape": list(value.shape), "data": raw}
    if isinstance(value, np.generic):
        return value.item()
    return {each.name: getattr(value, each.name) for each in dataclasses.fields(value) if _is_saved(each)}


def fill(target: Any, saved: Mapping[str, Any]) -> None:
    """Give a freshly made dataclass the values that `pack` took from another one of its class.

    Fields that the saved state does not have keep their fresh value, so that a newer program reads an older state.
    Lists stay lists; a field that holds a dataclass is filled in place.
    """
    for each in dataclasses.fields(target):
        if each.name not in saved or not _is_saved(each):
            continue
        current = getattr(target, each.name)
        if dataclasses.is_dataclass(current) and not isinstance(current, type):
            fill(current, saved[each.name])
        else:
            setattr(target, each.name, saved[each.name])


def _is_saved(field: dataclasses.Field[Any]) -> bool:
    return bool(field.metadata.get("saved", True))


def _revive(value: Any) -> Any:
    if isinstance(value, list):
        return [_revive(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "__array__" in value:
        flat = np.frombuffer(base64.b64decode(value["data"]), dtype=np.dtype(value["__array__"]))
        return flat.reshape(value["shape"]).copy()  # a buffer's view could not be written to
    return {key: _revive(item) for key, item in value.items()}
