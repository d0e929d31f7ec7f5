"""A Summary to the bytes of a row and back: every column compressed by itself, minima and maxima to the bit. Pure."""

from __future__ import annotations

import json
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from pcodec import ChunkConfig, standalone

from seismograd_server.model import Summary
from seismograd_server.store.columns import Column, pack, unpack

# Ids of columns: they are on disk, never reuse one.
_SIZE = 1  # three numbers: steps a bucket, columns, tallies
_NAMES = 2  # JSON, deflated
_WHOLE = {3: "buckets", 4: "first_steps", 5: "last_steps", 6: "steps", 7: "known", 8: "nonfinite", 9: "tallies"}
_NUMBERS = {16: "minimum", 17: "maximum", 18: "mean"}
# A mean is drawn, never compared: 12 bits of mantissa (a step of 1/8192) halve what it costs.
_MEAN_BITS = {np.dtype(np.float32): (np.uint32, 23 - 12), np.dtype(np.float64): (np.uint64, 52 - 12)}


def encode_summary(summary: Summary) -> bytes:
    """Serialise a summary that has at least one bucket; its mean is rounded to 12 bits of mantissa."""
    width, tallies = len(summary.names), summary.tallies.shape[1]
    columns: list[tuple[int, Column]] = [
        (_SIZE, np.array([summary.size, width, tallies], np.int64)),
        (_NAMES, np.frombuffer(zlib.compress(json.dumps(summary.names).encode("ascii")), np.uint8)),
    ]
    for identifier, name in _WHOLE.items():
        columns.append((identifier, _compressed(getattr(summary, name))))
    for identifier, name in _NUMBERS.items():
        values = getattr(summary, name)
        columns.append((identifier, _compressed(_rounded(values) if name == "mean" else values)))
    return pack(columns)


def decode_summary(data: bytes) -> Summary:
    """What `encode_summary` kept.

    Raises:
        ValueError: the bytes are damaged.
    """
    columns = unpack(data)
    try:
        size, width, tallies = columns[_SIZE].tolist()
        names = tuple(json.loads(zlib.decompress(columns[_NAMES].tobytes())))
        found: dict[str, Any] = {name: _plain(columns[each]) for each, name in (_WHOLE | _NUMBERS).items()}
        count = len(found["buckets"])
        widths = {"tallies": tallies} | dict.fromkeys(("known", "nonfinite", *_NUMBERS.values()), width)
        for name, columns_of in widths.items():
            found[name] = found[name].reshape(columns_of, count).T
        return Summary(size=size, names=names, **found)
    except KeyError as error:
        raise ValueError(f"stored summary lacks column {error}") from error
    except (RuntimeError, TypeError, zlib.error) as error:
        raise ValueError(f"stored summary is damaged: {error}") from error


def _compressed(values: npt.NDArray[Any]) -> Column:
    """A column of the table behind the other: neighbours in time are alike, neighbours in the model are not."""
    flat = np.ascontiguousarray(values.T).reshape(-1)
    return np.frombuffer(standalone.simple_compress(flat, ChunkConfig()), np.uint8)


def _plain(column: Column) -> npt.NDArray[Any]:
    values = standalone.simple_decompress(column.tobytes())
    return np.empty(0, np.int64) if values is None else values  # layers have no tallies


def _rounded(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """To the nearest number of 12 bits of mantissa; what is not finite stays what it is."""
    kind, dropped = _MEAN_BITS[values.dtype]
    bits = np.ascontiguousarray(values).view(kind)
    rounded = ((bits + kind(1 << (dropped - 1))) >> kind(dropped) << kind(dropped)).view(values.dtype)
    return np.where(np.isfinite(values) & np.isfinite(rounded), rounded, values)
